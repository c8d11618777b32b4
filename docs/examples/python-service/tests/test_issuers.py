"""The rules for `issuers` of denylist.json, with the table that Gaia's own services are tested with."""

import json
import unittest
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from report_service.peer import is_denied, keys_above
from report_service.policy import denylist

VECTORS = Path(__file__).parents[2] / "vectors" / "issuers.json"


class Issuers(unittest.TestCase):
    """Each case of the table, and what the table cannot hold."""

    def test_chains_are_accepted_and_refused_as_in_the_table(self) -> None:
        """Every chain verifies to the root; the keys above the leaf decide."""
        vectors = json.loads(VECTORS.read_text())
        root = x509.load_pem_x509_certificate(vectors["root"].encode())
        self.assertGreater(len(vectors["cases"]), 5)
        for case in vectors["cases"]:
            with self.subTest(case["name"]):
                presented = [x509.load_pem_x509_certificate(pem.encode()) for pem in case["chain"]]
                keys = keys_above(_der(presented), _der(_verified(presented, root)))
                document = {"schemaVersion": 1, "leaves": [], "kids": [], "jtis": [], "subjects": [], "issuers": case["issuers"]}
                denied = denylist(json.dumps(document).encode()).issuers
                self.assertEqual(is_denied(keys, denied), not case["accepted"])

    def test_an_unreadable_certificate_is_refused_only_where_a_key_is_denied(self) -> None:
        """It may have the key."""
        keys = keys_above([b"leaf", b"junk"], [b"leaf"])
        self.assertFalse(is_denied(keys, frozenset()))
        self.assertTrue(is_denied(keys, frozenset({"00"})))


def _der(certificates: list[x509.Certificate]) -> list[bytes]:
    return [certificate.public_bytes(Encoding.DER) for certificate in certificates]


def _verified(presented: list[x509.Certificate], root: x509.Certificate) -> list[x509.Certificate]:
    """The path from the leaf to the root, as TLS finds it."""
    path = [presented[0]]
    while path[-1] != root:
        path.append(next(above for above in [*presented[1:], root] if _is_issuer(path[-1], above)))
    return path


def _is_issuer(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


if __name__ == "__main__":
    unittest.main()
