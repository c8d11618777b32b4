//! Fixtures shared by the tests of this crate.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RsaKeyPair};
use gaia_api::SpiffeId;
use gaia_api::mount::{UserTokenIssuer, UserTokenProfile, UserTokenVerification};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::issue::{Actor, DelegatedClaims, ServiceClaims, Signer};
use crate::principal::PeerIdentity;
use crate::tokens::KeySet;

/// An RSA signing key, generated once for all tests.
pub(crate) static RSA_SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    Signer::from_pkcs8(pair.as_der().unwrap().as_ref()).unwrap()
});

/// An ECDSA signing key, generated once for all tests.
pub(crate) static EC_SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    Signer::from_pkcs8(pair.to_pkcs8v1().unwrap().as_ref()).unwrap()
});

pub(crate) fn keys() -> KeySet {
    KeySet::parse(json!({ "keys": [RSA_SIGNER.jwk(), EC_SIGNER.jwk()] }).to_string().as_bytes()).unwrap()
}

/// The fixed time of all tests.
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
        serial: "01".into(),
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

/// Claims that a service of [`own`] accepts from [`caller`], if it may act for a user.
pub(crate) fn delegated_claims() -> DelegatedClaims {
    DelegatedClaims {
        iss: "gaia-platform".to_owned(),
        sub: "user:supabase:3fa85f64".to_owned(),
        client_id: caller().to_string(),
        act: Actor { sub: caller().to_string() },
        service: "gateway".to_owned(),
        aud: own().to_string(),
        jti: "d1".to_owned(),
        iat: now().as_second(),
        exp: now().as_second() + 300,
        scope: None,
    }
}

/// An external issuer configured like Supabase Auth.
pub(crate) fn user_issuer() -> UserTokenIssuer {
    UserTokenIssuer {
        name: "supabase".to_owned(),
        issuer: "https://project.example/auth/v1".to_owned(),
        profile: UserTokenProfile::Supabase,
        verification: UserTokenVerification::JWKS,
        jwks_url: None,
        audiences: vec![],
        algorithms: vec![],
        required_claims: BTreeMap::new(),
        client_ids: vec![],
        ca_bundle: None,
        max_ttl_seconds: None,
    }
}

/// The claims of a session with that issuer.
pub(crate) fn user_claims() -> Value {
    json!({
        "iss": user_issuer().issuer,
        "sub": USER,
        "aud": "authenticated",
        "role": "authenticated",
        "session_id": "0d6a4a5c-2f7b-4d0a-9a38-5f0f3b2f9c11",
        "is_anonymous": false,
        "email": "ada@example.org",
        "aal": "aal1",
        "amr": [{ "method": "password", "timestamp": now().as_second() }],
        "user_metadata": {},
        "iat": now().as_second(),
        "exp": now().as_second() + 3600,
    })
}

/// The `sub` of [`user_claims`].
pub(crate) const USER: &str = "3fa85f64-5717-4562-b3fc-2c963f66afa6";

/// A token of the external issuer, signed with [`USER_SIGNER`].
pub(crate) fn user_token(claims: &Value) -> String {
    let header = json!({ "alg": "ES256", "kid": USER_SIGNER.kid(), "typ": "JWT" });
    USER_SIGNER.sign_parts(header.to_string().as_bytes(), claims.to_string().as_bytes()).unwrap()
}

/// The signing key of the external issuer.
pub(crate) static USER_SIGNER: LazyLock<Signer> = LazyLock::new(|| {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    Signer::from_pkcs8(pair.to_pkcs8v1().unwrap().as_ref()).unwrap()
});

/// The published keys of the external issuer.
pub(crate) fn user_key_set() -> KeySet {
    KeySet::parse_outside(json!({ "keys": [USER_SIGNER.jwk()] }).to_string().as_bytes(), &[]).unwrap()
}

/// Returns the output of a future that is ready at the first poll.
pub(crate) fn now_or_never<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the future is ready at the first poll"),
    }
}
