"""A service that reports the content of asset-service."""

import logging
import os
import signal
import threading
import time
from dataclasses import asdict
from pathlib import Path

import httpx

from .calls import Calls, NotReady
from .mount import Mount, elsewhere
from .refusal import Answer, problem
from .server import MeshServer, Request, Route, admin_server, answer_json


def main() -> None:
    """Runs until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # httpx would log every URL.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    environment = os.environ
    directory = Path(environment.get("GAIA_DIR", "/etc/gaia"))
    mount = Mount(directory, environment["GAIA_SERVICE_NAME"], time.time, elsewhere(environment))
    mount.look()
    calls = Calls(mount, environment["GAIA_AUTH_URL"])
    assets = environment["GAIA_UPSTREAM_ASSET_SERVICE"].rstrip("/")

    def whoami(request: Request) -> Answer:
        principal = asdict(request.principal)
        scopes = request.principal.scopes
        return answer_json(200, principal | {"scopes": None if scopes is None else sorted(scopes)})

    def report(_: Request) -> Answer:
        try:
            answer = calls.call("asset-service", "GET", f"{assets}/assets")
            answer.raise_for_status()
        except (httpx.HTTPError, NotReady) as error:
            logging.warning("asset-service was not to be asked: %s", error)
            return problem(502, "asset-service does not answer.")
        sizes = [asset["size"] for asset in answer.json()["assets"]]
        return answer_json(200, {"assets": len(sizes), "bytes": sum(sizes)})

    routes = {("GET", "/whoami"): Route((), whoami), ("GET", "/report"): Route(("reports:read",), report)}
    mesh = MeshServer(_address("GAIA_MESH_ADDRESS", "0.0.0.0:8443"), mount, routes, time.time)
    admin = admin_server(_address("GAIA_ADMIN_ADDRESS", "0.0.0.0:9090"), mesh)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threads = [
        threading.Thread(target=mesh.serve_forever, daemon=True),
        threading.Thread(target=admin.serve_forever, daemon=True),
        threading.Thread(target=mount.run, args=(_seconds("GAIA_RELOAD_INTERVAL", "10s"), stop), daemon=True),
    ]
    for thread in threads:
        thread.start()
    stop.wait()
    # Not ready at once, and answers say `Connection: close`; then no new connections; then the end.
    mesh.is_draining = True
    time.sleep(_seconds("GAIA_SHUTDOWN_DELAY", "5s"))
    mesh.shutdown()
    end = time.monotonic() + _seconds("GAIA_DRAIN_TIMEOUT", "25s")
    while mesh.open_connections and time.monotonic() < end:
        time.sleep(0.1)


def _address(variable: str, default: str) -> tuple[str, int]:
    host, _, port = os.environ.get(variable, default).rpartition(":")
    return host, int(port)


def _seconds(variable: str, default: str) -> float:
    return float(os.environ.get(variable, default).removesuffix("s"))


if __name__ == "__main__":
    main()
