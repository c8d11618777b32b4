//! A service, its callers and an issuer whose key stays the same for the whole run.

use std::sync::{Arc, LazyLock};

use gaia_api::SpiffeId;
use gaia_api::mount::{
    ApiKeyRules, AuthMode, Caller, Policy, SCHEMA_VERSION, ServiceIdentity, TlsMode, TokenRules, UserTokens,
};
use gaia_auth::testing::Issuer;
use gaia_auth::tokens::KeySet;
use jiff::Timestamp;

pub(crate) static ISSUER: LazyLock<Issuer> = LazyLock::new(|| Issuer::new(tokens()));
pub(crate) static KEYS: LazyLock<Arc<KeySet>> = LazyLock::new(|| Arc::new(ISSUER.keys()));

/// The time of all decisions.
pub(crate) fn now() -> Timestamp {
    Timestamp::constant(1_800_000_000, 0)
}

pub(crate) fn id(service: &str) -> SpiffeId {
    SpiffeId::workload("shop.example", "shop", service)
}

pub(crate) fn tokens() -> TokenRules {
    TokenRules { issuer: "gaia-platform".to_owned(), audience: "gaia-services".to_owned(), max_ttl_seconds: 900 }
}

/// The policy of `assets`, which `web` may call, also on behalf of others, and `cron` for itself and with one scope.
pub(crate) fn policy(mode: AuthMode) -> Policy {
    let caller = |name: &str, scopes: &[&str], on_behalf_of| Caller {
        spiffe_id: id(name),
        scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
        on_behalf_of,
    };
    Policy {
        schema_version: SCHEMA_VERSION,
        service: ServiceIdentity { namespace: "shop".to_owned(), name: "assets".to_owned(), spiffe_id: id("assets") },
        tls_mode: TlsMode::Strict,
        mode,
        tokens: tokens(),
        callers: vec![caller("cron", &["assets:read"], false), caller("web", &[], true)],
        api_keys: ApiKeyRules::default(),
        user_tokens: UserTokens::default(),
        targets: None,
        token_issuer: None,
    }
}
