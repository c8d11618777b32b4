//! Keys as OpenSSL writes them.

use gaia_pki::{KeyError, KeySpec, PrivateKey, PublicKey};
use rstest::rstest;

use crate::openssl::OpenSsl;
use crate::samples::{For, key};

#[rstest]
#[case::an_rsa_key(KeySpec::Rsa2048, "rsa")]
#[case::a_large_rsa_key(KeySpec::Rsa4096, "rsa")]
#[case::a_p256_key(KeySpec::Ecdsa256, "ec")]
#[case::a_p384_key(KeySpec::Ecdsa384, "ec")]
fn openssl_and_we_agree_on(#[case] spec: KeySpec, #[case] program: &str) {
    let Some(openssl) = OpenSsl::find() else { return };
    let key = key(spec, For::Leaf);
    openssl.write("pkcs8.pem", &key.to_pem());
    let public = openssl.run(&["pkey", "-in", "pkcs8.pem", "-pubout"]);
    assert_eq!(public, key.public_key().to_pem());
    assert_eq!(PublicKey::from_pem(&public).unwrap().spec(), Some(spec));
    let traditional = openssl.run(&["pkey", "-in", "pkcs8.pem", "-traditional"]);
    assert!(traditional.starts_with(&format!("-----BEGIN {} PRIVATE KEY-----", program.to_uppercase())));
    let read = PrivateKey::from_pem(&traditional).unwrap();
    assert_eq!((read.spec(), read.public_key()), (spec, key.public_key()));
    assert_eq!(*read.to_pem(), *key.to_pem(), "both forms are kept as the same PKCS #8");
}

#[test]
fn an_ec_key_with_its_parameters_before_it_is_read() {
    let Some(openssl) = OpenSsl::find() else { return };
    let pem = openssl.run(&["ecparam", "-name", "secp384r1", "-genkey"]);
    assert!(pem.contains("EC PARAMETERS"));
    assert_eq!(PrivateKey::from_pem(&pem).unwrap().spec(), KeySpec::Ecdsa384);
}

#[rstest]
#[case("RSA", Some("rsa_keygen_bits:1024"), "RSA 1024")]
#[case("RSA", Some("rsa_keygen_bits:2560"), "RSA 2560")]
#[case("EC", Some("ec_paramgen_curve:P-521"), "ECDSA P-521")]
#[case("EC", Some("ec_paramgen_curve:secp256k1"), "ECDSA on another curve")]
#[case("ED25519", None, "Ed25519")]
#[case("ED448", None, "Ed448")]
#[case("X25519", None, "a key of kind 1.3.101.110")]
#[case("RSA-PSS", Some("rsa_keygen_bits:2048"), "a key of kind 1.2.840.113549.1.1.10")]
fn a_key_we_do_not_use_is_named(#[case] algorithm: &str, #[case] option: Option<&str>, #[case] name: &str) {
    let Some(openssl) = OpenSsl::find() else { return };
    let pem = openssl.new_key((algorithm, option));
    let error = PrivateKey::from_pem(&pem).unwrap_err();
    assert_eq!(error, KeyError::Unsupported { kind: name.to_owned() });
    openssl.write("key.pem", &pem);
    let public = PublicKey::from_pem(&openssl.run(&["pkey", "-in", "key.pem", "-pubout"])).unwrap();
    assert_eq!((public.spec(), public.describe()), (None, name.to_owned()));
    if matches!(algorithm, "RSA" | "EC") {
        let traditional = openssl.run(&["pkey", "-in", "key.pem", "-traditional"]);
        assert_eq!(PrivateKey::from_pem(&traditional).unwrap_err(), KeyError::Unsupported { kind: name.to_owned() });
    }
}

#[test]
fn a_weak_exponent_is_named() {
    let Some(openssl) = OpenSsl::find() else { return };
    openssl.write("x", "");
    let pem = openssl.run(&[
        "genpkey",
        "-algorithm",
        "RSA",
        "-pkeyopt",
        "rsa_keygen_bits:2048",
        "-pkeyopt",
        "rsa_keygen_pubexp:3",
    ]);
    let error = PrivateKey::from_pem(&pem).unwrap_err();
    assert!(matches!(&error, KeyError::Unsupported { kind } if kind.contains("public exponent")), "{error:?}");
}

#[test]
fn an_encrypted_key_is_called_that() {
    let Some(openssl) = OpenSsl::find() else { return };
    openssl.write("key.pem", &key(KeySpec::Rsa2048, For::Leaf).to_pem());
    for form in [&[][..], &["-traditional"][..]] {
        let args = [&["pkey", "-in", "key.pem", "-aes256", "-passout", "pass:secret"], form].concat();
        assert_eq!(PrivateKey::from_pem(&openssl.run(&args)).unwrap_err(), KeyError::Encrypted);
    }
}
