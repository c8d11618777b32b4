"""Refusals, and the part of them that clients see."""

import json
from dataclasses import dataclass
from email.utils import formatdate


class Refused(Exception):
    """A refused request. The reason is logged; the client gets one message per status."""

    def __init__(self, reason: str, until: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.until = until
        self.status = _STATUS.get(reason, 401)

    def answer(self) -> "Answer":
        """An RFC 9457 problem document."""
        headers = {}
        if self.status == 401:
            # RFC 6750, section 3: no error code where no credential was presented.
            error = "" if self.reason in ("no_credential", "scheme_unknown") else ', error="invalid_token"'
            headers["WWW-Authenticate"] = 'Bearer realm="gaia"' + error
        if self.until is not None:
            headers["Retry-After"] = formatdate(self.until, usegmt=True)
            return problem(self.status, "API keys are refused here for a while: see Retry-After.", headers)
        if self.reason == "api_keys_not_accepted":
            return problem(self.status, "API keys are no longer accepted here.", headers)
        return problem(self.status, _MESSAGES[self.status], headers)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response."""

    status: int
    body: bytes
    headers: dict[str, str]


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Answer:
    """An RFC 9457 problem document that is not to be cached."""
    body = json.dumps({"title": _TITLES.get(status, "Error"), "status": status, "detail": detail}).encode()
    fixed = {"Content-Type": "application/problem+json", "Cache-Control": "no-store"}
    return Answer(status, body, fixed | (headers or {}))


_MALFORMED = (
    "authorization_repeated authorization_not_text api_key_repeated credential_too_long credential_empty token_shape "
    "token_alphabet token_header_too_long"
)
_STATUS = (
    dict.fromkeys(_MALFORMED.split(), 400)
    | dict.fromkeys(("scope_missing", "caller_not_declared", "delegation_not_allowed"), 403)
    | {"keys_not_loaded": 503}
)
_MESSAGES = {
    400: "The credentials of this request are malformed.",
    401: "This request requires valid credentials.",
    403: "This caller is not permitted to do this.",
    503: "Authentication is not ready yet. Try again later.",
}
_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    411: "Length Required",
    413: "Payload Too Large",
    502: "Bad Gateway",
    503: "Service Unavailable",
}
