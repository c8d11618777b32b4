"""The mounted directory: read as a whole, each part validated separately, and the previous one of an invalid part kept.

kubelet writes a new directory and points the link `..data` at it in one rename. Every read goes through the resolved
link, so it never sees half of the old and half of the new. The objects behind the files are fetched one by one, though:
a new leaf can come before the root that it chains to. It is refused until then, and nothing is lost.
"""

import logging
import os
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from .peer import Peer, check_key_usage, dns_names, is_denied, refuses, uris
from .policy import ApiKey, Policy, api_keys, denylist, policy
from .strict import sha256
from .target import Expected, expected
from .tokens import Denylist, key_set

log = logging.getLogger(__name__)
Files = dict[str, bytes]
NOWHERE: Mapping[str, Path] = {}
# Variables of programs that read plain paths, each with an alias.
PATH_VARIABLES = {
    "tls.crt": ("TLS_CERT_PATH", "TLS_CLIENT_CERT_PATH"),
    "tls.key": ("TLS_KEY_PATH", "TLS_CLIENT_KEY_PATH"),
    "ca.crt": ("TLS_CA_PATH", "TLS_CA_CERT_PATH"),
}


def elsewhere(environment: Mapping[str, str]) -> dict[str, Path]:
    """The files that variables name. An empty variable is not set; a variable and its alias must be equal."""
    found: dict[str, Path] = {}
    for name, variables in PATH_VARIABLES.items():
        paths = {environment[variable] for variable in variables if environment.get(variable)}
        if len(paths) > 1:
            raise ValueError(f"{' and '.join(variables)} are set to different paths: set one of them")
        found.update({name: Path(path) for path in paths})
    return found


@dataclass(frozen=True, slots=True)
class Bundle:
    """Every trusted root that has not expired."""

    pem: str
    roots: tuple[x509.Certificate, ...]
    fingerprints: frozenset[str]
    hash: str


@dataclass(frozen=True, slots=True)
class Leaf:
    """The certificate and key of this service."""

    certificate: x509.Certificate
    fingerprint: str
    chain_and_key: bytes = field(repr=False)

    @property
    def not_after(self) -> datetime:
        """Its expiry."""
        return self.certificate.not_valid_after_utc


@dataclass(slots=True)
class Parts:
    """The accepted parts; none: there was no valid one yet."""

    bundle: Bundle | None = None
    policy: Policy | None = None
    keys: dict[str, jwt.PyJWK] | None = None
    denied: Denylist | None = None
    denylist_hash: str | None = None
    api_keys: tuple[ApiKey, ...] = ()
    leaf: Leaf | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """All parts together, created again whenever a part changes: no session of the previous one is resumed."""

    bundle: Bundle
    policy: Policy
    keys: dict[str, jwt.PyJWK] | None
    denied: Denylist
    denylist_hash: str | None
    api_keys: tuple[ApiKey, ...]
    leaf: Leaf
    server: "MeshContext"
    # The TLS side of calls to a target, `name` or `namespace/name`.
    client: Callable[[str], "MeshContext"]

    def is_valid(self, peer: Peer, now: float) -> bool:
        """True if the certificate of a verified peer is still accepted."""
        is_trusted = peer.root in self.bundle.fingerprints and peer.fingerprint not in self.denied.leaves
        is_trusted = is_trusted and not is_denied(peer.issuers, self.denied.issuers)
        return is_trusted and now <= peer.not_after


class MeshSocket(ssl.SSLSocket):
    """Refuses a revoked certificate in the handshake, on both sides."""

    def do_handshake(self, block: bool = False) -> None:
        """The handshake of ssl, and then the additional checks."""
        super().do_handshake(block)
        certificate = self.getpeercert(binary_form=True)
        if certificate is not None and sha256(certificate) in self.context.revoked:  # type: ignore[attr-defined]
            raise ssl.SSLCertVerificationError("the certificate is revoked")
        if certificate is not None and refuses(self, self.context.refused_issuers):  # type: ignore[attr-defined]
            raise ssl.SSLCertVerificationError("a CA above the certificate is distrusted")
        if certificate is not None:
            self._check(x509.load_der_x509_certificate(certificate), self.context.expected)  # type: ignore[attr-defined]

    @staticmethod
    def _check(leaf: x509.Certificate, target: Expected | None) -> None:
        try:
            check_key_usage(leaf)
            if target is not None:
                target.check(uris(leaf), dns_names(leaf))
        except ValueError as error:
            raise ssl.SSLCertVerificationError(str(error)) from error


class MeshContext(ssl.SSLContext):
    """A TLS 1.3 context with the platform's leaf and roots."""

    sslsocket_class = MeshSocket
    revoked: frozenset[str] = frozenset()
    refused_issuers: frozenset[str] = frozenset()
    # For clients: the required identity of the server.
    expected: Expected | None = None


class Mount:
    """Polls the mounted directory."""

    def __init__(
        self, directory: Path, service_name: str, clock: Callable[[], float], elsewhere: Mapping[str, Path] = NOWHERE
    ) -> None:
        self.directory = directory
        # Files with a path of their own. A variable with the usual path changes nothing.
        self.elsewhere = {name: path for name, path in elsewhere.items() if path != directory / name}
        self.service_name = service_name
        self.clock = clock
        # Replaced as a whole, so a reader needs no lock.
        self.generation: Generation | None = None
        self.on_change: Callable[[Generation], None] = lambda _: None
        self._parts = Parts()
        self._files: Files = {}
        self._refused: dict[str, str] = {}

    def run(self, interval: float, stop: threading.Event) -> None:
        """Polls until the service stops."""
        while not stop.wait(interval):
            try:
                self.look()
            except Exception:
                log.exception("looking at the mounted directory failed")

    def look(self) -> None:
        """Loads the valid and changed parts."""
        files = self._read()
        if files is None or (files == self._files and not self._refused):
            return
        before = dict(self._refused)
        self._take(files)
        # A leaf that is not valid yet becomes valid without a change of the files.
        if files == self._files and before == self._refused:
            return
        generation = _generation(self._parts)
        if generation is not None:
            self.generation = generation
            log.info("loaded the mounted files: leaf until %s, keys %s", generation.leaf.not_after, sorted(generation.keys or {}))
            self.on_change(generation)
        # Only now: an incomplete load is repeated at the next poll.
        self._files = files

    def _read(self) -> Files | None:
        """Reads all files of one moment; none if they are being replaced."""
        root = os.path.realpath(self.directory / "..data")
        root = root if os.path.isdir(root) else os.path.realpath(self.directory)
        try:
            paths = {name: self.elsewhere.get(name, Path(root, name)) for name in NAMES}
            files = {name: path.read_bytes() for name, path in paths.items() if path.exists()}
        except OSError:
            return None
        # A directory that was removed in the middle lacks files.
        return files if os.path.isdir(root) else None

    def _take(self, files: Files) -> None:
        parts, now = self._parts, self.clock()
        self._judge("bundle", lambda: setattr(parts, "bundle", _bundle(files, now)))
        self._judge("policy", lambda: setattr(parts, "policy", policy(_required(files, "policy.json"), self.service_name)))
        self._judge("jwks", lambda: setattr(parts, "keys", key_set(_required(files, "jwks.json"))))
        self._judge("denylist", lambda: _take_denylist(parts, files.get("denylist.json")))
        self._judge("api_keys", lambda: setattr(parts, "api_keys", api_keys(files.get("api-keys.json"))))
        self._judge("leaf", lambda: setattr(parts, "leaf", _leaf(files, parts, now)))

    def _judge(self, part: str, take: Callable[[], None]) -> None:
        """Loads one part, or keeps the previous one; a rejection is logged once, not at every poll."""
        try:
            take()
        except (ValueError, KeyError, TypeError, AttributeError, ssl.SSLError, InvalidSignature) as error:
            reason = str(error) or type(error).__name__
            if self._refused.get(part) != reason:
                log.warning("refused the mounted %s, going on with the one before: %s", part, reason)
            self._refused[part] = reason
        else:
            self._refused.pop(part, None)


def _required(files: Files, name: str) -> bytes:
    if name not in files:
        raise ValueError(f"{name} is missing")
    return files[name]


def _take_denylist(parts: Parts, data: bytes | None) -> None:
    if data is not None:
        parts.denied, parts.denylist_hash = denylist(data), sha256(data)
    elif parts.denied is None:
        parts.denied = Denylist()


def _bundle(files: Files, now: float) -> Bundle:
    data = _required(files, "ca.crt")
    certificates = x509.load_pem_x509_certificates(data)
    for certificate in certificates:
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise ValueError("ca.crt holds a certificate of no CA")
    roots = tuple(root for root in certificates if now <= root.not_valid_after_utc.timestamp())
    if not roots:
        raise ValueError("every root in ca.crt has expired")
    pem = "".join(root.public_bytes(Encoding.PEM).decode() for root in roots)
    fingerprints = frozenset(sha256(root.public_bytes(Encoding.DER)) for root in roots)
    return Bundle(pem, roots, fingerprints, sha256(data))


def _leaf(files: Files, parts: Parts, now: float) -> Leaf:
    """Accepted if the key fits, the SPIFFE ID is this service's, it is in date, valid for both sides, and chains to the newest bundle."""
    if parts.bundle is None or parts.policy is None:
        raise ValueError("ca.crt or policy.json is not loaded, so tls.crt cannot be validated")
    chain_and_key = _required(files, "tls.crt") + b"\n" + _required(files, "tls.key")
    _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), chain_and_key)
    chain = x509.load_pem_x509_certificates(files["tls.crt"])
    leaf = chain[0]
    if uris(leaf) != [parts.policy.spiffe_id]:
        raise ValueError(f"its identity is {uris(leaf)}, not {parts.policy.spiffe_id}")
    if not leaf.not_valid_before_utc <= datetime.fromtimestamp(now, UTC) <= leaf.not_valid_after_utc:
        raise ValueError(f"it holds from {leaf.not_valid_before_utc} until {leaf.not_valid_after_utc} only")
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(usages):
        raise ValueError("it is not good for both ends of a connection")
    for one, issuer in zip(chain, chain[1:]):
        one.verify_directly_issued_by(issuer)
    if not any(_is_issued_by(chain[-1], root) for root in parts.bundle.roots):
        raise ValueError("it does not chain to a trusted root")
    return Leaf(leaf, sha256(leaf.public_bytes(Encoding.DER)), chain_and_key)


def _is_issued_by(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _generation(parts: Parts) -> Generation | None:
    if parts.bundle is None or parts.leaf is None or parts.policy is None or parts.denied is None:
        return None

    # Clients are created on demand, from the accepted parts.
    bundle, leaf, made_of, denied = parts.bundle, parts.leaf, parts.policy, parts.denied

    def context(protocol: int) -> MeshContext:
        made = MeshContext(protocol)
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.verify_flags |= ssl.VERIFY_X509_STRICT
        made.load_verify_locations(cadata=bundle.pem)
        made.set_alpn_protocols(["http/1.1"])
        made.revoked = denied.leaves
        made.refused_issuers = denied.issuers
        _load(made, leaf.chain_and_key)
        return made

    def client(target: str) -> MeshContext:
        made = context(ssl.PROTOCOL_TLS_CLIENT)
        made.expected = expected(made_of, target)
        return made

    server = context(ssl.PROTOCOL_TLS_SERVER)
    server.verify_mode = ssl.CERT_OPTIONAL if parts.policy.is_permissive else ssl.CERT_REQUIRED
    # A resumed session would not present its certificate again.
    server.num_tickets = 0
    return Generation(
        parts.bundle,
        parts.policy,
        parts.keys,
        parts.denied,
        parts.denylist_hash,
        parts.api_keys,
        parts.leaf,
        server,
        client,
    )


def _load(context: ssl.SSLContext, chain_and_key: bytes) -> None:
    """ssl reads keys from files only: this one is in memory, with the validated content and not a newer one."""
    descriptor = os.memfd_create("leaf", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(chain_and_key)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")


NAMES = ("tls.crt", "tls.key", "ca.crt", "jwks.json", "denylist.json", "policy.json", "api-keys.json")
