//! What the claims of every kind of token have in common.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::header::{self, Unverified};
use super::keys::KeySet;
use crate::Reason;
use crate::denylist::Denied;
use crate::principal::PeerIdentity;

/// How far two clocks may differ.
pub const MAX_CLOCK_SKEW_SECONDS: i64 = 60;

/// Signature first; then, and only then, the claims, from the bytes that were signed.
pub(super) fn signed(
    token: &Unverified<'_>,
    keys: &KeySet,
    denied: &Denied,
    is_type: impl FnOnce(Option<&str>) -> bool,
) -> Result<Map<String, Value>, Reason> {
    denied.check_kid(&token.kid)?;
    let key = keys.get(&token.kid).ok_or(Reason::KidUnknown)?;
    if key.algorithm != token.algorithm {
        return Err(Reason::AlgorithmWrong);
    }
    if !is_type(token.typ.as_deref()) {
        return Err(Reason::TypeWrong);
    }
    let signature = URL_SAFE_NO_PAD.decode(token.signature).map_err(|_| Reason::SignatureWrong)?;
    if !key.has_signed(token.signed, &signature) {
        return Err(Reason::SignatureWrong);
    }
    header::claims(token.payload)
}

/// When a token holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) issued: Timestamp,
    pub(crate) expires: Timestamp,
    not_before: i64,
}

impl Times {
    /// `iat`, `exp` and, where it is there, `nbf`: whole seconds, a life and not too long a one.
    pub(super) fn of(claims: &Map<String, Value>, max_ttl_seconds: u64) -> Result<Self, Reason> {
        let seconds =
            |name: &str| claims.get(name).and_then(Value::as_i64).filter(|&s| s >= 0).ok_or(Reason::TimesMissing);
        let (issued, expires) = (seconds("iat")?, seconds("exp")?);
        let not_before = if claims.contains_key("nbf") { seconds("nbf")? } else { 0 };
        match u64::try_from(expires - issued) {
            Ok(life) if life > 0 && life <= max_ttl_seconds => {}
            _ => return Err(Reason::LifeTooLong),
        }
        let time = |seconds| Timestamp::from_second(seconds).map_err(|_| Reason::TimesMissing);
        Ok(Self { issued: time(issued)?, expires: time(expires)?, not_before })
    }

    /// Judges them by our own clock.
    pub(crate) fn check(&self, now: Timestamp) -> Result<(), Reason> {
        let now = now.as_second();
        if now >= self.expires.as_second().saturating_add(MAX_CLOCK_SKEW_SECONDS) {
            return Err(Reason::Expired);
        }
        if self.issued.as_second() > now + MAX_CLOCK_SKEW_SECONDS {
            return Err(Reason::IssuedInFuture);
        }
        if self.not_before > now + MAX_CLOCK_SKEW_SECONDS {
            return Err(Reason::NotYetValid);
        }
        Ok(())
    }
}

/// `cnf`, where present: the thumbprint of a leaf and nothing else (RFC 8705, section 3.1), in lower-case hex.
pub(super) fn confirmation(claims: &Map<String, Value>) -> Result<Option<String>, Reason> {
    let Some(confirmation) = claims.get("cnf") else { return Ok(None) };
    confirmation
        .as_object()
        .filter(|members| members.len() == 1)
        .and_then(|members| members.get("x5t#S256")?.as_str())
        .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
        .map(|bytes| Some(HEXLOWER.encode(&bytes)))
        .ok_or(Reason::ConfirmationDiffers)
}

/// A token bound to a leaf is good on a connection that shows this leaf, and on no other.
pub(super) fn check_confirmation(thumbprint: Option<&str>, peer: Option<&PeerIdentity>) -> Result<(), Reason> {
    match thumbprint {
        Some(thumbprint) if peer.is_none_or(|peer| peer.fingerprint != thumbprint) => Err(Reason::ConfirmationDiffers),
        _ => Ok(()),
    }
}

pub(super) fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    claims.get(name)?.as_str()
}

/// What is logged of a claim: signed by someone we trust, but still no longer than a line can bear.
pub(super) fn bounded(text: &str) -> Arc<str> {
    text.chars().take(MAX_LOGGED_CHARACTERS).collect::<String>().into()
}

const MAX_LOGGED_CHARACTERS: usize = 128;
