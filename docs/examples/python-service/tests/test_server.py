"""What a client can write into a request, and the variables of programs that read plain paths."""

import socket
import threading
import unittest
from pathlib import Path
from typing import Any

from report_service.mount import elsewhere
from report_service.server import MeshHandler, answer_json


class Server:
    """As much of MeshServer as a handler needs before it knows the caller."""

    is_draining = False
    mount: Any = None

    def peer(self, _: socket.socket) -> None:
        """No client certificate."""


class Quiet(MeshHandler):
    """Answers every request whose body was read."""

    # A pair of sockets has no TCP.
    disable_nagle_algorithm = False

    def _answer(self, body: bytes) -> Any:
        return answer_json(200, len(body))


def status_of(head: str, body: bytes = b"") -> int:
    """The status of the answer to one request."""
    client, server = socket.socketpair()
    client.settimeout(10)
    with client, server:
        thread = threading.Thread(target=Quiet, args=(server, ("127.0.0.1", 1), Server()))
        thread.start()
        client.sendall(f"POST /report HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode() + body)
        client.shutdown(socket.SHUT_WR)
        answer = client.recv(64)
        thread.join(10)
    return int(answer.split(b" ")[1])


class Requests(unittest.TestCase):
    """Every header that is read as a number."""

    def test_a_length_of_any_size_is_answered(self) -> None:
        """Python refuses to convert more than 4,300 digits, with an exception."""
        for length, status in [
            ("4", 200),
            ("65536", 200),
            ("65537", 413),
            ("9" * 18, 413),
            ("9" * 19, 400),
            ("9" * 5000, 400),
            ("0" * 5000, 400),
            ("-1", 400),
            ("+1", 400),
            ("1_0", 400),
            ("\u0661", 400),
            ("1,1", 400),
            ("0x1", 400),
            ("", 400),
        ]:
            with self.subTest(length[:20]):
                body = b"x" * int(length) if status == 200 else b""
                self.assertEqual(status_of(f"Content-Length: {length}\r\n", body), status)
        self.assertEqual(status_of("Content-Length: 1\r\nContent-Length: 1\r\n", b"x"), 400)


class Elsewhere(unittest.TestCase):
    """Files may be elsewhere by either name but not by two."""

    def test_the_variables_of_plain_paths_are_read(self) -> None:
        """As by Gaia's own services."""
        old = {"TLS_CERT_PATH": "/app/certs/cert.pem", "TLS_CLIENT_KEY_PATH": "/app/certs/key.pem", "TLS_CA_PATH": ""}
        self.assertEqual(elsewhere(old), {"tls.crt": Path("/app/certs/cert.pem"), "tls.key": Path("/app/certs/key.pem")})
        same = {"TLS_CA_PATH": "/app/ca.pem", "TLS_CA_CERT_PATH": "/app/ca.pem"}
        self.assertEqual(elsewhere(same), {"ca.crt": Path("/app/ca.pem")})
        with self.assertRaisesRegex(ValueError, "TLS_CA_PATH and TLS_CA_CERT_PATH"):
            elsewhere({"TLS_CA_PATH": "/a", "TLS_CA_CERT_PATH": "/b"})


if __name__ == "__main__":
    unittest.main()
