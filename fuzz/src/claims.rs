//! Arbitrary claims with a valid signature.

use gaia_api::SpiffeId;
use gaia_api::mount::AuthMode;
use gaia_auth::testing::connection;
use gaia_auth::{ApiKeyTable, Denied, Rules};
use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value, json};

use crate::oracle;
use crate::scene::{ISSUER, KEYS, id, now, policy};

/// The bytes are the claims of a token that `web` presents.
pub(crate) fn claims(data: &[u8]) {
    if data.len() > 5000 {
        return;
    }
    let header = json!({ "alg": "ES256", "kid": KEYS.kids()[0], "typ": "at+jwt" }).to_string();
    let token = ISSUER.forge_bytes(header.as_bytes(), data);
    let Ok(value) = HeaderValue::try_from(format!("Bearer {token}")) else { return };
    let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]);
    let rules = Rules::new(policy(AuthMode::Dual), Some(KEYS.clone()), Denied::default(), ApiKeyTable::default());
    let verdict = rules.authenticate(&headers, &connection(&id("web"), now()), now());
    let expected = oracle::object(data).and_then(|claims| subject(&claims));
    let found = verdict.result.as_ref().ok().map(|principal| principal.subject.to_string());
    assert_eq!(found, expected, "{:?} of {:?}", verdict.result, String::from_utf8_lossy(data));
}

/// The rules for claims in docs/auth.md, implemented again: the audience of a token, if it is valid at `assets` and presented by `web`.
fn subject(claims: &Map<String, Value>) -> Option<String> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let seconds = |name: &str| claims.get(name).and_then(Value::as_i64).filter(|&seconds| seconds >= 0);
    let (sub, client) = (text("sub")?, text("client_id")?);
    let is_delegated = match claims.get("act") {
        None => false,
        Some(act) => {
            if *act != json!({ "sub": client }) || !(is_delegate(sub) || is_service(sub)) {
                return None;
            }
            true
        }
    };
    if SpiffeId::parse(client) != Ok(id("web")) || (!is_delegated && sub != client) || text("iss")? != "gaia-platform" {
        return None;
    }
    if claims.get("scope").is_some_and(|scope| !scope.as_str().is_some_and(is_scope)) {
        return None;
    }
    let is_own = text("aud")? == id("assets").as_str();
    if !is_own && (text("aud")? != "gaia-services" || is_delegated || claims.contains_key("scope")) {
        return None;
    }
    let (issued, expires, now) = (seconds("iat")?, seconds("exp")?, now().as_second());
    let not_before = if claims.contains_key("nbf") { seconds("nbf")? } else { 0 };
    let life = expires - issued;
    let is_now = issued <= now + 60 && not_before <= now + 60 && now < expires.saturating_add(60);
    let has_id = text("jti").is_some_and(|jti| (1..=128).contains(&jti.len()));
    // The peer's certificate matches only one of the bindings here.
    let is_bound = claims.get("cnf").is_none_or(|cnf| *cnf == json!({ "x5t#S256": THUMBPRINT }));
    let is_good = is_now && has_id && is_bound && life > 0 && life <= if is_delegated { 300 } else { 900 };
    is_good.then(|| sub.to_owned())
}

/// Another workload of the trust domain than caller and target.
fn is_service(sub: &str) -> bool {
    let Ok(subject) = SpiffeId::parse(sub) else { return false };
    let is_another = subject != id("web") && subject != id("assets") && subject.workload_parts().is_some();
    is_another && subject.trust_domain() == id("web").trust_domain()
}

fn is_delegate(sub: &str) -> bool {
    let is_name = |name: &str| (1..=255).contains(&name.len()) && name.bytes().all(|byte| (0x21..0x7f).contains(&byte));
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b"abcdefghijklmnopqrstuvwxyz0123456789-".contains(&b))
    };
    match sub.split_once(':') {
        Some(("key", name)) => is_name(name),
        Some(("user", rest)) => rest.split_once(':').is_some_and(|(label, name)| is_label(label) && is_name(name)),
        _ => false,
    }
}

fn is_scope(text: &str) -> bool {
    let tokens: Vec<&str> = text.split(' ').collect();
    let is_one = |token: &&str| {
        (1..=128).contains(&token.len()) && token.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'"' && b != b'\\')
    };
    tokens.len() <= 64 && tokens.iter().all(is_one)
}

/// Of the certificate in `gaia_auth::testing::connection`: 32 bytes 0xab in base64url.
const THUMBPRINT: &str = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s";
