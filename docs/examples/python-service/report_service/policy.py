"""`policy.json`, `denylist.json` and `api-keys.json`. Unknown fields are ignored, as the schemas require."""

import re
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from .spiffe import is_workload, user_issuer
from .strict import Object, sha256, timestamp, versioned
from .tokens import Denylist

# From lax to strict: a key's own mode may be stricter than its service's.
MODES = ("APIKeyOnly", "Dual", "JWTOnly")


@dataclass(frozen=True, slots=True)
class Caller:
    """One declared caller. No scopes: all of them."""

    scopes: frozenset[str]
    on_behalf_of: bool


@dataclass(frozen=True, slots=True)
class Policy:
    """The requirements of this service for its callers."""

    namespace: str
    name: str
    spiffe_id: str
    is_permissive: bool
    mode: str
    issuer: str
    broad_audience: str
    max_ttl_seconds: int
    callers: dict[str, Caller]
    # The scopes of users; none: all.
    user_scopes: frozenset[str]
    # The short names of the issuers of user tokens.
    issuers: frozenset[str]
    brownouts: tuple[tuple[float, float], ...]
    notice: dict[str, str]
    # SPIFFE IDs by namespace and name, of services whose ID is not the default; None: an older operator lists none.
    targets: dict[tuple[str, str], str] | None
    token_issuer: tuple[str, str] | None
    hash: str

    def end_of_brownout(self, now: float) -> float | None:
        """The end of the brownout in which keys are refused; none: they are not."""
        return max((end for start, end in self.brownouts if start <= now < end), default=None)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One record of `api-keys.json`."""

    id: str
    sha256: str
    principal: str
    scopes: frozenset[str]
    expires: float | None
    is_active: bool
    mode: str
    shared: bool

    @property
    def holder(self) -> str:
        """The workload or user that owns it, else the key itself: a free name cannot equal another identity."""
        is_owned = is_workload(self.principal) or user_issuer(self.principal) is not None
        return self.principal if is_owned and not self.shared else f"key:{self.id}"


def policy(data: bytes, service_name: str) -> Policy:
    """Parses `policy.json`; accepted if it is for this service."""
    document = versioned(data, "policy.json")
    service, tokens = document["service"], document["tokens"]
    if service["name"] != service_name:
        raise ValueError(f"policy.json is for service {service['name']!r}, this is {service_name!r}")
    if document["tlsMode"] not in ("Permissive", "Strict"):
        raise ValueError(f"policy.json: tlsMode {document['tlsMode']!r}")
    callers = {
        _spiffe_id(caller["spiffeId"]): Caller(_texts(caller.get("scopes", [])), caller.get("onBehalfOf", False) is True)
        for caller in document["callers"]
    }
    keys = document.get("apiKeys", {})
    return Policy(
        namespace=service["namespace"],
        name=service["name"],
        spiffe_id=_spiffe_id(service["spiffeId"]),
        is_permissive=document["tlsMode"] == "Permissive",
        mode=_mode(document["mode"]),
        issuer=tokens["issuer"],
        broad_audience=tokens["audience"],
        max_ttl_seconds=int(tokens["maxTtlSeconds"]),
        callers=callers,
        issuers=frozenset(issuer["name"] for issuer in document.get("userTokens", {}).get("issuers", [])),
        user_scopes=_texts(document.get("userTokens", {}).get("scopes", [])),
        brownouts=tuple((timestamp(one["start"]), timestamp(one["end"])) for one in keys.get("brownouts", [])),
        notice=_notice(keys.get("deprecation")),
        targets=_targets(document),
        token_issuer=_names(document["tokenIssuer"]) if document.get("tokenIssuer") else None,
        hash=sha256(data),
    )


def _targets(document: Object) -> dict[tuple[str, str], str] | None:
    listed = document.get("targets")
    if listed is None:
        return None
    issuer = [document["tokenIssuer"]] if document.get("tokenIssuer") else []
    # The first entry for a name decides.
    return {_names(one): _spiffe_id(one["spiffeId"]) for one in reversed([*listed, *issuer])}


def _names(service: Object) -> tuple[str, str]:
    if not isinstance(service["namespace"], str) or not isinstance(service["name"], str):
        raise ValueError("policy.json: the name of a service is no text")
    return service["namespace"], service["name"]


def denylist(data: bytes) -> Denylist:
    """Parses `denylist.json`."""
    document = versioned(data, "denylist.json")
    return Denylist(
        leaves=frozenset(leaf.lower() for leaf in document["leaves"]),
        kids=_texts(document["kids"]),
        jtis=_texts(document["jtis"]),
        subjects=tuple((denied["sub"], timestamp(denied["notBefore"])) for denied in document["subjects"]),
        # Left out where there are none.
        issuers=frozenset(key.lower() for key in document.get("issuers", [])),
    )


def api_keys(data: bytes | None) -> tuple[ApiKey, ...]:
    """Parses `api-keys.json`. Without the file there are no keys: removing the Secret removes the keys."""
    if data is None:
        return ()
    records = tuple(_api_key(record) for record in versioned(data, "api-keys.json")["keys"])
    if len({record.id for record in records}) < len(records) or len({record.sha256 for record in records}) < len(records):
        raise ValueError("api-keys.json: an id or a sha256 occurs twice")
    return records


def _api_key(record: Object) -> ApiKey:
    if not re.fullmatch("[!-~]{1,128}", record["id"]) or not re.fullmatch("[0-9a-f]{64}", record["sha256"]):
        raise ValueError(f"api-keys.json: record {record['id']!r} needs a printable id and a lower-case hex sha256")
    if record["state"] not in ("active", "revoked"):
        raise ValueError(f"api-keys.json: record {record['id']!r}: state {record['state']!r}")
    return ApiKey(
        id=record["id"],
        sha256=record["sha256"],
        principal=record["principal"],
        scopes=_texts(record.get("scopes", [])),
        expires=timestamp(record["expires"]) if record.get("expires") else None,
        is_active=record["state"] == "active",
        mode=_mode(record.get("mode") or MODES[0]),
        shared=record.get("shared", False) is True,
    )


def _notice(deprecation: Object | None) -> dict[str, str]:
    """Deprecation headers for users of keys: RFC 9745, RFC 8594 and a link to the guide."""
    if deprecation is None:
        return {}
    headers = {"Deprecation": f"@{int(timestamp(deprecation['since']))}"}
    if deprecation.get("sunset"):
        headers["Sunset"] = formatdate(timestamp(deprecation["sunset"]), usegmt=True)
    if str(deprecation.get("guide") or "").isprintable() and deprecation.get("guide"):
        headers["Link"] = f'<{deprecation["guide"]}>; rel="deprecation"'
    return headers


def _mode(text: Any) -> str:
    if text not in MODES:
        raise ValueError(f"mode {text!r} is none of {MODES}")
    return str(text)


def _spiffe_id(text: Any) -> str:
    if not isinstance(text, str) or not is_workload(text):
        raise ValueError(f"{text!r} is no SPIFFE id of a workload")
    return text


def _texts(values: Any) -> frozenset[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("a list of texts is something else")
    return frozenset(values)
