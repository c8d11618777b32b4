"""The identity of the server of a call: derived from the target's name, never from the host in the URL."""

from dataclasses import dataclass

from .policy import Policy
from .spiffe import is_workload, trust_domain


@dataclass(frozen=True, slots=True)
class Expected:
    """The required identity in a target's certificate."""

    target: str
    spiffe_id: str
    namespace: str
    # The DNS name that a leaf with another service account of the namespace must have; None: the SPIFFE ID alone decides.
    dns_name: str | None

    def check(self, uris: list[str], dns_names: list[str]) -> str:
        """`spiffeId` or `dnsName`, the part of the leaf that matches; ValueError if none does."""
        if uris == [self.spiffe_id]:
            return "spiffeId"
        if self.dns_name is not None and self.dns_name in dns_names and len(uris) == 1 and is_workload(uris[0]):
            _, _, domain, _, namespace, _, _ = uris[0].split("/")
            if (domain, namespace) == (trust_domain(self.spiffe_id), self.namespace):
                return "dnsName"
        found = ", ".join(uris)[:512] or "none"
        raise ValueError(f"the server has SPIFFE ID {found}, expected {self.spiffe_id} for target {self.target}")


def expected(policy: Policy, target: str) -> Expected:
    """The identity of a target, `name` or `namespace/name`; a bare name is in the own namespace."""
    namespace, _, name = target.rpartition("/")
    namespace = namespace or policy.namespace
    listed = (policy.targets or {}).get((namespace, name))
    is_lenient = listed is None and (policy.mode != "JWTOnly" or policy.targets is None)
    default = f"spiffe://{trust_domain(policy.spiffe_id)}/ns/{namespace}/sa/{name}"
    return Expected(target, listed or default, namespace, f"{name}.{namespace}.svc" if is_lenient else None)


def token_issuer(policy: Policy) -> str:
    """The target that issues tokens."""
    return "/".join(policy.token_issuer) if policy.token_issuer else "auth-service"
