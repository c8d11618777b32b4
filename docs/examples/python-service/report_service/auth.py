"""Authentication: from the credentials of a request to one principal, or one refusal."""

import hmac
from dataclasses import dataclass
from email.message import Message

from .mount import Generation
from .peer import Peer
from .policy import MODES, ApiKey
from .refusal import Refused
from .spiffe import is_workload, operator, user_issuer
from .strict import sha256
from .tokens import Rules, verify


@dataclass(frozen=True, slots=True)
class Principal:
    """The principal: the subject, the actor, and the scopes (none: all)."""

    subject: str
    actor: str
    scopes: frozenset[str] | None
    credential: str

    def require(self, scopes: tuple[str, ...]) -> None:
        """Refused unless the principal has all of these scopes."""
        if self.scopes is not None and not self.scopes.issuperset(scopes):
            raise Refused("scope_missing")


@dataclass(frozen=True, slots=True)
class Presented:
    """The credentials of a request, by their shape alone. Query, cookies and body are not read."""

    token: str | None
    api_key: ApiKey | None
    has_key: bool
    # The error of a malformed Authorization header, if there is a key too: the mode decides whether it matters.
    unusable: Refused | None = None


def presented(headers: Message, generation: Generation) -> Presented:
    """Extracts the credentials. Two of one kind are refused: two programs could select different ones."""
    key = _single(headers, "X-API-Key")
    try:
        bearer, unusable = _bearer(_single(headers, "Authorization")), None
    except Refused as refused:
        if key is None:
            raise
        bearer, unusable = None, refused
    token = bearer if bearer is not None and bearer.count(".") >= 2 else None
    if bearer is not None and token is None:
        if key is not None:
            raise Refused("api_key_repeated")
        key = bearer
    if key is not None and len(key) > MAX_KEY_BYTES:
        raise Refused("credential_too_long")
    if key is not None and not key.strip():
        raise Refused("credential_empty")
    return Presented(token, None if key is None else _recognise(key, generation.api_keys), key is not None, unusable)


def authenticate(shown: Presented, peer: Peer | None, generation: Generation, now: float) -> Principal:
    """Decides by the stricter of the service's mode and the key's own.

    APIKeyOnly: the key decides, whatever the token is. Dual: both are accepted; a bad token is never made good by a key.
    JWTOnly: the token decides.
    """
    check_peer(peer, generation, now)
    mode = effective_mode(shown, generation)
    if mode == "APIKeyOnly" or (shown.token is None and shown.unusable is None):
        return _by_key(shown, peer, generation, mode, now)
    try:
        if shown.unusable is not None:
            raise shown.unusable
        principal = _by_token(shown.token or "", peer, generation, mode, now)
    except Refused as refused:
        # Alone it makes the request malformed; with a key it is an invalid token, which the key does not replace.
        if shown.has_key and refused.status == 400:
            raise Refused("token_unreadable") from refused
        raise
    key = shown.api_key
    if mode == "Dual" and key is not None and not key.shared and _fault(key, generation, now) is None:
        # With a key of another owner, the request has two subjects.
        if key.holder not in (principal.subject, principal.actor):
            raise Refused("credentials_conflict")
    return principal


def effective_mode(shown: Presented, generation: Generation) -> str:
    """The mode that applies to a request."""
    own = MODES[0] if shown.api_key is None else shown.api_key.mode
    return max(generation.policy.mode, own, key=MODES.index)


def check_peer(peer: Peer | None, generation: Generation, now: float) -> None:
    """Refuses a revoked peer, and the operator, which calls no service."""
    if peer is None and not generation.policy.is_permissive:
        # The connection began while no certificate was required.
        raise Refused("peer_missing")
    if peer is not None and now > peer.not_after:
        raise Refused("peer_expired")
    if peer is not None and not generation.is_valid(peer, now):
        raise Refused("peer_revoked")
    if peer is not None and peer.spiffe_id == operator(generation.policy.spiffe_id):
        raise Refused("peer_not_a_workload")


def _by_token(token: str, peer: Peer | None, generation: Generation, mode: str, now: float) -> Principal:
    if generation.keys is None:
        raise Refused("keys_not_loaded")
    policy = generation.policy
    rules = Rules(
        keys=generation.keys,
        issuer=policy.issuer,
        own=policy.spiffe_id,
        broad_audience=policy.broad_audience,
        max_ttl_seconds=policy.max_ttl_seconds,
        denied=generation.denied,
    )
    read = verify(token, rules, peer, now)
    if read.is_broad and mode == "JWTOnly":
        raise Refused("audience_wrong")
    declared = policy.callers.get(read.caller)
    if declared is None and mode == "JWTOnly":
        raise Refused("caller_not_declared")
    if read.on_behalf_of is not None and (declared is None or not declared.on_behalf_of):
        raise Refused("delegation_not_allowed")
    scopes = read.scopes
    if declared is not None:
        scopes = _both(scopes, declared.scopes)
    if read.on_behalf_of is not None and user_issuer(read.on_behalf_of) is not None:
        # The scopes of users limit a user, whoever the caller is.
        scopes = _both(scopes, policy.user_scopes)
    if read.on_behalf_of is not None and is_workload(read.on_behalf_of):
        # A service as subject has no more scopes than for its own calls.
        service = policy.callers.get(read.on_behalf_of)
        if service is None and mode == "JWTOnly":
            raise Refused("caller_not_declared")
        if service is not None:
            scopes = _both(scopes, service.scopes)
    credential = "service_token" if read.on_behalf_of is None else "delegated_token"
    return Principal(read.on_behalf_of or read.caller, read.caller, scopes, credential)


def _both(scopes: frozenset[str] | None, listed: frozenset[str]) -> frozenset[str] | None:
    """The intersection of two lists of scopes. An empty list and None allow everything; an empty intersection is refused."""
    if not listed:
        return scopes
    return listed if scopes is None else scopes & listed


def _by_key(shown: Presented, peer: Peer | None, generation: Generation, mode: str, now: float) -> Principal:
    if not shown.has_key:
        raise Refused("no_credential")
    key = shown.api_key
    if key is None:
        raise Refused("api_key_unknown")
    fault = _fault(key, generation, now)
    if fault is not None:
        raise Refused(fault)
    if mode == "JWTOnly":
        raise Refused("api_keys_not_accepted")
    end = generation.policy.end_of_brownout(now)
    if mode == "Dual" and end is not None:
        raise Refused("api_keys_browned_out", until=end)
    actor = key.holder if peer is None else peer.spiffe_id
    scopes = _both(None, key.scopes)
    if user_issuer(key.holder) is not None:
        scopes = _both(scopes, generation.policy.user_scopes)
    return Principal(key.holder, actor, scopes, "api_key")


def _fault(key: ApiKey, generation: Generation, now: float) -> str | None:
    """The reason why a known key is refused, where keys are accepted."""
    if not key.is_active:
        return "api_key_revoked"
    if key.expires is not None and now >= key.expires:
        return "api_key_expired"
    issuer = user_issuer(key.holder)
    if issuer is not None and issuer not in generation.policy.issuers:
        return "api_key_issuer_unknown"
    return "subject_revoked" if generation.denied.is_holder_revoked(key.holder, now) else None


def _recognise(key: str, records: tuple[ApiKey, ...]) -> ApiKey | None:
    """Compares every record, each in constant time: the duration does not depend on the matching one."""
    presented, found = sha256(key.encode()), None
    for record in records:
        if hmac.compare_digest(record.sha256, presented):
            found = record
    return found


def _single(headers: Message, name: str) -> str | None:
    values = headers.get_all(name) or []
    if len(values) > 1:
        raise Refused("authorization_repeated" if name == "Authorization" else "api_key_repeated")
    if values and not (values[0].isascii() and values[0].isprintable()):
        raise Refused("authorization_not_text")
    return values[0] if values else None


def _bearer(value: str | None) -> str | None:
    if value is None:
        return None
    scheme, _, rest = value.partition(" ")
    if scheme.lower() != "bearer":
        raise Refused("scheme_unknown")
    if not rest.strip():
        raise Refused("credential_empty")
    # One word: other programs could parse a second one.
    if " " in rest:
        raise Refused("token_alphabet")
    return rest


MAX_KEY_BYTES = 1024
