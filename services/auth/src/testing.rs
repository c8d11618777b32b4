//! An in-memory token issuer for the tests of services (feature `testing`).
//!
//! It issues valid tokens of each kind, and arbitrary ones with [`Issuer::forge`]; [`peer`] is the peer that presents
//! them. It is not for production: its key is generated at start and is not published.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use gaia_api::SpiffeId;
use gaia_api::mount::{TokenRules, UserTokenIssuer};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::issue::{Actor, DelegatedClaims, ServiceClaims, Signer};
use crate::principal::{Connection, Identity, Listener, PeerIdentity, Transport};
use crate::tokens::KeySet;

/// Issues tokens with its own key (ES256).
#[derive(Debug)]
pub struct Issuer {
    signer: Signer,
    tokens: TokenRules,
    issued: AtomicU64,
}

impl Issuer {
    /// Creates an issuer of tokens as `tokens` describes them.
    ///
    /// # Panics
    /// If the system cannot generate a key.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a test cannot continue without randomness")]
    pub fn new(tokens: TokenRules) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("the system has randomness");
        let der = pair.to_pkcs8v1().expect("a new key has a PKCS#8 form");
        let signer = Signer::from_pkcs8(der.as_ref()).expect("a new P-256 key is a signing key");
        Self { signer, tokens, issued: AtomicU64::new(0) }
    }

    /// Returns `jwks.json`.
    #[must_use]
    pub fn jwks(&self) -> String {
        json!({ "keys": [self.signer.jwk()] }).to_string()
    }

    /// Returns the public keys.
    ///
    /// # Panics
    /// Never: the set was written by [`Issuer::jwks`].
    #[must_use]
    #[expect(clippy::expect_used, reason = "the set was written by this type")]
    pub fn keys(&self) -> KeySet {
        KeySet::parse(self.jwks().as_bytes()).expect("the set was written by this type")
    }

    /// Issues a token of `caller` for `target` at `now`, with the maximum validity and without scopes.
    #[must_use]
    pub fn service_token(&self, caller: &SpiffeId, target: &SpiffeId, scopes: &[&str], now: Timestamp) -> String {
        self.signed(self.signer.sign(&ServiceClaims {
            iss: self.tokens.issuer.clone(),
            sub: caller.to_string(),
            client_id: caller.to_string(),
            service: service(caller),
            aud: target.to_string(),
            jti: self.next_id(),
            iat: now.as_second(),
            exp: now.as_second() + self.life(900),
            scope: (!scopes.is_empty()).then(|| scopes.join(" ")),
        }))
    }

    /// Like `service_token`, for a caller that acts on behalf of `subject`.
    #[must_use]
    pub fn delegated_token(&self, caller: &SpiffeId, subject: &Identity, target: &SpiffeId, now: Timestamp) -> String {
        self.signed(self.signer.sign(&DelegatedClaims {
            iss: self.tokens.issuer.clone(),
            sub: subject.to_string(),
            client_id: caller.to_string(),
            act: Actor { sub: caller.to_string() },
            service: service(caller),
            aud: target.to_string(),
            jti: self.next_id(),
            iat: now.as_second(),
            exp: now.as_second() + self.life(300),
            scope: None,
        }))
    }

    /// Issues a session token of an external issuer with this key, valid for an hour or the issuer's maximum, signed
    /// with ES256.
    #[must_use]
    pub fn user_token(&self, issuer: &UserTokenIssuer, sub: &str, now: Timestamp) -> String {
        let life = issuer.max_ttl_seconds.map_or(3600, |most| i64::try_from(most).unwrap_or(3600).min(3600));
        let audience = issuer.audiences.first().map_or("authenticated", String::as_str);
        let mut claims = json!({
            "iss": issuer.issuer,
            "sub": sub,
            "aud": audience,
            "role": "authenticated",
            "session_id": "0d6a4a5c-2f7b-4d0a-9a38-5f0f3b2f9c11",
            "is_anonymous": false,
            "iat": now.as_second(),
            "exp": now.as_second() + life,
        });
        for (name, value) in &issuer.required_claims {
            claims[name] = json!(value);
        }
        self.forge(&json!({ "alg": "ES256", "kid": self.signer.kid(), "typ": "JWT" }), &claims)
    }

    /// Signs any header and claims, to test how a service treats them.
    #[must_use]
    pub fn forge(&self, header: &Value, claims: &Value) -> String {
        self.forge_bytes(header.to_string().as_bytes(), claims.to_string().as_bytes())
    }

    /// Signs any bytes as header and claims.
    #[must_use]
    pub fn forge_bytes(&self, header: &[u8], claims: &[u8]) -> String {
        self.signed(self.signer.sign_parts(header, claims))
    }

    fn life(&self, longest: i64) -> i64 {
        i64::try_from(self.tokens.max_ttl_seconds).unwrap_or(longest).min(longest)
    }

    fn next_id(&self) -> String {
        format!("test-{}", self.issued.fetch_add(1, Ordering::Relaxed))
    }

    #[expect(clippy::expect_used, reason = "a test cannot continue if its key does not sign")]
    fn signed(&self, token: Result<String, crate::issue::SignerError>) -> String {
        token.expect("a valid key signs")
    }
}

/// Returns a connection on which `peer` presented a certificate that expires an hour after `now`.
#[must_use]
pub fn connection(peer: &SpiffeId, now: Timestamp) -> Connection {
    let peer = PeerIdentity {
        spiffe_id: peer.clone(),
        fingerprint: "ab".repeat(32),
        serial: "01".into(),
        not_after: now + SignedDuration::from_hours(1),
    };
    Connection { transport: Transport::Mtls, peer: Some(peer), address: None, listener: Listener::Mesh }
}

fn service(caller: &SpiffeId) -> String {
    caller.workload_parts().map_or_else(|| caller.to_string(), |(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gaia_api::mount::{
        ApiKeyRules, AuthMode, Caller, Policy, SCHEMA_VERSION, ServiceIdentity, TlsMode, UserTokens,
    };
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::fixtures::{USER, at, caller, now, own, user_issuer};
    use crate::{Access, Principal};
    use crate::{ApiKeyTable, Authenticator, Decision, Denied, Observer, Reason, Rules};

    struct Nobody;

    impl Observer for Nobody {
        fn decided(&self, _: &Decision<'_>) {}
    }

    #[test]
    fn its_tokens_are_taken_by_a_service_and_a_forged_one_is_not() {
        let tokens = TokenRules { issuer: "i".into(), audience: "a".into(), max_ttl_seconds: 600 };
        let (issuer, outside) = (Issuer::new(tokens.clone()), Issuer::new(tokens.clone()));
        let policy = Policy {
            schema_version: SCHEMA_VERSION,
            service: ServiceIdentity { namespace: "shop".into(), name: "assets".into(), spiffe_id: own() },
            tls_mode: TlsMode::Strict,
            mode: AuthMode::JWTOnly,
            tokens,
            callers: vec![Caller { spiffe_id: caller(), scopes: vec![], on_behalf_of: true }],
            api_keys: ApiKeyRules::default(),
            user_tokens: UserTokens { issuers: vec![user_issuer()], scopes: vec![] },
            targets: None,
            token_issuer: None,
        };
        let clock = Arc::new(gaia_api::ManualClock::new(now()));
        let authenticator = Authenticator::new(clock, Arc::new(Nobody));
        let rules = Rules::new(policy, Some(Arc::new(issuer.keys())), Denied::default(), ApiKeyTable::default());
        authenticator.replace(Arc::new(rules));
        authenticator.user_keys().set("supabase", &Arc::new(outside.keys()));
        let ask = |token: &str| -> Result<Principal, Reason> {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", HeaderValue::try_from(format!("Bearer {token}")).unwrap());
            let peer = connection(&caller(), now());
            let passed = authenticator.check("/", Access::Scopes(&["assets:read"]), &headers, &peer);
            passed.map(|passed| passed.principal.unwrap()).map_err(|refused| refused.refusal.reason)
        };
        let service = issuer.service_token(&caller(), &own(), &["assets:read"], now());
        assert_eq!(ask(&service).unwrap().subject, Identity::Service(caller()));
        let key = Identity::Key("mobile".into());
        assert_eq!(ask(&issuer.delegated_token(&caller(), &key, &own(), now())).unwrap().subject, key);
        let user = ask(&outside.user_token(&user_issuer(), USER, now())).unwrap();
        assert_eq!(
            (user.subject.to_string(), user.actor),
            (format!("user:supabase:{USER}"), Identity::Service(caller()))
        );
        let short_lived = UserTokenIssuer { max_ttl_seconds: Some(600), ..user_issuer() };
        assert_eq!(ask(&outside.user_token(&short_lived, USER, now())).unwrap().expires, Some(at(1_800_000_600)));
        assert_eq!(ask(&issuer.service_token(&caller(), &own(), &["chat:write"], now())), Err(Reason::ScopeMissing));
        let forged = issuer.forge(&json!({"alg": "ES256", "kid": "x", "typ": "at+jwt"}), &json!({}));
        assert_eq!(ask(&forged), Err(Reason::KidUnknown));
    }
}
