//! Tokens: header and claims, and whether the platform's keys verify them. The token itself is never printed.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gaia_api::SpiffeId;
use gaia_api::mount::Denylist;
use gaia_auth::tokens::{KeySet, TokenRules};
use gaia_auth::{Denied, PeerIdentity};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::certificate::Decision;
use super::trust::Trust;

/// A token.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokenView {
    pub(super) header: Map<String, Value>,
    pub(super) claims: Map<String, Value>,
    /// The time in `iat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) issued: Option<Timestamp>,
    /// The time in `exp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<Timestamp>,
    pub(super) trust: Decision,
}

/// Decodes a compact JWS; none: it is no token.
pub(super) fn decode(text: &str, trust: &Trust, now: Timestamp) -> Option<TokenView> {
    let mut parts = text.split('.');
    let (header, claims) = (object(parts.next()?)?, object(parts.next()?)?);
    let is_signed = parts.next().is_some() && parts.next().is_none();
    if !is_signed || !header.contains_key("alg") {
        return None;
    }
    let time = |name: &str| Timestamp::from_second(claims.get(name)?.as_i64()?).ok();
    let (issued, expires) = (time("iat"), time("exp"));
    let trust = decide(text, &header, &claims, trust, now);
    Some(TokenView { issued, expires, header, claims, trust })
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// Verifies a service token as its audience does, with the peer that it is bound to.
fn decide(
    text: &str,
    header: &Map<String, Value>,
    claims: &Map<String, Value>,
    trust: &Trust,
    now: Timestamp,
) -> Decision {
    let Some(place) = &trust.place else { return Decision::NotChecked };
    let claim = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
    let refused = |reason: String| Decision::NotTrusted { reason };
    let issuer = claim("iss");
    let Some((_, keys)) = trust.key_sets.iter().find(|(known, _)| known == issuer) else {
        return refused(format!("its issuer {issuer:?} is not the token issuer of {place}"));
    };
    let keys = match KeySet::parse(keys) {
        Ok(keys) => keys,
        Err(error) => return refused(format!("jwks.json of {place} cannot be read: {error}")),
    };
    let (audience, client) = (claim("aud"), claim("client_id"));
    let Ok(caller) = SpiffeId::parse(client) else {
        return refused(format!("its client_id {client:?} is no SPIFFE ID"));
    };
    let is_broad = SpiffeId::parse(audience).is_err();
    // A broad audience is no service: any identity but the subject's stands for it.
    let own = SpiffeId::parse(audience).unwrap_or_else(|_| caller.clone());
    let empty = Denylist::empty();
    let denied = Denied::from(trust.denylists.first().unwrap_or(&empty));
    let rules = TokenRules {
        keys: &keys,
        issuer,
        own: &own,
        broad_audience: is_broad.then_some(audience),
        max_ttl_seconds: u64::from(u32::MAX),
        denied: &denied,
    };
    let peer = PeerIdentity { spiffe_id: caller, fingerprint: String::new(), serial: Arc::from(""), not_after: now };
    match rules.verify(text, Some(&peer), now) {
        Ok(_) => {
            let kid = header.get("kid").and_then(Value::as_str).unwrap_or_default();
            let generation = trust.key_generation(kid).map(|text| format!(", generation {text}")).unwrap_or_default();
            Decision::Trusted { by: format!("signing key {kid}{generation}") }
        }
        Err(refusal) => refused(format!("verifiers refuse it: {}", refusal.reason.as_str())),
    }
}
