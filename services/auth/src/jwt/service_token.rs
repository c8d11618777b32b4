//! The checks of a service token, cheap and fail-closed first.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gaia_api::SpiffeId;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::header::Unverified;
use super::keys::KeySet;
use crate::denylist::Denied;
use crate::principal::PeerIdentity;
use crate::scope::parse_scope;
use crate::strict_json::{self, StrictJsonError};
use crate::{Reason, Refusal, Trace};

/// `typ` of a service token (RFC 9068, section 2.1).
pub const SERVICE_TOKEN_TYPE: &str = "at+jwt";
/// How far two clocks may differ.
pub const MAX_CLOCK_SKEW_SECONDS: i64 = 60;

/// What a service token must satisfy at one service.
#[derive(Debug, Clone, Copy)]
pub struct TokenRules<'a> {
    /// The issuer's keys.
    pub keys: &'a KeySet,
    /// The one issuer.
    pub issuer: &'a str,
    /// This service: the audience of a token meant for it.
    pub own: &'a SpiffeId,
    /// The broad audience, where it is accepted.
    pub broad_audience: Option<&'a str>,
    /// Longest life, in seconds.
    pub max_ttl_seconds: u64,
    /// What is revoked.
    pub denied: &'a Denied,
}

/// A service token that passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceToken {
    /// The calling service: `sub`, `client_id` and the peer, which are all equal.
    pub caller: SpiffeId,
    /// The scopes it carries; none: it names none, and the target's policy alone limits it.
    pub scopes: Option<Vec<String>>,
    /// When it ends.
    pub expires: Timestamp,
    /// What may be logged of it.
    pub trace: Trace,
}

impl TokenRules<'_> {
    /// Verifies a service token presented by `peer` at `now`.
    ///
    /// # Errors
    /// A [`Refusal`] with the first rule that it breaks.
    pub fn verify(&self, token: &str, peer: Option<&PeerIdentity>, now: Timestamp) -> Result<ServiceToken, Refusal> {
        let mut trace = Trace::default();
        self.verified(token, peer, now, &mut trace)
            .map_err(|reason| Refusal { reason, trace: trace.clone() })
            .map(|(caller, scopes, expires)| ServiceToken { caller, scopes, expires, trace })
    }

    fn verified(
        &self,
        token: &str,
        peer: Option<&PeerIdentity>,
        now: Timestamp,
        trace: &mut Trace,
    ) -> Result<(SpiffeId, Option<Vec<String>>, Timestamp), Reason> {
        let unverified = Unverified::parse(token)?;
        trace.kid = Some(unverified.kid.clone());
        let claims = self.signed_claims(&unverified)?;
        trace.jti = text(&claims, "jti").map(bounded);
        trace.sub = text(&claims, "sub").map(bounded);

        let caller = caller(&claims)?;
        if text(&claims, "iss") != Some(self.issuer) {
            return Err(Reason::IssuerWrong);
        }
        let scopes = scopes(&claims)?;
        self.check_audience(&claims, scopes.is_some())?;
        let (issued, expires) = times(&claims, self.max_ttl_seconds, now)?;
        let jti = text(&claims, "jti").filter(|jti| (1..=MAX_JTI_BYTES).contains(&jti.len()));
        let jti = jti.ok_or(Reason::TokenIdMissing)?;

        let peer = peer.ok_or(Reason::PeerMissing)?;
        if peer.spiffe_id != caller {
            return Err(Reason::PeerDiffers);
        }
        check_confirmation(&claims, peer)?;
        self.denied.check_token(jti, caller.as_str(), issued)?;
        Ok((caller, scopes, expires))
    }

    /// Signature first; then, and only then, the claims, from the bytes that were signed.
    fn signed_claims(&self, token: &Unverified<'_>) -> Result<Map<String, Value>, Reason> {
        self.denied.check_kid(&token.kid)?;
        let key = self.keys.get(&token.kid).ok_or(Reason::KidUnknown)?;
        if key.algorithm != token.algorithm {
            return Err(Reason::AlgorithmWrong);
        }
        if token.typ.as_deref() != Some(SERVICE_TOKEN_TYPE) {
            return Err(Reason::TypeWrong);
        }
        let verified =
            jsonwebtoken::crypto::verify(token.signature, token.signed, &key.decoding, key.algorithm.library());
        if !verified.is_ok_and(|is_good| is_good) {
            return Err(Reason::SignatureWrong);
        }
        let payload = URL_SAFE_NO_PAD.decode(token.payload).map_err(|_| Reason::TokenAlphabet)?;
        strict_json::object(&payload).map_err(|error| match error {
            StrictJsonError::NameRepeated => Reason::ClaimRepeated,
            StrictJsonError::NotJson | StrictJsonError::NotAnObject => Reason::ClaimsNotJson,
        })
    }

    /// One string: this service, or the broad audience, and then without any scope.
    fn check_audience(&self, claims: &Map<String, Value>, has_scopes: bool) -> Result<(), Reason> {
        match text(claims, "aud").ok_or(Reason::AudienceWrong)? {
            audience if audience == self.own.as_str() => Ok(()),
            audience if Some(audience) == self.broad_audience && !has_scopes => Ok(()),
            _ => Err(Reason::AudienceWrong),
        }
    }
}

/// `sub` and `client_id`, which are equal in a service token. A token with `act` is of another kind.
fn caller(claims: &Map<String, Value>) -> Result<SpiffeId, Reason> {
    if claims.contains_key("act") {
        return Err(Reason::KindNotAccepted);
    }
    let sub = text(claims, "sub").ok_or(Reason::SubjectWrong)?;
    if text(claims, "client_id") != Some(sub) {
        return Err(Reason::SubjectWrong);
    }
    SpiffeId::parse(sub).map_err(|_| Reason::SubjectWrong)
}

/// `iat` and `exp`, in seconds, judged by our own clock.
fn times(claims: &Map<String, Value>, max_ttl_seconds: u64, now: Timestamp) -> Result<(Timestamp, Timestamp), Reason> {
    let seconds = |name: &str| claims.get(name).and_then(Value::as_i64).filter(|&s| s >= 0).ok_or(Reason::TimesMissing);
    let (issued, expires, now) = (seconds("iat")?, seconds("exp")?, now.as_second());
    let not_before = if claims.contains_key("nbf") { seconds("nbf")? } else { 0 };
    if now >= expires.saturating_add(MAX_CLOCK_SKEW_SECONDS) {
        return Err(Reason::Expired);
    }
    if issued > now + MAX_CLOCK_SKEW_SECONDS {
        return Err(Reason::IssuedInFuture);
    }
    if not_before > now + MAX_CLOCK_SKEW_SECONDS {
        return Err(Reason::NotYetValid);
    }
    match u64::try_from(expires - issued) {
        Ok(life) if life > 0 && life <= max_ttl_seconds => {}
        _ => return Err(Reason::LifeTooLong),
    }
    let time = |seconds| Timestamp::from_second(seconds).map_err(|_| Reason::TimesMissing);
    Ok((time(issued)?, time(expires)?))
}

fn scopes(claims: &Map<String, Value>) -> Result<Option<Vec<String>>, Reason> {
    let Some(value) = claims.get("scope") else { return Ok(None) };
    let scopes = value.as_str().and_then(parse_scope).ok_or(Reason::ScopeMalformed)?;
    Ok(Some(scopes.into_iter().map(str::to_owned).collect()))
}

/// `cnf`, where present, must be the thumbprint of the peer's leaf and nothing else (RFC 8705, section 3.1).
fn check_confirmation(claims: &Map<String, Value>, peer: &PeerIdentity) -> Result<(), Reason> {
    let Some(confirmation) = claims.get("cnf") else { return Ok(()) };
    let thumbprint = confirmation
        .as_object()
        .filter(|members| members.len() == 1)
        .and_then(|members| members.get("x5t#S256")?.as_str())
        .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
        .map(|bytes| crate::hash::hex(&bytes));
    if thumbprint.as_deref() == Some(peer.fingerprint.as_str()) { Ok(()) } else { Err(Reason::ConfirmationDiffers) }
}

fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    claims.get(name)?.as_str()
}

/// What is logged of a claim: signed by us, but still no longer than a line can bear.
fn bounded(text: &str) -> String {
    text.chars().take(MAX_JTI_BYTES).collect()
}

const MAX_JTI_BYTES: usize = 128;

#[cfg(test)]
mod tests;
