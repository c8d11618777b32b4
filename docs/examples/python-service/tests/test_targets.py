"""The identity of servers, with the table that Gaia's own services are tested with; and the keyUsage of leaves."""

import json
import unittest
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from report_service.peer import check_key_usage
from report_service.policy import policy
from report_service.target import expected

VECTORS = Path(__file__).parents[2] / "vectors" / "targets.json"


class Targets(unittest.TestCase):
    """Each case of the table."""

    def test_servers_are_accepted_and_refused_as_in_the_table(self) -> None:
        """A server of another namespace with the same name is refused in every mode."""
        cases = json.loads(VECTORS.read_text())["cases"]
        self.assertGreater(len(cases), 10)
        for case in cases:
            with self.subTest(case["name"]):
                read = policy(json.dumps(case["policy"]).encode(), "gateway")
                try:
                    result = expected(read, case["target"]).check(case["uris"], case["dnsNames"])
                except ValueError:
                    result = "refused"
                self.assertEqual(result, case["result"])

    def test_a_refusal_names_target_expected_and_found_identity(self) -> None:
        """So that the message alone tells what to correct."""
        case = json.loads(VECTORS.read_text())["cases"][0]
        wanted = expected(policy(json.dumps(case["policy"]).encode(), "gateway"), "auth-service")
        with self.assertRaisesRegex(ValueError, "evil/sa/x, expected .*/shop/sa/auth-service for target auth-service"):
            wanted.check(["spiffe://gaia.local/ns/evil/sa/x"], [])


class KeyUsages(unittest.TestCase):
    """X509-SVID, section 4.3."""

    def test_only_the_key_usage_of_a_leaf_is_accepted(self) -> None:
        """OpenSSL accepts a leaf that may sign certificates."""
        for usages, is_accepted in [
            (None, True),
            ({"digital_signature"}, True),
            ({"digital_signature", "key_encipherment"}, True),
            ({"digital_signature", "key_cert_sign"}, False),
            ({"digital_signature", "crl_sign"}, False),
            ({"key_encipherment"}, False),
        ]:
            with self.subTest(usages):
                if is_accepted:
                    check_key_usage(_leaf(usages))
                else:
                    self.assertRaises(ValueError, check_key_usage, _leaf(usages))


def _leaf(usages: set[str] | None) -> x509.Certificate:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    builder = x509.CertificateBuilder(
        issuer_name=x509.Name([]),
        subject_name=x509.Name([]),
        public_key=key.public_key(),
        serial_number=1,
        not_valid_before=now,
        not_valid_after=now + timedelta(days=1),
    )
    if usages is not None:
        names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
        names += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
        builder = builder.add_extension(x509.KeyUsage(**{name: name in usages for name in names}), critical=True)
    return builder.sign(key, SHA256())


if __name__ == "__main__":
    unittest.main()
