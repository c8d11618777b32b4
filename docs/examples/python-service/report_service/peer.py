"""The peer of a connection."""

import _ssl
import ssl
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .spiffe import is_workload, operator
from .strict import sha256


@dataclass(frozen=True, slots=True)
class Peer:
    """The holder of a verified client certificate."""

    spiffe_id: str
    fingerprint: str
    not_after: float
    # The fingerprint of its root.
    root: str
    # See `keys_above`.
    issuers: frozenset[str] | None


def uris(certificate: x509.Certificate) -> list[str]:
    """The URIs among a certificate's names."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def dns_names(certificate: x509.Certificate) -> list[str]:
    """The DNS names among a certificate's names."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.DNSName)


def check_key_usage(leaf: x509.Certificate) -> None:
    """The keyUsage of a leaf, where it has one (X509-SVID, section 4.3). OpenSSL checks that of the CAs above it."""
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if usage.key_cert_sign or usage.crl_sign or not usage.digital_signature:
        raise ValueError("keyUsage of the leaf must have digitalSignature, and neither keyCertSign nor cRLSign")


def peer_of(tls: ssl.SSLSocket, own: str) -> Peer | None:
    """The verified peer of a connection: the one URI of its leaf, a SPIFFE id of the own trust domain. None without a
    certificate; ssl.SSLCertVerificationError for one without such an identity."""
    der = tls.getpeercert(binary_form=True)
    if der is None:
        return None
    leaf = x509.load_der_x509_certificate(der)
    names = uris(leaf)
    is_ours = len(names) == 1 and names[0].startswith("/".join(own.split("/")[:3]) + "/")
    if not is_ours or not (is_workload(names[0]) or names[0] == operator(own)):
        raise ssl.SSLCertVerificationError("the client certificate carries no identity of this trust domain")
    verified = _verified_chain(tls)
    issuers = keys_above(_presented_chain(tls), verified)
    return Peer(names[0], sha256(der), leaf.not_valid_after_utc.timestamp(), sha256(verified[-1]), issuers)


def refuses(tls: ssl.SSLSocket, denied: frozenset[str]) -> bool:
    """True if a key of `denylist.json`'s `issuers` is above the leaf of a connection's peer."""
    return bool(denied) and is_denied(keys_above(_presented_chain(tls), _verified_chain(tls)), denied)


def keys_above(presented: list[bytes], verified: list[bytes]) -> frozenset[str] | None:
    """SHA-256 of the public keys (SubjectPublicKeyInfo) above the leaf: of every certificate that was presented, whether
    the path needs it or not, and of those on the verified path up to the root. None if one of them cannot be read."""
    try:
        return frozenset(sha256(_public_key(der)) for der in {*presented[1:], *verified[1:]})
    except (ValueError, UnsupportedAlgorithm):
        return None


def is_denied(keys: frozenset[str] | None, denied: frozenset[str]) -> bool:
    """True if one of the keys above a leaf is denied. An unreadable certificate may have such a key."""
    return bool(denied) and (keys is None or not denied.isdisjoint(keys))


def _public_key(der: bytes) -> bytes:
    key = x509.load_der_x509_certificate(der).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _presented_chain(tls: ssl.SSLSocket) -> list[bytes]:
    if hasattr(tls, "get_unverified_chain"):
        return list(tls.get_unverified_chain())
    chain: Any = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
    return [certificate.public_bytes(_ssl.ENCODING_DER) for certificate in chain]


def _verified_chain(tls: ssl.SSLSocket) -> list[bytes]:
    # Python 3.13 has a public function; before, it is in the module below.
    if hasattr(tls, "get_verified_chain"):
        return list(tls.get_verified_chain())
    chain: Any = tls._sslobj.get_verified_chain()  # type: ignore[attr-defined]
    return [certificate.public_bytes(_ssl.ENCODING_DER) for certificate in chain]
