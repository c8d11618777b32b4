//! Any request under any policy, compared with the tables of docs/auth.md.

use std::sync::{Arc, LazyLock};

use gaia_api::mount::{ApiKeyRecord, ApiKeyState, ApiKeys, AuthMode, Brownout, Policy, SCHEMA_VERSION};
use gaia_auth::testing::connection;
use gaia_auth::{ApiKeyTable, Connection, Denied, Identity, Reason, Rules};
use gaia_pki::sha256_hex;
use http::{HeaderMap, HeaderValue};
use jiff::SignedDuration;
use serde_json::json;

use crate::scene::{ISSUER, KEYS, id, now, policy};

/// Each byte is one choice; missing ones are zero.
pub(crate) fn decision(data: &[u8]) {
    let mut choices = data.iter().copied();
    let mut choose = |count: u8| choices.next().unwrap_or(0) % count;
    let case = Case {
        mode: MODES[usize::from(choose(3))],
        token: TOKENS[usize::from(choose(7))],
        has_key: choose(2) == 1,
        key: Key {
            is_known: choose(4) > 0,
            is_shared: choose(2) == 1,
            owner: [None, Some("web"), Some("cron"), Some("nobody")][usize::from(choose(4))],
            is_active: choose(4) > 0,
            expires_in: [None, Some(-1), Some(0), Some(1)][usize::from(choose(4))],
            mode: [None, Some(MODES[0]), Some(MODES[1]), Some(MODES[2])][usize::from(choose(4))],
        },
        peer: [None, Some("web"), Some("cron"), Some("nobody")][usize::from(choose(4))],
        caller: ["web", "cron", "nobody"][usize::from(choose(3))],
        is_brownout: choose(2) == 1,
    };
    let verdict = case.rules().authenticate(&case.headers(), &case.connection(), now());
    let found = verdict.result.map(|principal| principal.subject.to_string()).map_err(|refusal| refusal.reason);
    assert_eq!(found, case.expected(), "{case:?}");
    let is_recognised = case.has_key && case.key.is_known;
    assert_eq!(verdict.key_id.is_some(), is_recognised, "a known key is counted whatever becomes of it: {case:?}");
}

#[derive(Debug, Clone, Copy)]
struct Case {
    mode: AuthMode,
    token: Token,
    has_key: bool,
    key: Key,
    /// The mTLS peer.
    peer: Option<&'static str>,
    /// The client of the token.
    caller: &'static str,
    is_brownout: bool,
}

#[derive(Debug, Clone, Copy)]
struct Key {
    is_known: bool,
    is_shared: bool,
    owner: Option<&'static str>,
    is_active: bool,
    expires_in: Option<i64>,
    mode: Option<AuthMode>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Nothing,
    Service,
    Broad,
    Delegated,
    ForAnother,
    Ended,
    Malformed,
}

impl Case {
    fn rules(&self) -> Rules {
        let mut policy: Policy = policy(self.mode);
        if self.is_brownout {
            let brownout = Brownout { start: now(), end: now() + SignedDuration::from_secs(1) };
            policy.api_keys.brownouts = vec![brownout];
        }
        let key = self.key;
        let record = ApiKeyRecord {
            id: "one".to_owned(),
            sha256: sha256_hex(if key.is_known { KEY } else { "another" }.as_bytes()),
            principal: key.owner.map_or_else(|| "somebody".to_owned(), |owner| id(owner).to_string()),
            scopes: Vec::new(),
            expires: key.expires_in.map(|seconds| now() + SignedDuration::from_secs(seconds)),
            state: if key.is_active { ApiKeyState::Active } else { ApiKeyState::Revoked },
            mode: key.mode,
            shared: key.is_shared,
        };
        let table = ApiKeyTable::try_from(ApiKeys { schema_version: SCHEMA_VERSION, keys: vec![record] });
        Rules::new(policy, Some(Arc::clone(&KEYS)), Denied::default(), table.expect("the record is a good one"))
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.token != Token::Nothing {
            let caller = CALLERS.iter().position(|caller| *caller == self.caller).unwrap_or_default();
            let token = &SIGNED[caller][self.token as usize];
            headers.insert("authorization", HeaderValue::try_from(format!("Bearer {token}")).expect("a token is text"));
        }
        if self.has_key {
            headers.insert("x-api-key", HeaderValue::from_static(KEY));
        }
        headers
    }

    fn connection(&self) -> Connection {
        self.peer.map_or_else(Connection::default, |peer| connection(&id(peer), now()))
    }

    /// The tables of docs/auth.md, in code.
    fn expected(&self) -> Result<String, Reason> {
        let own = self.key.mode.filter(|_| self.has_key && self.key.is_known);
        let mode = own.map_or(self.mode, |own| own.max(self.mode));
        if mode == AuthMode::APIKeyOnly || self.token == Token::Nothing {
            return self.by_key(mode);
        }
        let subject = self.by_token(mode)?;
        let is_working = self.has_key && self.key.is_known && self.why_not_working().is_none();
        let says_two_things = self.holder() != subject && self.holder() != id(self.caller).to_string();
        if mode == AuthMode::Dual && is_working && !self.key.is_shared && says_two_things {
            return Err(Reason::CredentialsConflict);
        }
        Ok(subject)
    }

    fn by_token(&self, mode: AuthMode) -> Result<String, Reason> {
        match self.token {
            // Together with a key it is an invalid token, which the key does not replace.
            Token::Malformed if self.has_key => return Err(Reason::TokenUnreadable),
            Token::Malformed => return Err(Reason::TokenShape),
            Token::ForAnother => return Err(Reason::AudienceWrong),
            Token::Ended => return Err(Reason::Expired),
            _ => {}
        }
        match self.peer {
            None => return Err(Reason::PeerMissing),
            Some(peer) if peer != self.caller => return Err(Reason::PeerDiffers),
            Some(_) => {}
        }
        match (mode, self.token, self.caller) {
            (AuthMode::JWTOnly, Token::Broad, _) => Err(Reason::AudienceWrong),
            (AuthMode::JWTOnly, _, "nobody") => Err(Reason::CallerNotDeclared),
            (_, Token::Delegated, "web") => Ok("key:mobile".to_owned()),
            (_, Token::Delegated, _) => Err(Reason::DelegationNotAllowed),
            _ => Ok(id(self.caller).to_string()),
        }
    }

    fn by_key(&self, mode: AuthMode) -> Result<String, Reason> {
        if !self.has_key {
            return Err(Reason::NoCredential);
        }
        if !self.key.is_known {
            return Err(Reason::ApiKeyUnknown);
        }
        match (self.why_not_working(), mode) {
            (Some(reason), _) => Err(reason),
            (None, AuthMode::JWTOnly) => Err(Reason::ApiKeysNotAccepted),
            (None, AuthMode::Dual) if self.is_brownout => Err(Reason::ApiKeysBrownedOut),
            _ => Ok(self.holder()),
        }
    }

    fn why_not_working(&self) -> Option<Reason> {
        match (self.key.is_active, self.key.expires_in) {
            (false, _) => Some(Reason::ApiKeyRevoked),
            (true, Some(..=0)) => Some(Reason::ApiKeyExpired),
            _ => None,
        }
    }

    /// The workload that owns the key, unless it is shared; else the key itself.
    fn holder(&self) -> String {
        match self.key.owner {
            Some(owner) if !self.key.is_shared => id(owner).to_string(),
            _ => "key:one".to_owned(),
        }
    }
}

/// Created once: signing takes the most time.
static SIGNED: LazyLock<Vec<Vec<String>>> = LazyLock::new(|| {
    let of = |caller: &str| {
        let (caller, me) = (id(caller), id("assets"));
        let before = now() - SignedDuration::from_hours(1);
        let broad = json!({
            "iss": "gaia-platform", "sub": caller, "client_id": caller, "aud": "gaia-services", "jti": "broad",
            "iat": now().as_second(), "exp": now().as_second() + 900,
        });
        vec![
            String::new(),
            ISSUER.service_token(&caller, &me, &[], now()),
            ISSUER.forge(&json!({ "alg": "ES256", "kid": KEYS.kids()[0], "typ": "at+jwt" }), &broad),
            ISSUER.delegated_token(&caller, &Identity::Key("mobile".to_owned()), &me, now()),
            ISSUER.service_token(&caller, &id("chat"), &[], now()),
            ISSUER.service_token(&caller, &me, &[], before),
            "a.b.c.d".to_owned(),
        ]
    };
    CALLERS.map(of).into()
});

const KEY: &str = "gk_test_key";
const CALLERS: [&str; 3] = ["web", "cron", "nobody"];
const MODES: [AuthMode; 3] = [AuthMode::APIKeyOnly, AuthMode::Dual, AuthMode::JWTOnly];
const TOKENS: [Token; 7] =
    [Token::Nothing, Token::Service, Token::Broad, Token::Delegated, Token::ForAnother, Token::Ended, Token::Malformed];
