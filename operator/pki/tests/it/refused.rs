//! Bring-your-own CAs, created with OpenSSL: those that are rejected, and the reasons.

use gaia_pki::{Ca, CaError, CertificateError, KeyError};
use jiff::SignedDuration;
use rstest::rstest;

use crate::brought::load;
use crate::openssl::{CA, Issued, OpenSsl, Wanted};

fn root(openssl: &OpenSsl) -> Issued {
    openssl.issue(&Wanted::default())
}

fn below(openssl: &OpenSsl, issuer: &Issued) -> Issued {
    openssl.issue(&Wanted { subject: "/CN=Issuing", issuer: Some(issuer), ..Wanted::default() })
}

#[test]
fn garbage_is_refused_by_what_it_is() {
    let Some(openssl) = OpenSsl::find() else { return };
    let good = root(&openssl);
    let refuse = |chain: &str, key: &str| load(chain, key, None).unwrap_err();
    assert_eq!(refuse("", &good.key), CaError::NoCertificate);
    assert!(matches!(refuse("garbage", &good.key), CaError::Certificate { source: CertificateError::Armor(_), .. }));
    assert!(matches!(refuse(&good.key, &good.key), CaError::Certificate { source: CertificateError::Armor(_), .. }));
    let cut = &good.certificate[..good.certificate.len() / 2];
    assert!(matches!(refuse(cut, &good.key), CaError::Certificate { source: CertificateError::Armor(_), .. }));
    let hollow = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    assert!(matches!(
        refuse(&format!("{}{hollow}", good.certificate), &good.key),
        CaError::Certificate { source: CertificateError::Der { position: 2, .. }, .. }
    ));
    assert!(matches!(refuse(&good.certificate, "garbage"), CaError::Key(KeyError::Armor(_))));
    assert_eq!(refuse(&good.certificate, ""), CaError::Key(KeyError::Count { found: 0 }));
    let extra = load(&good.certificate, &good.key, Some("garbage")).unwrap_err();
    assert!(matches!(extra, CaError::Certificate { what: "the extra roots", .. }));
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let Some(openssl) = OpenSsl::find() else { return };
    let (one, two) = (root(&openssl), root(&openssl));
    let error = load(&one.certificate, &two.key, None).unwrap_err();
    assert!(matches!(error, CaError::KeyMismatch { .. }), "{error}");
    assert!(error.to_string().contains("CN=Root"), "{error}");
}

#[rstest]
#[case::no_basic_constraints("subjectKeyIdentifier=hash\n", "not a CA certificate")]
#[case::basic_constraints_that_say_no("basicConstraints=critical,CA:FALSE\n", "not a CA certificate")]
#[case::an_extension_nobody_knows(
    "basicConstraints=CA:TRUE\n1.3.6.1.4.1.55555.2=critical,ASN1:UTF8String:x\n",
    "not supported: 1.3.6.1.4.1.55555.2"
)]
#[case::critical_policies(
    "basicConstraints=CA:TRUE\ncertificatePolicies=critical,1.2.3.4\n",
    "not supported: 2.5.29.32"
)]
#[case::a_key_usage_without_signing("basicConstraints=CA:TRUE\nkeyUsage=cRLSign,digitalSignature\n", "keyCertSign")]
fn a_certificate_is_refused_with(#[case] extensions: &str, #[case] reason: &str) {
    let Some(openssl) = OpenSsl::find() else { return };
    let own = openssl.issue(&Wanted { extensions, ..Wanted::default() });
    let error = load(&own.certificate, &own.key, None).unwrap_err();
    assert!(error.to_string().contains(reason), "{error}");

    let root = root(&openssl);
    let bad = openssl.issue(&Wanted { subject: "/CN=Middle", extensions, issuer: Some(&root), ..Wanted::default() });
    let last = below(&openssl, &bad);
    let chain = format!("{}{}", last.certificate, bad.certificate);
    let error = load(&chain, &last.key, Some(&root.certificate)).unwrap_err();
    assert!(error.to_string().contains(reason) && error.to_string().contains("CN=Middle"), "{error}");
}

#[rstest]
#[case::rsa_1024(("RSA", Some("rsa_keygen_bits:1024")), "RSA 1024")]
#[case::p521(("EC", Some("ec_paramgen_curve:P-521")), "ECDSA P-521")]
#[case::ed25519(("ED25519", None), "Ed25519")]
fn a_key_is_refused_that_is(#[case] key: (&str, Option<&str>), #[case] name: &str) {
    let Some(openssl) = OpenSsl::find() else { return };
    let bad = openssl.issue(&Wanted { key, ..Wanted::default() });
    let error = load(&bad.certificate, &bad.key, None).unwrap_err();
    assert_eq!(error, CaError::Key(KeyError::Unsupported { kind: name.to_owned() }));
}

#[test]
fn a_weak_root_above_a_good_intermediate_is_refused() {
    let Some(openssl) = OpenSsl::find() else { return };
    let weak = openssl.issue(&Wanted { key: ("RSA", Some("rsa_keygen_bits:1024")), ..Wanted::default() });
    let last = below(&openssl, &weak);
    let chain = format!("{}{}", last.certificate, weak.certificate);
    let expected = CaError::UnsupportedKey { subject: "CN=Root".to_owned(), kind: "RSA 1024".to_owned() };
    assert_eq!(load(&chain, &last.key, None).unwrap_err(), expected);
    assert_eq!(load(&last.certificate, &last.key, Some(&weak.certificate)).unwrap_err(), expected);
}

#[test]
fn a_signature_nobody_should_trust_is_called_that() {
    let Some(openssl) = OpenSsl::find() else { return };
    let key = ("RSA", Some("rsa_keygen_bits:2048"));
    let old = openssl.issue(&Wanted { key, flags: &["-sha1"], ..Wanted::default() });
    let sha1 = "1.2.840.113549.1.1.5".to_owned();
    let expected = CaError::UnsupportedSignature { subject: "CN=Root".to_owned(), algorithm: sha1 };
    assert_eq!(load(&old.certificate, &old.key, None).unwrap_err(), expected);
    let last = below(&openssl, &old);
    assert_eq!(load(&last.certificate, &last.key, Some(&old.certificate)).unwrap_err(), expected);
}

#[test]
fn a_ca_without_a_name_is_refused() {
    let Some(openssl) = OpenSsl::find() else { return };
    let nameless = openssl.issue(&Wanted { subject: "/", ..Wanted::default() });
    assert_eq!(load(&nameless.certificate, &nameless.key, None).unwrap_err(), CaError::EmptySubject { position: 1 });
}

#[test]
fn a_chain_out_of_order_broken_or_too_long_is_refused() {
    let Some(openssl) = OpenSsl::find() else { return };
    let root = root(&openssl);
    let middle = openssl.issue(&Wanted { subject: "/CN=Middle", issuer: Some(&root), ..Wanted::default() });
    let last = below(&openssl, &middle);
    let stranger = openssl.issue(&Wanted { subject: "/CN=Stranger", ..Wanted::default() });
    let refuse = |parts: &[&Issued]| {
        let chain: String = parts.iter().map(|part| part.certificate.as_str()).collect();
        load(&chain, &last.key, None).unwrap_err()
    };
    let middle_name = || "CN=Middle".to_owned();
    let issuing = || "CN=Issuing".to_owned();
    assert_eq!(refuse(&[&middle, &last, &root]), CaError::OutOfOrder { subject: issuing(), position: 1 });
    assert_eq!(refuse(&[&last, &root, &middle]), CaError::OutOfOrder { subject: middle_name(), position: 2 });
    let stranger_name = "CN=Stranger".to_owned();
    assert_eq!(refuse(&[&last, &stranger]), CaError::NotChaining { subject: issuing(), issuer: stranger_name.clone() });
    let root_name = "CN=Root".to_owned();
    assert_eq!(
        refuse(&[&last, &middle, &root, &stranger]),
        CaError::AfterRoot { subject: stranger_name, root: root_name.clone() }
    );
    assert_eq!(refuse(&[&last, &middle]), CaError::NoRoot { subject: middle_name(), issuer: root_name });
    assert_eq!(refuse(&[&last]), CaError::NoRoot { subject: issuing(), issuer: middle_name() });
}

#[test]
fn an_issuer_of_the_right_name_with_another_key_does_not_count() {
    let Some(openssl) = OpenSsl::find() else { return };
    let (real, impostor) = (root(&openssl), root(&openssl));
    let last = below(&openssl, &real);
    let chain = format!("{}{}", last.certificate, impostor.certificate);
    assert!(matches!(load(&chain, &last.key, None), Err(CaError::NotChaining { .. })));
    let extra = load(&last.certificate, &last.key, Some(&impostor.certificate));
    assert!(matches!(extra, Err(CaError::NoRoot { .. })));
}

#[test]
fn a_path_length_that_forbids_the_chain_is_refused() {
    let Some(openssl) = OpenSsl::find() else { return };
    let extensions = &CA.replace("CA:TRUE", "CA:TRUE,pathlen:0");
    let root = openssl.issue(&Wanted { extensions, ..Wanted::default() });
    assert!(load(&root.certificate, &root.key, None).is_ok(), "pathLen 0 allows leaves");
    let last = below(&openssl, &root);
    let error = load(&last.certificate, &last.key, Some(&root.certificate)).unwrap_err();
    assert_eq!(error, CaError::PathLength { subject: "CN=Root".to_owned(), path_len: 0, below: 1 });
}

#[test]
fn the_time_is_checked_for_every_certificate_and_only_when_asked() {
    let Some(openssl) = OpenSsl::find() else { return };
    let root = openssl.issue(&Wanted { flags: &["-days", "30"], ..Wanted::default() });
    let last = below(&openssl, &root);
    let ca = Ca::load(last.certificate.as_bytes(), &last.key, Some(root.certificate.as_bytes())).unwrap();
    let from_pem = |now| Ca::from_pem(last.certificate.as_bytes(), &last.key, Some(root.certificate.as_bytes()), now);
    let second = SignedDuration::from_secs(1);
    assert!(from_pem(ca.not_before()).is_ok());
    assert!(from_pem(ca.root().not_after()).is_ok(), "the last second belongs to it");
    let late = from_pem(ca.root().not_after() + second).unwrap_err();
    assert!(matches!(&late, CaError::Expired { subject, .. } if subject == "CN=Root"), "{late}");
    let early = from_pem(ca.root().not_before() - second).unwrap_err();
    assert!(matches!(early, CaError::NotYetValid { .. }), "{early}");
}

#[test]
fn what_is_too_large_is_not_even_read() {
    let Some(openssl) = OpenSsl::find() else { return };
    let good = root(&openssl);
    let long = "x".repeat(64 * 1024 + 1);
    let limit = 64 * 1024;
    let too_large = |what| CaError::TooLarge { what, bytes: limit + 1, limit };
    assert_eq!(load(&long, &good.key, None).unwrap_err(), too_large("the certificate chain"));
    assert_eq!(load(&good.certificate, &long, None).unwrap_err(), too_large("the key"));
    assert_eq!(load(&good.certificate, &good.key, Some(&long)).unwrap_err(), too_large("the extra roots"));
    let many = good.certificate.repeat(11);
    let what = "the certificate chain";
    assert_eq!(load(&many, &good.key, None).unwrap_err(), CaError::TooMany { what, found: 11, limit: 10 });
}
