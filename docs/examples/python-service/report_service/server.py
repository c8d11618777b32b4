"""The listeners: one with mutual TLS for other services, one in plain HTTP for kubelet."""

import json
import logging
import re
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .auth import Principal, Presented, authenticate, check_peer, effective_mode, presented
from .identity import IDENTITY_PATH, LEDGER_PATH, Instance
from .mount import Generation, Mount
from .peer import Peer, peer_of
from .policy import Policy
from .refusal import Answer, Refused, problem
from .spiffe import is_workload, operator

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """One authorized request."""

    principal: Principal
    body: bytes


@dataclass(frozen=True, slots=True)
class Route:
    """The requirements and the handler of a route. No scopes: any principal is accepted."""

    scopes: tuple[str, ...]
    handler: Callable[[Request], Answer]


def answer_json(status: int, value: Any) -> Answer:
    """A JSON answer that is not to be cached."""
    body = json.dumps(value).encode()
    return Answer(status, body, {"Content-Type": "application/json", "Cache-Control": "no-store"})


class MeshServer(ThreadingHTTPServer):
    """Serves `routes` to other services: a thread for each connection, each with the newest TLS configuration."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        mount: Mount,
        routes: dict[tuple[str, str], Route],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(address, MeshHandler)
        self.mount = mount
        self.routes = routes
        self.clock = clock
        self.instance = Instance(clock())
        self.is_draining = False
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._peers: dict[ssl.SSLSocket, Peer | None] = {}
        mount.on_change = self.end_those_not_trusted

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Runs in the connection's thread, so a slow handshake delays no other connection."""
        generation = self.mount.generation
        if generation is None or not self._room.acquire(blocking=False):
            return
        try:
            request.settimeout(HANDSHAKE_SECONDS)
            with generation.server.wrap_socket(request, server_side=True) as tls:
                peer = _peer(tls, generation.policy)
                with self._lock:
                    self._peers[tls] = peer
                try:
                    MeshHandler(tls, client_address, self)
                finally:
                    with self._lock:
                        del self._peers[tls]
        except OSError as error:
            # A failed handshake, or a client that disconnected: one line.
            log.info("a connection from %s ended: %s", client_address[0], error)
        finally:
            self._room.release()

    def end_those_not_trusted(self, generation: Generation) -> None:
        """Shuts down receiving from peers whose root or leaf is no longer trusted; an answer in progress is still sent."""
        now = self.clock()
        with self._lock:
            for tls, peer in self._peers.items():
                is_good = generation.policy.is_permissive if peer is None else generation.is_valid(peer, now)
                if not is_good:
                    with suppress(OSError):
                        # Not SSLSocket.shutdown, which would make it a plain socket.
                        socket.socket.shutdown(tls, socket.SHUT_RD)

    def roots(self) -> Counter[str]:
        """Open connections from other services, by the root of the peer's certificate."""
        with self._lock:
            return Counter(peer.root for peer in self._peers.values() if peer is not None and is_workload(peer.spiffe_id))

    def peer(self, tls: ssl.SSLSocket) -> Peer | None:
        """The peer of a connection."""
        with self._lock:
            return self._peers[tls]

    @property
    def open_connections(self) -> int:
        """The number of open connections."""
        with self._lock:
            return len(self._peers)

    def is_ready(self) -> bool:
        """True if it has certificates. Neither a rejected part of the mounted directory nor an expired leaf makes it unready:
        all replicas have the same."""
        return not self.is_draining and self.mount.generation is not None

    def expired(self) -> str:
        """A line about the own leaf, if it has expired."""
        generation = self.mount.generation
        if generation is None or self.clock() < generation.leaf.not_after.timestamp():
            return ""
        return f"warning: the TLS certificate (tls.crt) expired at {generation.leaf.not_after}\n"


class MeshHandler(BaseHTTPRequestHandler):
    """One connection."""

    server: MeshServer
    protocol_version = "HTTP/1.1"
    server_version = "report-service"
    sys_version = ""
    # The clients of Gaia's services close an idle connection after 20 seconds.
    timeout = 30
    disable_nagle_algorithm = True

    def setup(self) -> None:
        """Stores the peer."""
        super().setup()
        self.peer = self.server.peer(self.request)
        self.began = time.monotonic()

    def __getattr__(self, name: str) -> Any:
        # http.server calls do_GET, do_PUT and so on.
        if name.startswith("do_"):
            return self.answer_one
        raise AttributeError(name)

    def answer_one(self) -> None:
        """Answers one request."""
        try:
            body = self._read_body()
        except _BadRequest as error:
            self.close_connection = True
            self._send(problem(error.status, str(error)))
            return
        try:
            answer = self._answer(body)
        except Exception:
            log.exception("answering %s %s failed", self.command, self._route())
            answer = problem(500, "This did not work.")
        self._send(answer)

    def _answer(self, body: bytes) -> Answer:
        server, generation, now = self.server, self.server.mount.generation, self.server.clock()
        assert generation is not None  # There was one when the connection began.
        if self.peer is not None and self.peer.spiffe_id == operator(generation.policy.spiffe_id):
            return self._to_operator(generation, now)
        path = self._route()
        if (self.command, path) == ("GET", "/health"):
            return answer_json(200, self._health(generation, now))
        route = server.routes.get((self.command, path))
        if route is None:
            self._note_unmatched(generation, now)
            others = sorted(method for method, known in server.routes if known == path)
            allow = {"Allow": ", ".join(others)}
            return problem(405, "This is not done here.", allow) if others else problem(404, "The requested path does not exist.")
        notice: dict[str, str] = {}
        try:
            shown = presented(self.headers, generation)
            self._note(shown, path, now)
            if shown.api_key is not None:
                if shown.token is None and shown.unusable is None and effective_mode(shown, generation) == "Dual":
                    notice = generation.policy.notice
            principal = authenticate(shown, self.peer, generation, now)
            principal.require(route.scopes)
        except Refused as refused:
            who = self.peer.spiffe_id if self.peer else "nobody"
            log.info("refused %s %s of %s: %s", self.command, path, who, refused.reason)
            answer = refused.answer()
        else:
            answer = route.handler(Request(principal, body))
        return Answer(answer.status, answer.body, answer.headers | notice)

    def _note_unmatched(self, generation: Generation, now: float) -> None:
        """A key on a path without a route is still in use."""
        try:
            shown = presented(self.headers, generation)
        except Refused:
            return
        self._note(shown, "unmatched", now)

    def _note(self, shown: Presented, route: str, now: float) -> None:
        user_agent = self.headers.get("User-Agent", "")
        self.server.instance.note(shown, self.peer, self.client_address[0], user_agent, route, now)

    def _to_operator(self, generation: Generation, now: float) -> Answer:
        """The operator is served its reports only; for every other client the routes do not exist."""
        if self.command == "GET" and self.peer is not None and generation.is_valid(self.peer, now):
            if self.path == IDENTITY_PATH:
                return answer_json(200, self.server.instance.report(generation, self.server.roots()))
            if self.path == LEDGER_PATH:
                return answer_json(200, self.server.instance.ledger())
        return problem(404, "The requested path does not exist.")

    def _health(self, generation: Generation, now: float) -> dict[str, Any]:
        """Authenticated clients see when certificates expire, all others only the status."""
        status: dict[str, Any] = {"status": "healthy" if self.server.is_ready() else "not ready"}
        try:
            check_peer(self.peer, generation, now)
            if self.peer is None:
                authenticate(presented(self.headers, generation), None, generation, now)
        except Refused:
            return status
        ends = generation.leaf.not_after
        roots = [root.not_valid_after_utc for root in generation.bundle.roots]
        status["certificates"] = {
            "service_cert_expires": ends.isoformat().replace("+00:00", "Z"),
            "ca_cert_expires": min(roots).isoformat().replace("+00:00", "Z"),
            "days_until_expiry": int((ends.timestamp() - now) // 86400),
        }
        return status

    def _read_body(self) -> bytes:
        """The whole body, of an unambiguous length."""
        headers: Message = self.headers
        if headers.defects or any("\n" in value or "\r" in value for value in headers.values()):
            raise _BadRequest(400, "The request is malformed.")
        if "Transfer-Encoding" in headers:
            raise _BadRequest(411, "The length of the body must be told.")
        lengths = headers.get_all("Content-Length") or ["0"]
        length = content_length(lengths[0]) if len(lengths) == 1 else None
        if length is None:
            raise _BadRequest(400, "The request is malformed.")
        if length > MAX_BODY_BYTES:
            raise _BadRequest(413, "The body is too large.")
        return self.rfile.read(length)

    def _route(self) -> str:
        return self.path.partition("?")[0]

    def _send(self, answer: Answer) -> None:
        is_old = time.monotonic() - self.began > MAX_AGE_SECONDS
        if is_old or self.server.is_draining:
            self.close_connection = True
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Errors of http.server itself, in the form of the other refusals."""
        self.close_connection = True
        self._send(problem(code, "The request is malformed."))

    def log_message(self, format: str, *args: Any) -> None:
        """No line for each request on standard error."""


class AdminHandler(BaseHTTPRequestHandler):
    """`/livez` and `/readyz`, and nothing else."""

    mesh: MeshServer

    def do_GET(self) -> None:
        """Answers a probe."""
        known = {"/livez": True, "/readyz": self.mesh.is_ready()}
        status = 404 if self.path not in known else 200 if known[self.path] else 503
        body = b"ok\n" if status == 200 else b"not ready\n"
        if self.path == "/readyz":
            body += self.mesh.expired().encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """kubelet probes every few seconds."""


def content_length(text: str) -> int | None:
    """The number of a Content-Length header (RFC 9110, section 8.6); none if it is not one that fits 63 bits. Python
    refuses to convert a text of more than 4,300 digits."""
    return int(text) if _LENGTH.fullmatch(text) else None


def _peer(tls: ssl.SSLSocket, policy: Policy) -> Peer | None:
    """The peer of a connection. In Permissive a certificate without an identity is no peer and fails nothing; one that does
    not chain to a trusted root fails the handshake, as Python's ssl cannot continue without it."""
    try:
        return peer_of(tls, policy.spiffe_id)
    except ssl.SSLCertVerificationError as error:
        if not policy.is_permissive:
            raise
        log.warning("a client certificate names no peer: %s", error)
        return None


def admin_server(address: tuple[str, int], mesh: MeshServer) -> ThreadingHTTPServer:
    """The listener for kubelet."""
    handler = type("Handler", (AdminHandler,), {"mesh": mesh})
    return ThreadingHTTPServer(address, handler)


class _BadRequest(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


_LENGTH = re.compile("[0-9]{1,18}")
HANDSHAKE_SECONDS = 10
MAX_AGE_SECONDS = 8 * 60
MAX_BODY_BYTES = 64 * 1024
MAX_CONNECTIONS = 512
