"""Who is at the other end of a connection."""

import _ssl
import ssl
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from .spiffe import is_workload, operator
from .strict import sha256


@dataclass(frozen=True, slots=True)
class Peer:
    """The holder of a client certificate that was verified."""

    spiffe_id: str
    fingerprint: str
    not_after: float
    # The fingerprint of the root that its chain ended at.
    root: str


def uris(certificate: x509.Certificate) -> list[str]:
    """The URIs among a certificate's names."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def peer_of(tls: ssl.SSLSocket, own: str) -> Peer | None:
    """The verified peer of a connection: the one URI of its leaf, a SPIFFE id of the own trust domain. None without a
    certificate; ssl.SSLCertVerificationError for one that names nobody."""
    der = tls.getpeercert(binary_form=True)
    if der is None:
        return None
    leaf = x509.load_der_x509_certificate(der)
    names = uris(leaf)
    is_ours = len(names) == 1 and names[0].startswith("/".join(own.split("/")[:3]) + "/")
    if not is_ours or not (is_workload(names[0]) or names[0] == operator(own)):
        raise ssl.SSLCertVerificationError("the client certificate carries no identity of this trust domain")
    return Peer(names[0], sha256(der), leaf.not_valid_after_utc.timestamp(), sha256(_verified_chain(tls)[-1]))


def _verified_chain(tls: ssl.SSLSocket) -> list[bytes]:
    # Python 3.13 has it in public; before, it is in the module below.
    if hasattr(tls, "get_verified_chain"):
        return list(tls.get_verified_chain())
    chain: Any = tls._sslobj.get_verified_chain()  # type: ignore[attr-defined]
    return [certificate.public_bytes(_ssl.ENCODING_DER) for certificate in chain]
