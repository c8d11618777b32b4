//! What this crate's tests share.

use std::sync::LazyLock;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RsaKeyPair};
use gaia_api::SpiffeId;
use jiff::Timestamp;
use serde_json::json;

use crate::issue::{ServiceClaims, Signer};
use crate::jwt::KeySet;
use crate::principal::PeerIdentity;

/// An RSA signing key, made once for all tests.
pub(crate) static RSA_SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    Signer::from_pkcs8(pair.as_der().unwrap().as_ref()).unwrap()
});

/// An ECDSA signing key, made once for all tests.
pub(crate) static EC_SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    Signer::from_pkcs8(pair.to_pkcs8v1().unwrap().as_ref()).unwrap()
});

pub(crate) fn keys() -> KeySet {
    KeySet::parse(json!({ "keys": [RSA_SIGNER.jwk(), EC_SIGNER.jwk()] }).to_string().as_bytes()).unwrap()
}

/// The time of every test.
pub(crate) fn now() -> Timestamp {
    at(1_800_000_000)
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(crate) fn own() -> SpiffeId {
    SpiffeId::workload("gaia.local", "shop", "asset-service")
}

pub(crate) fn caller() -> SpiffeId {
    SpiffeId::workload("gaia.local", "shop", "gateway")
}

pub(crate) fn peer(spiffe_id: SpiffeId) -> PeerIdentity {
    PeerIdentity {
        spiffe_id,
        fingerprint: "ab".repeat(32),
        serial: "01".to_owned(),
        not_after: now() + jiff::SignedDuration::from_hours(1),
    }
}

/// Claims that a service of [`own`] accepts from [`caller`].
pub(crate) fn claims() -> ServiceClaims {
    ServiceClaims {
        iss: "gaia-platform".to_owned(),
        sub: caller().to_string(),
        client_id: caller().to_string(),
        service: "gateway".to_owned(),
        aud: own().to_string(),
        jti: "j1".to_owned(),
        iat: now().as_second(),
        exp: now().as_second() + 900,
        scope: Some("assets:read".to_owned()),
    }
}
