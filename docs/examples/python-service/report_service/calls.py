"""Calls to other services: the own leaf, the trusted roots, and a token for each target."""

import threading
import time
from dataclasses import dataclass, field

import httpx

from .mount import Generation, Mount
from .target import token_issuer


@dataclass(frozen=True, slots=True)
class _Token:
    text: str = field(repr=False)
    half: float
    end: float


class NotReady(Exception):
    """No valid certificates are loaded yet."""


class Calls:
    """Calls with the newest generation. Connections and tokens belong to one generation, and are dropped with it."""

    def __init__(self, mount: Mount, auth_url: str) -> None:
        self._mount = mount
        self._auth_url = auth_url.rstrip("/")
        self._lock = threading.Lock()
        self._session: _Session | None = None

    def call(self, target: str, method: str, url: str, body: bytes = b"") -> httpx.Response:
        """Calls a target service, `name` or `namespace/name`. A token that the target does not take (401 invalid_token:
        after a replaced signing key, for example) is replaced by a new one, and the request sent once more."""
        session = self._current()
        token = session.token(target)
        answer = session.send(target, method, url, body, token)
        if answer.status_code != 401 or 'error="invalid_token"' not in answer.headers.get("WWW-Authenticate", ""):
            return answer
        session = self._current()
        return session.send(target, method, url, body, session.token(target, refused=token))

    def _current(self) -> "_Session":
        generation = self._mount.generation
        if generation is None:
            raise NotReady("no client certificate loaded yet")
        with self._lock:
            if self._session is None or self._session.generation is not generation:
                # The previous one is closed after its last call: it has no other references.
                self._session = _Session(generation, self._auth_url)
            return self._session


class _Session:
    """Connections and tokens of one generation."""

    def __init__(self, generation: Generation, auth_url: str) -> None:
        self.generation = generation
        self._auth_url = auth_url
        self._lock = threading.Lock()
        self._tokens: dict[str, _Token] = {}
        self._clients: dict[str, httpx.Client] = {}
        self._clients_lock = threading.Lock()

    def _client(self, target: str) -> httpx.Client:
        """The client for one target: a connection to the server of one is never used for another."""
        with self._clients_lock:
            if target not in self._clients:
                # No proxy and no redirect; the server's name and its SPIFFE ID are always verified. Servers close an idle
                # connection after 30 seconds: this side closes it before. A failed connection attempt is repeated once.
                transport = httpx.HTTPTransport(
                    verify=self.generation.client(target),
                    retries=1,
                    trust_env=False,
                    limits=httpx.Limits(keepalive_expiry=20),
                )
                self._clients[target] = httpx.Client(
                    transport=transport, timeout=10, trust_env=False, follow_redirects=False
                )
            return self._clients[target]

    def send(self, target: str, method: str, url: str, body: bytes, token: str) -> httpx.Response:
        headers, client = {"Authorization": f"Bearer {token}"}, self._client(target)
        try:
            return client.request(method, url, content=body, headers=headers)
        except httpx.RemoteProtocolError:
            # The server closed a kept connection while the request was in transit. It may have been processed, so only
            # idempotent requests are repeated.
            if method not in ("GET", "HEAD"):
                raise
            return client.request(method, url, content=body, headers=headers)

    def token(self, target: str, refused: str | None = None) -> str:
        """A token for a target. It is requested once for all waiting calls, and renewed at half its validity, so that calls
        continue through an outage of auth-service of the other half."""
        with self._lock:
            now, kept = time.monotonic(), self._tokens.get(target)
            if kept is not None and (kept.text == refused or now >= kept.end):
                kept = None
            if kept is not None and now < kept.half:
                return kept.text
            try:
                kept = self._ask(target, now)
            except httpx.HTTPError:
                if kept is None:
                    raise
                # The other half of its validity is left; one attempt at a time while auth-service is unavailable.
                kept = _Token(kept.text, now + 5, kept.end)
            self._tokens[target] = kept
            return kept.text

    def _ask(self, target: str, asked: float) -> _Token:
        wanted = {"service_name": self.generation.policy.name, "target_service": target}
        issuer = self._client(token_issuer(self.generation.policy))
        answer = issuer.post(f"{self._auth_url}/internal/service-token", json=wanted)
        answer.raise_for_status()
        token = answer.json()
        # Its validity begins at the latest with the request.
        return _Token(token["access_token"], asked + token["expires_in"] / 2, asked + token["expires_in"])
