//! Bring-your-own CAs, created with OpenSSL: those that are accepted, and the chains of their leaves.

use gaia_pki::{Ca, CaError, Certificate, KeySpec, LeafError};
use rstest::rstest;

use crate::openssl::{CA, Issued, OpenSsl, P256, Wanted};
use crate::samples::{leaf, names};

/// Loads a CA at the start of its validity.
pub(crate) fn load(chain: &str, key: &str, extra: Option<&str>) -> Result<Ca, CaError> {
    let now = Certificate::chain_from_pem(chain.as_bytes()).map(|chain| chain[0].not_before());
    Ca::from_pem(chain.as_bytes(), key, extra.map(str::as_bytes), now.unwrap_or_default())
}

/// Issues a leaf of every curve and checks it with OpenSSL, the strict way.
fn assert_issues(openssl: &OpenSsl, ca: &Ca) {
    for spec in [KeySpec::Ecdsa256, KeySpec::Rsa2048] {
        let leaf = leaf(ca, &names(), spec).unwrap();
        openssl.verify(ca, &leaf, true).unwrap();
        let shipped = Certificate::chain_from_pem(leaf.chain_pem.as_bytes()).unwrap();
        assert_eq!(shipped[0], leaf.certificate);
        assert_eq!(&shipped[1..], ca.chain());
        assert!(!shipped.contains(ca.root()), "the root is never shipped");
    }
}

#[rstest]
#[case::repeated_units("/C=DE/O=Example/OU=one/OU=two/OU=three/CN=Root", "utf8only")]
#[case::the_same_unit_twice("/OU=same/OU=same/OU=same", "utf8only")]
#[case::components_of_a_domain("/DC=com/DC=example/DC=ca", "utf8only")]
#[case::a_set_of_attributes("/O=Example/OU=one+CN=Root", "utf8only")]
#[case::sets_and_repetition("/O=Example/OU=one+OU=two+CN=Root/OU=three+serialNumber=7/OU=three", "utf8only")]
#[case::printable_strings("/C=DE/O=Example/CN=Root", "default")]
#[case::t61_strings("/O=Exämple/CN=Röot", "MASK:0x4")]
#[case::bmp_strings("/O=Exämple/CN=Röot ✓", "MASK:0x800")]
#[case::universal_strings("/O=Exämple/CN=Röot", "MASK:0x100")]
#[case::utf8_strings("/O=例え/CN=✓", "utf8only")]
#[case::an_email_address("/CN=Root/emailAddress=ca@example.com", "utf8only")]
#[case::an_attribute_of_its_own("/1.3.6.1.4.1.55555.1=x/CN=Root", "utf8only")]
fn the_issuer_name_is_copied_to_the_byte_with(#[case] subject: &str, #[case] string_mask: &str) {
    let Some(openssl) = OpenSsl::find() else { return };
    let root = openssl.issue(&Wanted { subject, string_mask, ..Wanted::default() });
    let ca = load(&root.certificate, &root.key, None).unwrap();
    assert_issues(&openssl, &ca);
    let leaf = leaf(&ca, &names(), KeySpec::Ecdsa256).unwrap().certificate;
    assert_eq!(leaf.issuer(), ca.certificate().subject());
}

#[rstest]
#[case::rsa_2048(("RSA", Some("rsa_keygen_bits:2048")), KeySpec::Rsa2048)]
#[case::rsa_3072(("RSA", Some("rsa_keygen_bits:3072")), KeySpec::Rsa3072)]
#[case::rsa_4096(("RSA", Some("rsa_keygen_bits:4096")), KeySpec::Rsa4096)]
#[case::p256(P256, KeySpec::Ecdsa256)]
#[case::p384(("EC", Some("ec_paramgen_curve:P-384")), KeySpec::Ecdsa384)]
fn a_root_is_accepted_with_a_key_of(#[case] key: (&str, Option<&str>), #[case] spec: KeySpec) {
    let Some(openssl) = OpenSsl::find() else { return };
    let root = openssl.issue(&Wanted { key, ..Wanted::default() });
    openssl.write("key.pem", &root.key);
    let traditional = openssl.run(&["pkey", "-in", "key.pem", "-traditional"]);
    for pem in [&root.key, &traditional] {
        let ca = load(&root.certificate, pem, None).unwrap();
        assert_eq!((ca.key().spec(), ca.chain()), (spec, &[][..]));
        assert_issues(&openssl, &ca);
    }
}

/// A root, and two intermediates below it.
fn three_levels(openssl: &OpenSsl) -> [Issued; 3] {
    let root = openssl.issue(&Wanted {
        subject: "/O=Example/OU=one+OU=two/OU=two/CN=Root",
        key: ("RSA", Some("rsa_keygen_bits:2048")),
        ..Wanted::default()
    });
    let middle = openssl.issue(&Wanted { subject: "/O=Example/OU=x/OU=x", issuer: Some(&root), ..Wanted::default() });
    let extensions = &CA.replace("CA:TRUE", "CA:TRUE,pathlen:0");
    let subject = "/O=Example/OU=y+CN=Issuing/OU=y";
    let last = openssl.issue(&Wanted { subject, extensions, issuer: Some(&middle), ..Wanted::default() });
    [root, middle, last]
}

#[test]
fn a_chain_is_completed_wherever_its_parts_stand() {
    let Some(openssl) = OpenSsl::find() else { return };
    let [root, middle, last] = three_levels(&openssl);
    let (root, middle, key, last) = (&root.certificate, &middle.certificate, &last.key, &last.certificate);
    let foreign = openssl.issue(&Wanted::default()).certificate;
    let all = format!("{last}{middle}{root}");
    for (chain, extra) in [
        (all.clone(), None),
        (all.clone(), Some(root.clone())),
        (all, Some(foreign.clone())),
        (format!("{last}{middle}"), Some(root.clone())),
        (last.clone(), Some(format!("{foreign}{root}{middle}"))),
    ] {
        let ca = load(&chain, key, extra.as_deref()).unwrap();
        assert_eq!(ca.chain().iter().map(Certificate::to_pem).collect::<String>(), format!("{last}{middle}"));
        assert_eq!(&ca.root().to_pem(), root);
        assert_eq!(&ca.certificate().to_pem(), last);
        assert_issues(&openssl, &ca);
        let again = Ca::load(ca.to_pem().as_bytes(), &ca.key().to_pem(), None).unwrap();
        assert_eq!((again.chain(), again.root()), (ca.chain(), ca.root()));
    }
}

#[test]
fn the_leaf_points_at_the_identifier_the_ca_really_has() {
    let Some(openssl) = OpenSsl::find() else { return };
    let extensions = &CA.replace("=hash", "=01:02:03").replace("authorityKeyIdentifier=keyid\n", "");
    let root = openssl.issue(&Wanted { extensions, ..Wanted::default() });
    let ca = load(&root.certificate, &root.key, None).unwrap();
    let leaf = leaf(&ca, &names(), KeySpec::Ecdsa256).unwrap().certificate;
    assert_eq!(leaf.authority_key_id(), Some(&[1, 2, 3][..]));
    assert_issues(&openssl, &ca);
}

#[test]
fn a_ca_without_identifier_and_key_usage_is_accepted() {
    let Some(openssl) = OpenSsl::find() else { return };
    let extensions = "basicConstraints=CA:TRUE\n";
    let root = openssl.issue(&Wanted { extensions, ..Wanted::default() });
    let ca = load(&root.certificate, &root.key, None).unwrap();
    let leaf = leaf(&ca, &names(), KeySpec::Ecdsa256).unwrap();
    assert_eq!(leaf.certificate.authority_key_id().map(<[u8]>::len), Some(20));
    openssl.verify(&ca, &leaf, false).unwrap();
}

#[test]
fn an_intermediate_signed_with_pss_is_accepted() {
    let Some(openssl) = OpenSsl::find() else { return };
    let root = openssl.issue(&Wanted { key: ("RSA", Some("rsa_keygen_bits:2048")), ..Wanted::default() });
    let flags = &["-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"];
    let last = openssl.issue(&Wanted { subject: "/CN=Issuing", issuer: Some(&root), flags, ..Wanted::default() });
    let ca = load(&last.certificate, &last.key, Some(&root.certificate)).unwrap();
    assert_issues(&openssl, &ca);
}

#[rstest]
#[case::the_names_it_permits("nameConstraints=critical,permitted;DNS:default.svc,permitted;DNS:auth-service", None)]
#[case::other_names("nameConstraints=critical,permitted;DNS:example.com", Some("NameConstraintViolation"))]
#[case::names_it_excludes("nameConstraints=critical,excluded;DNS:default.svc", Some("NameConstraintViolation"))]
#[case::only_certain_uris("nameConstraints=critical,permitted;URI:gaia.local", Some("NameConstraintViolation"))]
fn a_constrained_ca_certifies(#[case] constraints: &str, #[case] refusal: Option<&str>) {
    let Some(openssl) = OpenSsl::find() else { return };
    let extensions = &format!("{CA}{constraints}\n");
    let root = openssl.issue(&Wanted { extensions, ..Wanted::default() });
    let below = openssl.issue(&Wanted { subject: "/CN=Issuing", issuer: Some(&root), ..Wanted::default() });
    for ca in [load(&root.certificate, &root.key, None), load(&below.certificate, &below.key, Some(&root.certificate))]
    {
        let ca = ca.unwrap();
        let Some(reason) = refusal else {
            assert_issues(&openssl, &ca);
            continue;
        };
        let error = leaf(&ca, &names(), KeySpec::Ecdsa256).unwrap_err();
        assert!(matches!(error, LeafError::Path { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[rstest]
#[case::a_purpose_that_is_not_ours("extendedKeyUsage=clientAuth\n", "is not for serverAuth (extendedKeyUsage)")]
#[case::any_purpose_only("extendedKeyUsage=anyExtendedKeyUsage\n", "is not for serverAuth (extendedKeyUsage)")]
fn no_leaf_comes_from_below_a_certificate_with(#[case] extension: &str, #[case] reason: &str) {
    let Some(openssl) = OpenSsl::find() else { return };
    let extensions = &format!("{CA}{extension}");
    let plain = openssl.issue(&Wanted::default());
    let subject = "/CN=Issuing";
    let below_plain = openssl.issue(&Wanted { subject, extensions, issuer: Some(&plain), ..Wanted::default() });
    let marked = openssl.issue(&Wanted { extensions, ..Wanted::default() });
    let below_marked = openssl.issue(&Wanted { subject, issuer: Some(&marked), ..Wanted::default() });
    for (issuing, root) in [(&below_plain, Some(&plain)), (&marked, None), (&below_marked, Some(&marked))] {
        let ca = load(&issuing.certificate, &issuing.key, root.map(|root| root.certificate.as_str())).unwrap();
        let error = leaf(&ca, &names(), KeySpec::Ecdsa256).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn a_ca_that_names_both_purposes_is_accepted() {
    let Some(openssl) = OpenSsl::find() else { return };
    let extensions = &format!("{CA}extendedKeyUsage=serverAuth,clientAuth,codeSigning\n");
    let root = openssl.issue(&Wanted { extensions, ..Wanted::default() });
    assert_issues(&openssl, &load(&root.certificate, &root.key, None).unwrap());
}

#[test]
fn a_leaf_never_outlives_any_certificate_above_it() {
    let Some(openssl) = OpenSsl::find() else { return };
    let root = openssl.issue(&Wanted { flags: &["-days", "30"], ..Wanted::default() });
    let last = openssl.issue(&Wanted { subject: "/CN=Issuing", issuer: Some(&root), ..Wanted::default() });
    let ca = load(&last.certificate, &last.key, Some(&root.certificate)).unwrap();
    assert_eq!(ca.not_after(), ca.root().not_after());
    assert!(ca.certificate().not_after() > ca.not_after());
    let error = leaf(&ca, &names(), KeySpec::Ecdsa256).unwrap_err();
    assert!(matches!(error, LeafError::OutlivesCa { .. }), "{error}");
}
