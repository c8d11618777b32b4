"""Reports of this instance to the operator: the loaded files, and the usage of API keys.

The operator takes it for an acknowledgement: a rotation goes on once every instance reports what was published. Without
it, the operator looks at the leaf in a handshake, and for the rest waits until the pod was restarted.
"""

import secrets
import threading
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from .auth import Presented
from .mount import Generation
from .peer import Peer
from .strict import SCHEMA_VERSION

IDENTITY_PATH = "/.well-known/gaia/identity"
LEDGER_PATH = "/.well-known/gaia/ledger"


class Instance:
    """One process: its id differs from that of every other one, also of an earlier one in the same pod."""

    def __init__(self, now: float) -> None:
        self.name = secrets.token_hex(16)
        self.started_at = _time(now)
        self._lock = threading.Lock()
        self._ledger: dict[str, dict[tuple[tuple[str, str], ...], str]] = {}

    def report(self, generation: Generation, roots: Counter[str]) -> dict[str, Any]:
        """For `GET /.well-known/gaia/identity`."""
        policy, leaf = generation.policy, generation.leaf
        serial = leaf.certificate.serial_number
        return {
            "schemaVersion": SCHEMA_VERSION,
            "instance": self.name,
            "startedAt": self.started_at,
            "service": {"namespace": policy.namespace, "name": policy.name, "spiffeId": policy.spiffe_id},
            "leaf": {
                "serial": serial.to_bytes((serial.bit_length() + 7) // 8, "big").hex(),
                "fingerprint": leaf.fingerprint,
                "notAfter": _time(leaf.not_after.timestamp()),
            },
            "bundleHash": generation.bundle.hash,
            "jwksKids": sorted(generation.keys or {}),
            **({"denylistHash": generation.denylist_hash} if generation.denylist_hash else {}),
            # The operator relies on `issuers` of denylist.json only where a report lists it as enforced.
            "enforces": ["issuers"],
            "policyHash": policy.hash,
            "mode": policy.mode,
            "connections": dict(roots),
        }

    def note(self, shown: Presented, peer: Peer | None, address: str, user_agent: str, route: str, now: float) -> None:
        """Records the caller of a known key today, accepted or not: a refused caller still uses the key."""
        if shown.api_key is None:
            return
        if peer is not None:
            caller = {"kind": "peer", "spiffeId": peer.spiffe_id}
        else:
            # The status shows it as text.
            product = user_agent.replace("/", " ").split(" ")[0][:64] if user_agent.isascii() and user_agent.isprintable() else ""
            caller = {"kind": "unknown", "address": address, "route": route} | ({"userAgent": product} if product else {})
        with self._lock:
            callers = self._ledger.setdefault(shown.api_key.id, {})
            name = tuple(sorted(caller.items()))
            # The last entry is for all further callers: their existence is evidence too.
            if name not in callers and len(callers) >= MAX_CALLERS - 1:
                name = (("kind", "others"),)
            callers[name] = datetime.fromtimestamp(now, UTC).date().isoformat()

    def ledger(self) -> dict[str, Any]:
        """For `GET /.well-known/gaia/ledger`."""
        with self._lock:
            entries = [
                {"key": key, "caller": dict(caller), "date": date}
                for key, callers in sorted(self._ledger.items())
                for caller, date in callers.items()
            ]
        return {"schemaVersion": SCHEMA_VERSION, "instance": self.name, "startedAt": self.started_at, "entries": entries}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")


MAX_CALLERS = 32
