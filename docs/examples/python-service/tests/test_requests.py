"""The decision over one request, with the table that Gaia's own services are tested with."""

import base64
import json
import unittest
from email.message import Message
from pathlib import Path
from typing import Any

import jwt

from report_service.auth import Principal, authenticate, presented
from report_service.mount import Bundle, Generation
from report_service.peer import Peer
from report_service.policy import api_keys, denylist, policy
from report_service.refusal import Refused
from report_service.tokens import key_set

TABLE = json.loads((Path(__file__).parents[2] / "vectors" / "requests.json").read_text())
KEY = jwt.PyJWK(TABLE["signingKey"])


class Requests(unittest.TestCase):
    """Each case of the table."""

    maxDiff = None

    def test_requests_are_decided_as_in_the_table(self) -> None:
        """Status, reason, subject, actor and scopes."""
        self.assertGreater(len(TABLE["cases"]), 150)
        for case in TABLE["cases"]:
            with self.subTest(case["name"]):
                expected = {name: case[name] for name in ("status", "reason", "subject", "actor", "scopes") if name in case}
                self.assertEqual(_decision(case), expected)


def _decision(case: dict[str, Any]) -> dict[str, Any]:
    peer = merged(TABLE["peer"], case["peer"]) if "peer" in case else TABLE["peer"]
    shown_by = peer and Peer(peer["spiffeId"], peer["fingerprint"], peer["notAfter"], "root", frozenset())
    token = _token(case.get("token", {}))
    headers = Message()
    for name, value in case["headers"]:
        headers[name] = value.replace("{token}", token)
    generation, now = _generation(case), TABLE["now"]
    try:
        principal = authenticate(presented(headers, generation), shown_by, generation, now)
        principal.require(tuple(case.get("requires", ())))
    except Refused as refused:
        return {"status": refused.status, "reason": refused.reason}
    return {"status": 200} | _shown(principal)


def _shown(principal: Principal) -> dict[str, Any]:
    scopes = None if principal.scopes is None else sorted(principal.scopes)
    return {"subject": principal.subject, "actor": principal.actor, "scopes": scopes}


def _generation(case: dict[str, Any]) -> Generation:
    def part(name: str, change: str) -> bytes:
        return json.dumps(merged(TABLE[name], case.get(change, {}))).encode()

    bundle: Any = Bundle("", (), frozenset({"root"}), "")
    nothing: Any = None
    return Generation(
        bundle=bundle,
        policy=policy(part("policy", "policy"), TABLE["policy"]["service"]["name"]),
        keys=key_set(part("jwks", "jwks")),
        denied=denylist(part("denylist", "denylist")),
        denylist_hash=None,
        api_keys=api_keys(part("apiKeys", "apiKeys")),
        leaf=nothing,
        server=nothing,
        client=nothing,
    )


def _token(change: dict[str, Any]) -> str:
    def text(name: str) -> str:
        whole = change.get(f"{name}Text")
        return whole if whole is not None else json.dumps(merged(TABLE["token"][name], change.get(name, {})))

    signed = f"{_base64url(text('header').encode())}.{_base64url(text('claims').encode())}"
    signature = change.get("signature")
    if signature is None:
        signature = _base64url(KEY.Algorithm.sign(signed.encode(), KEY.key))
    return f"{signed}.{signature}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


if __name__ == "__main__":
    unittest.main()
