//! Contents of roots and leaves.

use std::net::IpAddr;

use gaia_pki::{
    Ca, CaError, CaRequest, Certificate, KeySpec, LeafError, LeafRequest, Serial, Usage, Validity, bundle_pem,
    issue_leaf, issue_leaf_to,
};
use proptest::prelude::*;
use rstest::rstest;

use crate::openssl::OpenSsl;
use crate::samples::{BOTH, For, SPIFFE_ID, at, key, leaf, names, root, root_with, validity};

#[test]
fn a_root_says_what_it_is() {
    let ca = root(KeySpec::Ecdsa256);
    let root = ca.certificate();
    assert_eq!((root.subject(), root.issuer()), ("CN=Gaia CA 1".to_owned(), "CN=Gaia CA 1".to_owned()));
    assert_eq!((root.is_ca(), root.path_len(), root.may_sign_certificates()), (true, Some(0), true));
    assert_eq!(root.uris(), ["spiffe://gaia.local"]);
    assert_eq!(root.serial(), "81".repeat(16));
    assert_eq!(root.subject_key_id().map(<[u8]>::len), Some(20));
    assert_eq!(root.subject_key_id(), root.authority_key_id());
    assert_eq!((ca.chain(), ca.root()), (&[][..], root));
    assert!(root.is_self_signed());
}

#[test]
fn a_leaf_says_whose_it_is_and_nothing_more() {
    let ca = root(KeySpec::Ecdsa256);
    let addresses: [IpAddr; 3] = ["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap(), "10.0.0.7".parse().unwrap()];
    let dns_names = [names(), names()].concat();
    let request = LeafRequest {
        spiffe_id: SPIFFE_ID,
        dns_names: &dns_names,
        ip_addresses: &addresses,
        usages: &BOTH,
        serial: Serial::from_random([0xff; 16]),
        validity: validity("2026-01-01T00:00:00.999Z", "2026-04-01T00:00:00.999Z"),
    };
    let leaf = issue_leaf(&ca, &request, &key(KeySpec::Rsa2048, For::Leaf)).unwrap().certificate;
    assert_eq!(leaf.subject(), "");
    assert_eq!(leaf.issuer(), "CN=Gaia CA 1");
    assert_eq!(leaf.uris(), [SPIFFE_ID]);
    assert_eq!(leaf.dns_names(), names());
    assert_eq!(leaf.ip_addresses(), &addresses[..2]);
    assert_eq!(leaf.usages(), BOTH);
    assert_eq!(leaf.serial(), "ff".repeat(16));
    assert_eq!((leaf.is_ca(), leaf.path_len(), leaf.may_sign_certificates()), (false, None, false));
    assert_eq!(leaf.authority_key_id(), ca.certificate().subject_key_id());
    assert_eq!(leaf.not_before(), at("2026-01-01T00:00:00Z"));
    assert_eq!(leaf.not_after(), at("2026-04-01T00:00:00Z"));

    let Some(openssl) = OpenSsl::find() else { return };
    openssl.write("leaf.pem", &leaf.to_pem());
    let text = openssl.run(&["x509", "-in", "leaf.pem", "-noout", "-text"]);
    for line in [
        "Version: 3 (0x2)",
        "X509v3 Subject Alternative Name: critical",
        "X509v3 Basic Constraints: critical\n                CA:FALSE",
        "X509v3 Key Usage: critical\n                Digital Signature, Key Encipherment\n",
        "X509v3 Extended Key Usage: \n                TLS Web Server Authentication, TLS Web Client Authentication\n",
        "X509v3 Subject Key Identifier",
        "X509v3 Authority Key Identifier",
    ] {
        assert!(text.contains(line), "{line} is missing from {text}");
    }
}

#[rstest]
#[case::none(None, "")]
#[case::a_service_name(Some("chat"), "CN=chat")]
#[case::the_longest(
    Some("0123456789012345678901234567890123456789012345678901234567890123"),
    "CN=0123456789012345678901234567890123456789012345678901234567890123"
)]
fn a_leaf_has_the_common_name_asked_for(#[case] name: Option<&str>, #[case] subject: &str) {
    let ca = root(KeySpec::Ecdsa256);
    let request = LeafRequest {
        spiffe_id: SPIFFE_ID,
        dns_names: &names(),
        ip_addresses: &[],
        usages: &BOTH,
        serial: Serial::from_random([9; 16]),
        validity: validity("2026-01-01T00:00:00Z", "2026-04-01T00:00:00Z"),
    };
    let leaf = issue_leaf_to(name, &ca, &request, &key(KeySpec::Ecdsa256, For::Leaf)).unwrap().certificate;
    assert_eq!(leaf.subject(), subject);
    let long = "x".repeat(65);
    for bad in ["", &long] {
        let refused = issue_leaf_to(Some(bad), &ca, &request, &key(KeySpec::Ecdsa256, For::Leaf));
        assert!(matches!(refused, Err(LeafError::Name(_))), "{refused:?}");
    }
}

#[test]
fn a_leaf_with_an_ecdsa_key_and_one_usage_gets_no_more_than_that() {
    let Some(openssl) = OpenSsl::find() else { return };
    let ca = root(KeySpec::Ecdsa256);
    let request = LeafRequest {
        spiffe_id: SPIFFE_ID,
        dns_names: &[],
        ip_addresses: &[],
        usages: &[Usage::ClientAuth],
        serial: Serial::from_random([1; 16]),
        validity: validity("2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
    };
    let leaf = issue_leaf(&ca, &request, &key(KeySpec::Ecdsa256, For::Leaf)).unwrap();
    openssl.verify(&ca, &leaf, true).unwrap();
    openssl.write("leaf.pem", &leaf.chain_pem);
    let text = openssl.run(&["x509", "-in", "leaf.pem", "-noout", "-text"]);
    assert!(text.contains("critical\n                Digital Signature\n"), "{text}");
    assert!(text.contains("Usage: \n                TLS Web Client Authentication\n"), "{text}");
}

#[rstest]
#[case::in_2049("2049-12-31T23:59:59Z")]
#[case::in_2050("2050-01-01T00:00:00Z")]
#[case::in_2126("2126-01-01T00:00:00Z")]
#[case::at_the_end_of_time("9999-12-30T21:59:59Z")]
fn a_root_and_its_leaf_may_end(#[case] end: &str) {
    let ca = root_with(KeySpec::Ecdsa256, validity("2026-01-01T00:00:00Z", end));
    assert_eq!(ca.not_after(), at(end));
    let request = LeafRequest {
        spiffe_id: SPIFFE_ID,
        dns_names: &names(),
        ip_addresses: &[],
        usages: &BOTH,
        serial: Serial::from_random([2; 16]),
        validity: validity("2026-01-01T00:00:00Z", end),
    };
    let leaf = issue_leaf(&ca, &request, &key(KeySpec::Ecdsa256, For::Leaf)).unwrap();
    assert_eq!(leaf.certificate.not_after(), at(end));
    let Some(openssl) = OpenSsl::find() else { return };
    openssl.verify(&ca, &leaf, true).unwrap();
    openssl.write("leaf.pem", &leaf.chain_pem);
    let kinds = openssl.run(&["asn1parse", "-in", "leaf.pem"]).matches("GENERALIZEDTIME").count();
    assert_eq!(kinds, usize::from(at(end) >= at("2050-01-01T00:00:00Z")), "RFC 5280 section 4.1.2.5");
}

#[test]
fn no_well_defined_end_is_the_last_moment_that_can_be_counted() {
    let root = root_with(KeySpec::Ecdsa256, validity("2026-01-01T00:00:00Z", "9999-12-30T21:59:59Z"));
    let mut der = root.certificate().der().to_vec();
    let end = der.windows(15).position(|window| window == b"99991230215959Z").unwrap();
    der[end..end + 15].copy_from_slice(b"99991231235959Z");
    assert_eq!(Certificate::from_der(&der).unwrap().not_after(), jiff::Timestamp::MAX);
}

#[rstest]
#[case::it_outlives_its_ca("2026-01-01T00:00:00Z", "2036-01-01T00:00:01Z", "only until 2036-01-01T00:00:00Z")]
#[case::it_ends_before_its_ca_begins("2025-01-01T00:00:00Z", "2025-06-01T00:00:00Z", "only from 2026-01-01T00:00:00Z")]
#[case::it_ends_before_it_begins("2027-01-01T00:00:00Z", "2026-06-01T00:00:00Z", "the period is empty")]
fn a_leaf_is_refused_where(#[case] from: &str, #[case] until: &str, #[case] reason: &str) {
    let request = LeafRequest {
        spiffe_id: SPIFFE_ID,
        dns_names: &[],
        ip_addresses: &[],
        usages: &BOTH,
        serial: Serial::from_random([3; 16]),
        validity: validity(from, until),
    };
    let error = issue_leaf(&root(KeySpec::Ecdsa256), &request, &key(KeySpec::Ecdsa256, For::Leaf)).unwrap_err();
    assert!(error.to_string().contains(reason), "{error}");
}

#[test]
fn a_leaf_may_begin_before_its_ca_and_end_with_it() {
    let ca = root(KeySpec::Ecdsa256);
    let request = LeafRequest {
        spiffe_id: SPIFFE_ID,
        dns_names: &[],
        ip_addresses: &[],
        usages: &BOTH,
        serial: Serial::from_random([4; 16]),
        validity: validity("2025-12-31T23:55:00Z", "2036-01-01T00:00:00Z"),
    };
    issue_leaf(&ca, &request, &key(KeySpec::Ecdsa256, For::Leaf)).unwrap();
}

#[test]
fn a_leaf_is_refused_with_bad_names_or_without_a_usage() {
    let ca = root(KeySpec::Ecdsa256);
    let bad = leaf(&ca, &["a b".to_owned()], KeySpec::Ecdsa256).unwrap_err();
    assert!(matches!(bad, LeafError::Name(_)), "{bad}");
    let (dns_names, ip_addresses, usages) = (&[][..], &[][..], &[][..]);
    let (serial, validity) = (Serial::from_random([5; 16]), validity("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"));
    let request = LeafRequest { spiffe_id: SPIFFE_ID, dns_names, ip_addresses, usages, serial, validity };
    let none = issue_leaf(&ca, &request, &key(KeySpec::Ecdsa256, For::Leaf)).unwrap_err();
    assert_eq!(none, LeafError::NoUsage { spiffe_id: SPIFFE_ID.to_owned() });
}

#[rstest]
#[case::an_empty_common_name("", "gaia.local")]
#[case::a_long_common_name("0123456789012345678901234567890123456789012345678901234567890123x", "gaia.local")]
#[case::an_uppercase_trust_domain("Gaia CA", "GAIA")]
#[case::a_trust_domain_with_a_path("Gaia CA", "gaia.local/ns")]
fn a_root_is_refused_with(#[case] common_name: &str, #[case] trust_domain: &str) {
    let (serial, validity) = (Serial::from_random([6; 16]), validity("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"));
    let request = CaRequest { common_name, trust_domain, serial, validity };
    assert!(matches!(Ca::self_signed(&request, key(KeySpec::Ecdsa256, For::Ca)), Err(CaError::Name(_))));
}

#[test]
fn a_root_survives_its_ring() {
    let ca = root(KeySpec::Rsa2048);
    let read = Ca::load(ca.to_pem().as_bytes(), &ca.key().to_pem(), None).unwrap();
    assert_eq!(read.certificate(), ca.certificate());
    assert_eq!(read.root(), ca.root());
    assert!(leaf(&read, &names(), KeySpec::Ecdsa256).is_ok());
}

#[test]
fn a_bundle_keeps_its_order_and_names_nobody_twice() {
    let (one, two) = (root(KeySpec::Ecdsa256), root(KeySpec::Ecdsa384));
    let bundle = bundle_pem([two.root(), one.root(), two.root()]);
    assert_eq!(bundle, format!("{}{}", two.root().to_pem(), one.root().to_pem()));
    let read = Certificate::chain_from_pem(bundle.as_bytes()).unwrap();
    assert_eq!(read, [two.root().clone(), one.root().clone()]);
    assert!(bundle.lines().all(|line| !line.is_empty() && !line.starts_with('#')));
}

#[test]
fn no_debug_output_has_key_bytes() {
    let ca = root(KeySpec::Ecdsa256);
    let pem = ca.key().to_pem();
    let shown = format!("{ca:?}{ca:#?}{:?}", ca.key());
    assert!(pem.lines().filter(|line| !line.starts_with("---")).all(|line| !shown.contains(line)));
    assert!(shown.contains(&ca.key().public_key().fingerprint()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_serial_is_written_whole_and_positive(bits in any::<[u8; 16]>()) {
        let serial = Serial::from_random(bits);
        let span = Validity { not_before: at("2026-01-01T00:00:00Z"), not_after: at("2027-01-01T00:00:00Z") };
        let request = CaRequest { common_name: "Gaia CA", trust_domain: "gaia.local", serial, validity: span };
        let ca = Ca::self_signed(&request, key(KeySpec::Ecdsa256, For::Ca)).unwrap();
        prop_assert_eq!(ca.certificate().serial(), serial.to_string());
        // x509-parser reads the INTEGER as unsigned; the sign is in the first octet of its content.
        let der = ca.certificate().der();
        let at = der.windows(5).position(|w| w == [0xa0, 3, 2, 1, 2]).unwrap() + 5;
        prop_assert!(der[at] == 2 && usize::from(der[at + 1]) <= 17 && der[at + 2] < 0x80);
    }

    #[test]
    fn a_certificate_survives_its_pem(seconds in 1_i64..4_000_000_000) {
        let validity = Validity { not_before: jiff::Timestamp::UNIX_EPOCH, not_after: jiff::Timestamp::from_second(seconds).unwrap() };
        let ca = root_with(KeySpec::Ecdsa256, validity);
        let read = Certificate::chain_from_pem(ca.certificate().to_pem().as_bytes()).unwrap();
        prop_assert_eq!(read[0].not_after(), validity.not_after);
        prop_assert_eq!(&read[0], ca.certificate());
    }

    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..400) {
        let _ = Certificate::from_der(&bytes);
        let _ = Certificate::chain_from_pem(&bytes);
        let der = root(KeySpec::Ecdsa256).certificate().der().to_vec();
        prop_assert!(Certificate::from_der(&der[..cut.min(der.len() - 1)]).is_err());
        let mut damaged = der.clone();
        let place = cut.min(der.len() - 1);
        damaged[place] ^= 1;
        if let Ok(read) = Certificate::from_der(&damaged) {
            prop_assert!(!read.is_self_signed(), "a flipped bit at {} still verifies", place);
        }
    }
}
