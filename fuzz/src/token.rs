//! Splitting of a token, before anything in it is trusted.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gaia_auth::tokens::{Algorithm, Unverified};
use serde_json::{Map, Value};

use crate::oracle;

/// The bytes are a token, or, where they are text without a dot, the text of its header.
pub(crate) fn header(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    check(text);
    if !text.contains('.') {
        check(&format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode(text)));
    }
}

fn check(token: &str) {
    let parsed = Unverified::parse(token);
    let expected = expected(token);
    let Ok(parsed) = parsed else {
        assert!(expected.is_none(), "{token:?} is refused: {:?}", parsed.err());
        return;
    };
    let Some((header, signed)) = expected else { panic!("{token:?} is taken: {parsed:?}") };
    assert_eq!(Some(parsed.kid.as_str()), header["kid"].as_str());
    assert_eq!(Some(parsed.algorithm.as_str()), header["alg"].as_str());
    assert_eq!(parsed.typ.as_deref(), header.get("typ").and_then(Value::as_str));
    assert_eq!(parsed.signed, signed.as_bytes());
    assert_eq!(format!("{signed}.{}", parsed.signature), token);
    assert!(signed.ends_with(&format!(".{}", parsed.payload)));
}

/// The rules for headers in docs/auth.md, implemented again: the header, and the signed part.
fn expected(token: &str) -> Option<(Map<String, Value>, &str)> {
    let parts: Vec<&str> = token.split('.').collect();
    let [head, payload, _] = parts.as_slice() else { return None };
    let is_base64url = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if token.len() > 8192
        || head.len() > 1024
        || head.is_empty()
        || payload.is_empty()
        || !parts.iter().all(|part| is_base64url(part))
    {
        return None;
    }
    let header = oracle::object(&URL_SAFE_NO_PAD.decode(head).ok()?)?;
    let is_closed = header.keys().all(|name| ["alg", "kid", "typ", "cty"].contains(&name.as_str()));
    if !is_closed || header.values().any(|value| !value.is_string()) {
        return None;
    }
    let text = |name: &str| header.get(name).and_then(Value::as_str).unwrap_or_default();
    let is_known = Algorithm::ALL.iter().any(|algorithm| algorithm.as_str() == text("alg"));
    if !is_known || text("kid").is_empty() || text("kid").len() > 128 || text("cty").to_lowercase().contains("jwt") {
        return None;
    }
    Some((header, &token[..head.len() + 1 + payload.len()]))
}
