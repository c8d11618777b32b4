//! Bring-your-own CAs: Gaia's decision is compared with that of `openssl verify`, with `-x509_strict` and without.

use gaia_pki::KeySpec;
use rstest::rstest;

use crate::brought::load;
use crate::openssl::{CA, OpenSsl, Wanted};
use crate::samples::{leaf, names};

#[derive(Clone, Copy)]
enum Decision {
    Accepted,
    /// Used, with a warning that has this text: only strict peers refuse it.
    NotStrict(&'static str),
    /// Refused with this text.
    Refused(&'static str),
}
use Decision::{Accepted, NotStrict, Refused};

const BASIC: &str = "basicConstraints=critical,CA:TRUE\n";
const USAGE: &str = "keyUsage=critical,keyCertSign,cRLSign\n";
const IDS: &str = "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n";

#[rstest]
#[case::complete(&[BASIC, USAGE, IDS], &[], Accepted)]
#[case::plain_req_x509(&[BASIC, IDS], &[], NotStrict("no keyUsage"))]
#[case::basic_constraints_not_critical(&["basicConstraints=CA:TRUE\n", USAGE, IDS], &[], NotStrict("not critical"))]
#[case::no_subject_key_id(&[BASIC, USAGE, "subjectKeyIdentifier=none\nauthorityKeyIdentifier=none\n"], &[], NotStrict("no subjectKeyIdentifier"))]
#[case::no_authority_key_id(&[BASIC, USAGE, "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=none\n"], &[], NotStrict("no authorityKeyIdentifier"))]
#[case::path_len_without_key_usage(&["basicConstraints=critical,CA:TRUE,pathlen:0\n", IDS], &[], NotStrict("no keyUsage"))]
#[case::another_authority_key_id(
    &[BASIC, USAGE, "subjectKeyIdentifier=hash\n2.5.29.35=DER:30:06:80:04:01:02:03:04\n"],
    &[],
    Refused("authorityKeyIdentifier whose keyIdentifier")
)]
#[case::another_authority_serial(
    &[BASIC, USAGE, "subjectKeyIdentifier=hash\n2.5.29.35=DER:30:17:A1:12:A4:10:30:0E:31:0C:30:0A:06:03:55:04:03:0C:03:52:6F:6F:82:01:05\n"],
    &[],
    Refused("authorityKeyIdentifier whose authorityCertSerialNumber")
)]
#[case::key_usage_without_signing(&[BASIC, "keyUsage=critical,cRLSign\n", IDS], &[], Refused("keyCertSign"))]
#[case::a_limiting_purpose(&[CA, "extendedKeyUsage=serverAuth\n"], &[], Refused("not for clientAuth"))]
#[case::any_purpose(&[CA, "extendedKeyUsage=anyExtendedKeyUsage\n"], &[], Refused("not for serverAuth"))]
#[case::both_purposes(&[CA, "extendedKeyUsage=serverAuth,clientAuth\n"], &[], Accepted)]
#[case::serial_negative(&[CA], &["-set_serial", "-5"], Refused("serial number that is negative"))]
#[case::serial_zero(&[CA], &["-set_serial", "0"], NotStrict("serial number 0"))]
#[case::serial_too_long(
    &[CA],
    &["-set_serial", "0x112233445566778899aabbccddeeff00112233445566"],
    Refused("longer than 20 octets")
)]
#[case::an_unknown_critical_extension(&[CA, "1.3.6.1.4.1.55555.2=critical,ASN1:UTF8String:x\n"], &[], Refused("1.3.6.1.4.1.55555.2"))]
#[case::constraints_for_directory_names(
    &[CA, "nameConstraints=critical,excluded;dirName:dn_sect\n[dn_sect]\nC=XX\n"],
    &[],
    Refused("nameConstraints for directoryName")
)]
#[case::constraints_for_mail(&[CA, "nameConstraints=critical,permitted;email:example.com\n"], &[], Accepted)]
#[case::sha1(&[CA], &["-sha1"], Refused("not supported: 1.2.840.10045.4.1"))]
#[case::version_1(&["# none\n"], &[], Refused("not a CA certificate"))]
fn a_ca_is_decided_on_as_peers_do(#[case] extensions: &[&str], #[case] flags: &[&str], #[case] decision: Decision) {
    let Some(openssl) = OpenSsl::find() else { return };
    let extensions = &extensions.concat();
    let plain = openssl.issue(&Wanted { subject: "/CN=Plain", ..Wanted::default() });
    let root = openssl.issue(&Wanted { extensions, flags, ..Wanted::default() });
    let below =
        openssl.issue(&Wanted { subject: "/CN=Issuing", extensions, flags, issuer: Some(&plain), ..Wanted::default() });
    for (which, issuing, above) in [("root", &root, None), ("intermediate", &below, Some(&plain))] {
        let extra = above.map(|above| above.certificate.as_str());
        let loaded = load(&issuing.certificate, &issuing.key, extra);
        let checked = loaded.and_then(|ca| ca.check_peers().map(|concerns| (ca, concerns)));
        match (checked, decision) {
            (Ok((ca, concerns)), Accepted | NotStrict(_)) => {
                let leaf = leaf(&ca, &names(), KeySpec::Ecdsa256).unwrap();
                assert_eq!(openssl.verify(&ca, &leaf, false), Ok(()), "{which}");
                let strict = openssl.verify(&ca, &leaf, true);
                match decision {
                    // A root needs no authority key identifier.
                    NotStrict("no authorityKeyIdentifier") if which == "root" => assert!(concerns.is_empty()),
                    NotStrict(text) => {
                        assert!(concerns.join("; ").contains(text), "{which}: {concerns:?}");
                        assert!(text.starts_with("serial") || strict.is_err(), "{which}: OpenSSL accepts it");
                    }
                    _ => assert!(concerns.is_empty() && strict.is_ok(), "{which}: {concerns:?}, {strict:?}"),
                }
            }
            (Err(error), Refused(text)) => assert!(error.to_string().contains(text), "{which}: {error}"),
            (Ok((_, concerns)), Refused(text)) => panic!("{which}: accepted with {concerns:?}, expected {text}"),
            (Err(error), _) => panic!("{which}: refused: {error}"),
        }
    }
}

/// Kind: a CA found by name and key alone. OpenSSL compares the key identifiers too.
#[test]
fn a_root_renewed_with_another_key_identifier_is_another_issuer() {
    let Some(openssl) = OpenSsl::find() else { return };
    let root = openssl.issue(&Wanted::default());
    let ca = load(&root.certificate, &root.key, None).unwrap();
    let leaf = leaf(&ca, &names(), KeySpec::Ecdsa256).unwrap();
    openssl.write("same.key", &root.key);
    for (id, is_same) in [("hash", true), ("01:02:03", false)] {
        let extensions = format!("{BASIC}{USAGE}subjectKeyIdentifier={id}\n");
        let config = format!("[req]\ndistinguished_name=dn\nx509_extensions=ext\n[dn]\n[ext]\n{extensions}");
        openssl.write("renew.cnf", &config);
        let certify = ["req", "-x509", "-utf8", "-config", "renew.cnf", "-key", "same.key", "-days", "3650"];
        let renewed = openssl.run(&[&certify[..], &["-subj", "/CN=Root"]].concat());
        let renewed = load(&renewed, &root.key, None).unwrap();
        assert!(leaf.certificate.is_signed_by(renewed.certificate()), "{id}");
        assert_eq!(leaf.certificate.is_issued_by(renewed.certificate()), is_same, "{id}");
        assert_eq!(ca.certificate().is_same_issuer(renewed.certificate()), is_same, "{id}");
        assert_eq!(openssl.verify(&renewed, &leaf, false).is_ok(), is_same, "OpenSSL: {id}");
    }
}
