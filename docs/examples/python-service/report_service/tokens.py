"""Service tokens and delegated tokens, verified by the rules of Gaia's own services: cheap and fail-closed checks first.

PyJWT reads keys and verifies signatures. The rules are here: a JWT library accepts more than a platform should.
"""

import base64
import re
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from .peer import Peer
from .refusal import Refused
from .spiffe import delegated_subject, is_workload, user_issuer
from .strict import SCHEMA_VERSION, NameRepeated, Object, base64url, json_object


@dataclass(frozen=True, slots=True)
class Denylist:
    """The revoked certificates, keys, tokens and subjects."""

    leaves: frozenset[str] = frozenset()
    kids: frozenset[str] = frozenset()
    jtis: frozenset[str] = frozenset()
    subjects: tuple[tuple[str, float], ...] = ()
    issuers: frozenset[str] = frozenset()

    def is_subject_revoked(self, sub: str, issued: float) -> bool:
        """True if a token about `sub` with that time of issue is refused."""
        return any(denied == sub and issued < not_before for denied, not_before in self.subjects)

    def is_holder_revoked(self, holder: str, now: float) -> bool:
        """True if the owner of a key is refused: a listed user always, any other owner until the listed time."""
        is_listed = any(denied == holder for denied, _ in self.subjects)
        return is_listed if user_issuer(holder) is not None else self.is_subject_revoked(holder, now)


@dataclass(frozen=True, slots=True)
class Rules:
    """The requirements for a token at this service."""

    keys: dict[str, jwt.PyJWK]
    issuer: str
    own: str
    broad_audience: str
    max_ttl_seconds: int
    denied: Denylist


@dataclass(frozen=True, slots=True)
class Token:
    """A token that passed every check."""

    caller: str
    on_behalf_of: str | None
    scopes: frozenset[str] | None
    is_broad: bool


def key_set(data: bytes) -> dict[str, jwt.PyJWK]:
    """Parses `jwks.json`: a map from kid to a key that is bound to one algorithm. One invalid key refuses the set."""
    document = json_object(data)
    if document.get("schemaVersion", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise ValueError(f"jwks.json has schemaVersion {document['schemaVersion']}, this program reads {SCHEMA_VERSION}")
    jwks = document.get("keys")
    if not isinstance(jwks, list) or not 1 <= len(jwks) <= 32:
        raise ValueError("jwks.json must hold 1 to 32 keys")
    keys: dict[str, jwt.PyJWK] = {}
    for jwk in jwks:
        kid, key = _key(jwk)
        if kid in keys:
            raise ValueError(f"jwks.json: kid {kid!r} is not unique")
        keys[kid] = key
    return keys


def verify(text: str, rules: Rules, peer: Peer | None, now: float) -> Token:
    """Verifies a token presented by `peer`; Refused names the first failed rule."""
    kid, algorithm, typ, signed, payload, signature = _parts(text)
    if kid in rules.denied.kids:
        raise Refused("kid_revoked")
    key = rules.keys.get(kid)
    if key is None:
        raise Refused("kid_unknown")
    # The key decides the algorithm; the header must only agree.
    if key.algorithm_name != algorithm:
        raise Refused("algorithm_wrong")
    if typ != "at+jwt":
        raise Refused("type_wrong")
    # Signature first, then the claims, from the signed bytes.
    if not key.Algorithm.verify(signed, key.key, signature):
        raise Refused("signature_wrong")
    try:
        claims = json_object(payload)
    except NameRepeated as error:
        raise Refused("claim_repeated") from error
    except ValueError as error:
        raise Refused("claims_not_json") from error
    return _judge(claims, rules, peer, now)


def _parts(text: str) -> tuple[str, str, Any, bytes, bytes, bytes]:
    if len(text) > MAX_TOKEN_BYTES:
        raise Refused("credential_too_long")
    parts = text.split(".")
    # A token without a signature has an empty one: its algorithm is refused, not its shape.
    if len(parts) != 3 or not all(parts[:2]):
        raise Refused("token_shape")
    if len(parts[0]) > MAX_HEADER_BYTES:
        raise Refused("token_header_too_long")
    try:
        head, payload, signature = (base64url(part) for part in parts)
    except ValueError as error:
        raise Refused("token_alphabet") from error
    try:
        header = json_object(head)
    except NameRepeated as error:
        raise Refused("header_name_repeated") from error
    except ValueError as error:
        raise Refused("header_not_json") from error
    # A closed set: `crit`, `jku`, `x5u`, `x5c`, `jwk`, `zip`, `b64` and future parameters are outside of it.
    if not header.keys() <= {"alg", "kid", "typ", "cty"} or not all(isinstance(value, str) for value in header.values()):
        raise Refused("header_field_refused")
    if "jwt" in header.get("cty", "").lower():
        raise Refused("header_field_refused")
    kid = header.get("kid", "")
    if not 1 <= len(kid.encode()) <= 128:
        raise Refused("kid_missing")
    signed = f"{parts[0]}.{parts[1]}".encode()
    return kid, header.get("alg", ""), header.get("typ"), signed, payload, signature


def _judge(claims: Object, rules: Rules, peer: Peer | None, now: float) -> Token:
    sub, caller = claims.get("sub"), claims.get("client_id")
    if not isinstance(sub, str) or not isinstance(caller, str) or not is_workload(caller):
        raise Refused("subject_wrong")
    on_behalf_of = None
    if "act" in claims:
        if claims["act"] != {"sub": caller}:
            raise Refused("actor_wrong")
        if not delegated_subject(sub, caller, rules.own):
            raise Refused("subject_wrong")
        on_behalf_of = sub
    elif sub != caller:
        raise Refused("subject_wrong")
    if claims.get("iss") != rules.issuer:
        raise Refused("issuer_wrong")
    scopes = _scopes(claims)
    # One string: this service, or, for a token without scope and subject, the audience of the dual phases.
    is_broad = claims.get("aud") != rules.own
    if is_broad and (claims.get("aud") != rules.broad_audience or scopes is not None or on_behalf_of is not None):
        raise Refused("audience_wrong")
    issued = _check_times(claims, rules.max_ttl_seconds if on_behalf_of is None else min(rules.max_ttl_seconds, 300), now)
    jti = claims.get("jti")
    if not isinstance(jti, str) or not 1 <= len(jti.encode()) <= 128:
        raise Refused("jti_missing")
    # A stolen token is useless without the certificate that it is bound to.
    if peer is None:
        raise Refused("peer_missing")
    if peer.spiffe_id != caller:
        raise Refused("peer_differs")
    if "cnf" in claims and claims["cnf"] != {"x5t#S256": _thumbprint(peer)}:
        raise Refused("confirmation_differs")
    if jti in rules.denied.jtis:
        raise Refused("jti_revoked")
    if rules.denied.is_subject_revoked(caller, issued) or rules.denied.is_subject_revoked(sub, issued):
        raise Refused("subject_revoked")
    return Token(caller, on_behalf_of, scopes, is_broad)


def _thumbprint(peer: Peer) -> str:
    return base64.urlsafe_b64encode(bytes.fromhex(peer.fingerprint)).rstrip(b"=").decode()


def _check_times(claims: Object, max_ttl_seconds: int, now: float) -> int:
    def seconds(name: str) -> int:
        value = claims.get(name)
        # `True` is an int in Python.
        if type(value) is not int or not 0 <= value <= MAX_SECONDS:
            raise Refused("times_missing")
        return value

    issued, expires = seconds("iat"), seconds("exp")
    not_before = seconds("nbf") if "nbf" in claims else 0
    if not 0 < expires - issued <= max_ttl_seconds:
        raise Refused("life_too_long")
    if int(now) >= expires + MAX_CLOCK_SKEW_SECONDS:
        raise Refused("expired")
    if issued > int(now) + MAX_CLOCK_SKEW_SECONDS:
        raise Refused("issued_in_future")
    if not_before > int(now) + MAX_CLOCK_SKEW_SECONDS:
        raise Refused("not_yet_valid")
    return issued


def _scopes(claims: Object) -> frozenset[str] | None:
    if "scope" not in claims:
        return None
    scope = claims["scope"]
    scopes = scope.split(" ") if isinstance(scope, str) else [""]
    # RFC 6749, section 3.3.
    if not all(_SCOPE.fullmatch(one) for one in scopes) or len(scopes) > 64:
        raise Refused("scope_malformed")
    return frozenset(scopes)


def _key(jwk: Any) -> tuple[str, jwt.PyJWK]:
    if not isinstance(jwk, dict) or not isinstance(jwk.get("kid"), str) or not 1 <= len(jwk["kid"].encode()) <= 128:
        raise ValueError("jwks.json: a key has no kid of 1 to 128 bytes")
    kid = jwk["kid"]
    if jwk.keys() & {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}:
        raise ValueError(f"jwks.json: {kid!r} holds private members")
    if jwk.get("use", "sig") != "sig" or jwk.get("key_ops", ["verify"]) != ["verify"]:
        raise ValueError(f"jwks.json: {kid!r} is not for verifying signatures")
    kind = (jwk.get("kty"), jwk.get("alg"), jwk.get("crv"))
    if kind not in (("RSA", "RS256", None), ("EC", "ES256", "P-256")):
        raise ValueError(f"jwks.json: {kid!r} must be RSA with RS256 or EC P-256 with ES256")
    try:
        key = jwt.PyJWK(jwk, algorithm=jwk["alg"])
    except jwt.PyJWTError as error:
        raise ValueError(f"jwks.json: {kid!r}: {error}") from error
    if isinstance(key.key, rsa.RSAPublicKey):
        exponent = key.key.public_numbers().e
        if not 2048 <= key.key.key_size <= 4096 or exponent < 65537 or exponent % 2 == 0:
            raise ValueError(f"jwks.json: {kid!r} must have 2048 to 4096 bits and an odd exponent from 65537 on")
        if _is_vulnerable(key.key.public_numbers().n):
            raise ValueError(f"jwks.json: {kid!r} is of a vulnerable generator (CVE-2017-15361, ROCA)")
    return kid, key


def _is_vulnerable(modulus: int) -> bool:
    """True if a modulus is a power of 65537 modulo each of these primes: the fingerprint of ROCA."""
    return all(modulus % prime in {pow(65537, power, prime) for power in range(prime)} for prime in _ROCA_PRIMES)


_ROCA_PRIMES = (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)
MAX_TOKEN_BYTES = 8 * 1024
MAX_HEADER_BYTES = 1024
MAX_CLOCK_SKEW_SECONDS = 60
# The end of the year 9999.
MAX_SECONDS = 253_402_300_799
_SCOPE = re.compile(r"[!#-\[\]-~]{1,128}")
