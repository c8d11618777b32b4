//! Every kind of CA with every kind of leaf.

use gaia_pki::{Ca, CaRequest, Certificate, KeySpec, Serial, Usage, key_matches, verify_path};
use rstest::rstest;

use crate::openssl::OpenSsl;
use crate::samples::{BOTH, For, at, key, leaf, names, root, validity};

#[rstest]
fn openssl_and_webpki_accept_every_leaf_of_every_ca(
    #[values(KeySpec::Ecdsa256, KeySpec::Ecdsa384, KeySpec::Rsa2048, KeySpec::Rsa3072, KeySpec::Rsa4096)] of: KeySpec,
) {
    let ca = root(of);
    for spec in KeySpec::ALL {
        let leaf = leaf(&ca, &names(), spec).unwrap();
        assert!(leaf.certificate.is_signed_by(ca.certificate()));
        assert!(key_matches(&leaf.certificate, &key(spec, For::Leaf)));
        assert!(!key_matches(&leaf.certificate, ca.key()));
        for usage in BOTH {
            verify_path(&leaf.certificate, ca.chain(), ca.root(), usage, at("2026-02-01T00:00:00Z")).unwrap();
        }
        if let Some(openssl) = OpenSsl::find() {
            openssl.verify(&ca, &leaf, true).unwrap();
        }
    }
}

#[test]
fn the_signature_is_sha256_and_sha384_for_p384() {
    let Some(openssl) = OpenSsl::find() else { return };
    for (spec, algorithm) in [
        (KeySpec::Ecdsa256, "ecdsa-with-SHA256"),
        (KeySpec::Ecdsa384, "ecdsa-with-SHA384"),
        (KeySpec::Rsa2048, "sha256WithRSAEncryption"),
    ] {
        let ca = root(spec);
        let leaf = leaf(&ca, &[], KeySpec::Ecdsa256).unwrap();
        for certificate in [ca.certificate(), &leaf.certificate] {
            openssl.write("x.pem", &certificate.to_pem());
            let text = openssl.run(&["x509", "-in", "x.pem", "-noout", "-text"]);
            assert!(text.contains(&format!("Signature Algorithm: {algorithm}")), "{text}");
        }
    }
}

#[test]
fn a_leaf_does_not_chain_to_another_root_of_the_same_name_nor_past_its_end() {
    let (ca, other) = (root(KeySpec::Ecdsa256), root(KeySpec::Ecdsa384));
    let leaf = leaf(&ca, &names(), KeySpec::Ecdsa256).unwrap().certificate;
    assert_eq!(ca.certificate().subject(), other.certificate().subject());
    assert!(!leaf.is_signed_by(other.certificate()));
    let verify = |root: &Certificate, when: &str| verify_path(&leaf, &[], root, Usage::ServerAuth, at(when));
    let wrong_root = verify(other.root(), "2026-02-01T00:00:00Z").unwrap_err();
    assert!(wrong_root.to_string().contains("does not chain to CN=Gaia CA 1"), "{wrong_root}");
    assert!(verify(ca.root(), "2027-02-01T00:00:00Z").unwrap_err().to_string().contains("CertExpired"));
    assert!(verify(ca.root(), "2025-02-01T00:00:00Z").is_err());
}

#[test]
fn an_issuer_with_the_same_key_and_another_name_is_not_the_issuer() {
    let ca = root(KeySpec::Ecdsa256);
    let request = CaRequest {
        common_name: "Gaia CA 2",
        trust_domain: "gaia.local",
        serial: Serial::from_random([7; 16]),
        validity: validity("2026-01-01T00:00:00Z", "2036-01-01T00:00:00Z"),
    };
    let renamed = Ca::self_signed(&request, ca.key().clone()).unwrap();
    let leaf = leaf(&ca, &[], KeySpec::Ecdsa256).unwrap().certificate;
    assert!(leaf.is_signed_by(ca.certificate()));
    assert!(!leaf.is_signed_by(renamed.certificate()));
}
