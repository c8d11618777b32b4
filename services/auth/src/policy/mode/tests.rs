//! All combinations of credentials and modes, compared with the decision table.

use std::sync::Arc;

use gaia_api::mount::{
    ApiKeyRules, ApiKeyState, ApiKeys, Brownout, Caller, Deprecation, Policy, SCHEMA_VERSION, ServiceIdentity, TlsMode,
    TokenRules, UserTokens,
};
use http::{HeaderMap, HeaderValue};
use jiff::SignedDuration;

use super::*;
use crate::fixtures::{
    RSA_SIGNER, USER, caller, claims, delegated_claims, keys, now, own, peer, user_claims, user_issuer, user_key_set,
    user_token,
};
use crate::issue::ServiceClaims;
use crate::policy::api_key::tests::record;
use crate::policy::rules::{Known, Rules, Verdict};
use crate::principal::{Connection, Identity, Listener, Transport};
use crate::tokens::cache::TokenCache;
use crate::tokens::external_keys::UserKeys;
use crate::{ApiKeyTable, Denied};

use AuthMode::{APIKeyOnly, Dual, JWTOnly};

/// The presented token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Nothing,
    Service,
    Broad,
    Delegated,
    User,
    /// A token for another service.
    Bad,
    /// Three dots only.
    Malformed,
    /// Two `Authorization` headers, each with a valid token.
    Repeated,
    /// Another authentication scheme.
    Basic,
}

/// The presented API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Nothing,
    Shared,
    OwnedByCaller,
    OwnedByOther,
    /// A shared key with its own mode.
    Own(AuthMode),
    Revoked,
    Expired,
    Unknown,
}

/// The mTLS peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Nobody,
    Undeclared,
    Declared,
    DeclaredOnBehalfOf,
}

const SHOWN: [Shown; 9] = [
    Shown::Nothing,
    Shown::Service,
    Shown::Broad,
    Shown::Delegated,
    Shown::User,
    Shown::Bad,
    Shown::Malformed,
    Shown::Repeated,
    Shown::Basic,
];
const KEYS: [Key; 10] = [
    Key::Nothing,
    Key::Shared,
    Key::OwnedByCaller,
    Key::OwnedByOther,
    Key::Own(APIKeyOnly),
    Key::Own(Dual),
    Key::Own(JWTOnly),
    Key::Revoked,
    Key::Expired,
    Key::Unknown,
];
const PEERS: [Peer; 4] = [Peer::Nobody, Peer::Undeclared, Peer::Declared, Peer::DeclaredOnBehalfOf];
const MODES: [AuthMode; 3] = [APIKeyOnly, Dual, JWTOnly];

/// The subject, or the reason for the refusal.
type Said = Result<String, Reason>;

/// The result for the token without a key.
fn token_is(mode: AuthMode, shown: Shown, peer: Peer) -> Said {
    let is_declared = matches!(peer, Peer::Declared | Peer::DeclaredOnBehalfOf);
    match (shown, peer) {
        (Shown::Bad, _) => Err(Reason::AudienceWrong),
        (Shown::Malformed | Shown::Nothing, _) => Err(Reason::TokenShape),
        (Shown::Repeated, _) => Err(Reason::AuthorizationRepeated),
        (Shown::Basic, _) => Err(Reason::SchemeUnknown),
        (Shown::User, Peer::Nobody | Peer::DeclaredOnBehalfOf) => Ok(format!("user:supabase:{USER}")),
        (Shown::User, _) => Err(Reason::DelegationNotAllowed),
        (_, Peer::Nobody) => Err(Reason::PeerMissing),
        (Shown::Broad, _) if mode == JWTOnly => Err(Reason::AudienceWrong),
        (_, _) if mode == JWTOnly && !is_declared => Err(Reason::CallerNotDeclared),
        (Shown::Delegated, Peer::DeclaredOnBehalfOf) => Ok("user:supabase:3fa85f64".to_owned()),
        (Shown::Delegated, _) => Err(Reason::DelegationNotAllowed),
        (Shown::Service | Shown::Broad, _) => Ok(caller().to_string()),
    }
}

/// The result for the key without a token.
fn key_is(mode: AuthMode, key: Key, is_brownout: bool) -> Said {
    match key {
        Key::Nothing => Err(Reason::NoCredential),
        Key::Unknown => Err(Reason::ApiKeyUnknown),
        Key::Revoked => Err(Reason::ApiKeyRevoked),
        Key::Expired => Err(Reason::ApiKeyExpired),
        _ if mode == JWTOnly => Err(Reason::ApiKeysNotAccepted),
        _ if mode == Dual && is_brownout => Err(Reason::ApiKeysBrownedOut),
        Key::OwnedByCaller => Ok(caller().to_string()),
        Key::OwnedByOther => Ok("key:other".to_owned()),
        Key::Shared => Ok("key:shared".to_owned()),
        Key::Own(own) => Ok(format!("key:{own:?}")),
    }
}

/// The decision table.
fn expected(mode: AuthMode, shown: Shown, key: Key, peer: Peer, is_brownout: bool) -> Said {
    if matches!(shown, Shown::Repeated | Shown::Basic) && key == Key::Nothing {
        // The value may have been meant as an API key.
        return token_is(mode, shown, peer);
    }
    if mode == APIKeyOnly || shown == Shown::Nothing {
        return key_is(mode, key, is_brownout);
    }
    let subject = token_is(mode, shown, peer).map_err(|reason| {
        let is_malformed = reason.status() == http::StatusCode::BAD_REQUEST;
        if is_malformed && key != Key::Nothing { Reason::TokenUnreadable } else { reason }
    })?;
    let is_callers = shown != Shown::User || peer != Peer::Nobody;
    let is_conflict = match key {
        Key::OwnedByOther => true,
        Key::OwnedByCaller => !is_callers,
        _ => false,
    };
    if mode == Dual && is_conflict { Err(Reason::CredentialsConflict) } else { Ok(subject) }
}

fn token(shown: Shown) -> Option<String> {
    Some(match shown {
        Shown::Nothing | Shown::Basic => return None,
        Shown::Service | Shown::Repeated => RSA_SIGNER.sign(&claims()).unwrap(),
        Shown::Broad => {
            RSA_SIGNER.sign(&ServiceClaims { aud: "gaia-services".into(), scope: None, ..claims() }).unwrap()
        }
        Shown::Delegated => RSA_SIGNER.sign(&delegated_claims()).unwrap(),
        Shown::User => user_token(&user_claims()),
        Shown::Bad => {
            RSA_SIGNER.sign(&ServiceClaims { aud: "spiffe://gaia.local/ns/a/sa/b".into(), ..claims() }).unwrap()
        }
        Shown::Malformed => "a.b.c.d".to_owned(),
    })
}

fn key_text(key: Key) -> Option<String> {
    (key != Key::Nothing).then(|| format!("{key:?}"))
}

fn records() -> ApiKeyTable {
    let text = |key| key_text(key).unwrap();
    let shared = |id: &str, key| ApiKeyRecord { shared: true, ..record(id, &text(key)) };
    let own = |mode| ApiKeyRecord { mode: Some(mode), ..shared(&format!("{mode:?}"), Key::Own(mode)) };
    ApiKeyTable::try_from(ApiKeys {
        schema_version: SCHEMA_VERSION,
        keys: vec![
            shared("shared", Key::Shared),
            ApiKeyRecord { principal: caller().to_string(), ..record("callers", &text(Key::OwnedByCaller)) },
            record("other", &text(Key::OwnedByOther)),
            own(APIKeyOnly),
            own(Dual),
            own(JWTOnly),
            ApiKeyRecord { state: ApiKeyState::Revoked, ..record("revoked", &text(Key::Revoked)) },
            ApiKeyRecord { expires: Some(now()), ..record("expired", &text(Key::Expired)) },
        ],
    })
    .unwrap()
}

fn rules(mode: AuthMode, peer: Peer, is_brownout: bool) -> Rules {
    let on_behalf_of = peer == Peer::DeclaredOnBehalfOf;
    let declared = Caller { spiffe_id: caller(), scopes: vec![], on_behalf_of };
    let second = SignedDuration::from_secs(1);
    let (start, end) = if is_brownout { (now(), now() + second) } else { (now() + second, now() + second + second) };
    let policy = Policy {
        schema_version: SCHEMA_VERSION,
        service: ServiceIdentity { namespace: "shop".into(), name: "asset-service".into(), spiffe_id: own() },
        tls_mode: TlsMode::Permissive,
        mode,
        tokens: TokenRules { issuer: "gaia-platform".into(), audience: "gaia-services".into(), max_ttl_seconds: 3600 },
        callers: if matches!(peer, Peer::Nobody | Peer::Undeclared) { vec![] } else { vec![declared] },
        api_keys: ApiKeyRules {
            deprecation: Some(Deprecation { since: now(), sunset: None, guide: None }),
            brownouts: vec![Brownout { start, end }],
        },
        user_tokens: UserTokens { issuers: vec![user_issuer()], scopes: vec![] },
        targets: None,
        token_issuer: None,
    };
    Rules::new(policy, Some(Arc::new(keys())), Denied::default(), records())
}

fn said(result: Result<Principal, Refusal>) -> Said {
    result.map(|principal| principal.subject.to_string()).map_err(|refusal| refusal.reason)
}

#[test]
fn every_mode_judges_every_credential_of_every_caller_in_and_out_of_a_brownout_as_the_table_says() {
    let user_keys = UserKeys::default();
    user_keys.set("supabase", &Arc::new(user_key_set()));
    let cache = TokenCache::default();
    let known = Known { cache: &cache, user_keys: &user_keys, answer: None };
    let tokens = SHOWN.map(token);
    let mut judged = 0;
    for (mode, peer_kind, is_brownout) in MODES
        .into_iter()
        .flat_map(|mode| PEERS.map(|peer| (mode, peer)))
        .flat_map(|(m, p)| [(m, p, false), (m, p, true)])
    {
        let rules = rules(mode, peer_kind, is_brownout);
        let connection = match peer_kind {
            Peer::Nobody => Connection::default(),
            _ => Connection {
                transport: Transport::Mtls,
                peer: Some(peer(caller())),
                address: None,
                listener: Listener::Mesh,
            },
        };
        for (shown, token) in SHOWN.into_iter().zip(&tokens) {
            for key in KEYS {
                let mut headers = HeaderMap::new();
                if let Some(token) = token {
                    headers.insert("authorization", HeaderValue::try_from(format!("Bearer {token}")).unwrap());
                }
                match shown {
                    Shown::Repeated => drop(headers.append("authorization", headers["authorization"].clone())),
                    Shown::Basic => drop(headers.insert("authorization", HeaderValue::from_static("Basic dTpw"))),
                    _ => {}
                }
                if let Some(key) = key_text(key) {
                    headers.insert("x-api-key", HeaderValue::try_from(key).unwrap());
                }
                let verdict = rules.authenticate_with(&headers, &connection, now(), known);
                let what = format!("{mode:?} {shown:?} {key:?} {peer_kind:?} brownout {is_brownout}");
                check(&rules, &verdict, mode, shown, key, peer_kind, is_brownout, &what);
                judged += 1;
            }
        }
    }
    assert_eq!(judged, 3 * 9 * 10 * 4 * 2);
}

#[expect(clippy::too_many_arguments, reason = "the dimensions of the table, and what came out")]
fn check(
    rules: &Rules,
    verdict: &Verdict,
    service_mode: AuthMode,
    shown: Shown,
    key: Key,
    peer: Peer,
    is_brownout: bool,
    what: &str,
) {
    let mode = match key {
        Key::Own(own) => own.max(service_mode),
        _ => service_mode,
    };
    let expect = |mode| expected(mode, shown, key, peer, is_brownout);
    assert_eq!(said(verdict.result.clone()), expect(mode), "{what}");
    assert_eq!(verdict.mode, mode, "{what}");

    // The reported decision of the next mode equals the decision under that mode.
    let next = match mode {
        APIKeyOnly => Some(Dual),
        Dual => Some(JWTOnly),
        JWTOnly => None,
    };
    assert_eq!(verdict.next.clone().map(|(_, result)| said(result)), next.map(expect), "{what}: next");
    let would_deny = next.and_then(|next| expect(next).err()).filter(|_| verdict.result.is_ok());
    assert_eq!(verdict.would_deny(), would_deny, "{what}: would deny");

    // In `APIKeyOnly` a token never changes the decision, but an unreadable value may have been meant as a key.
    let may_be_key = matches!(shown, Shown::Repeated | Shown::Basic) && key == Key::Nothing;
    if mode == APIKeyOnly && !may_be_key {
        assert_eq!(said(verdict.result.clone()), key_is(mode, key, is_brownout), "{what}");
        assert_ne!(verdict.credential, Credential::UserToken, "{what}");
        let would_pass = shown != Shown::Nothing && expect(Dual).is_ok();
        assert_eq!(verdict.would_pass().is_some(), would_pass, "{what}: would pass");
    }
    // Keys with a record are counted in any case, and deprecation headers are sent while tokens are accepted too.
    let has_record = !matches!(key, Key::Nothing | Key::Unknown);
    assert_eq!(verdict.key_id.is_some(), has_record, "{what}: counted");
    let is_told = has_record && mode == Dual && shown == Shown::Nothing;
    assert_eq!(rules.notice(verdict).is_some(), is_told, "{what}: told");
    // Only a brownout has an end time.
    let until = verdict.result.as_ref().err().and_then(|refusal| refusal.until);
    let is_browned_out = said(verdict.result.clone()) == Err(Reason::ApiKeysBrownedOut);
    assert_eq!(until, is_browned_out.then(|| now() + SignedDuration::from_secs(1)), "{what}: until");
    // The mTLS peer is the actor, whatever is presented.
    if let (Ok(principal), true) = (&verdict.result, peer != Peer::Nobody) {
        assert_eq!(principal.actor, Identity::Service(caller()), "{what}: actor");
    }
}
