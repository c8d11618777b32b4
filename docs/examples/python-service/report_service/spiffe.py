"""Identities of workloads and of subjects."""

import re


def is_workload(text: str) -> bool:
    """True for `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`."""
    return len(text) <= 2048 and _WORKLOAD.fullmatch(text) is not None


def trust_domain(spiffe_id: str) -> str:
    """The trust domain of an id."""
    return spiffe_id.split("/")[2]


def operator(spiffe_id: str) -> str:
    """The id of the operator in the trust domain of that id."""
    return f"spiffe://{trust_domain(spiffe_id)}/gaia/operator"


def delegated_subject(text: str, caller: str, own: str) -> bool:
    """True for `user:<issuer>:<sub>`, `key:<id>`, or another workload of the caller's trust domain than caller and target."""
    if is_workload(text):
        return text not in (caller, own) and trust_domain(text) == trust_domain(caller)
    return _DELEGATED.fullmatch(text) is not None


def user_issuer(text: str) -> str | None:
    """The issuer of `user:<issuer>:<sub>`; none: it is no user."""
    return text.split(":")[1] if text.startswith("user:") and _DELEGATED.fullmatch(text) else None


_LABEL = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_NAME = rf"{_LABEL}(\.{_LABEL})*"
_WORKLOAD = re.compile(rf"spiffe://{_NAME}/ns/{_NAME}/sa/{_NAME}")
_DELEGATED = re.compile(r"(user:[a-z0-9-]{1,63}|key):[!-~]{1,255}")
