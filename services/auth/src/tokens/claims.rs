//! Checks of claims that all kinds of tokens share.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::HEXLOWER;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use super::header::{self, Unverified};
use super::keys::KeySet;
use crate::Reason;
use crate::denylist::Denied;
use crate::principal::PeerIdentity;

/// Maximum clock skew between two services.
pub const MAX_CLOCK_SKEW_SECONDS: i64 = 60;

/// Verifies the signature, and only then parses the claims, from the signed bytes.
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

/// Validity period of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) issued: Timestamp,
    pub(crate) expires: Timestamp,
    not_before: Timestamp,
}

/// Permitted formats of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeFormat {
    /// Whole seconds, as in platform tokens.
    WholeSeconds,
    /// Any JSON number (RFC 7519, section 2: NumericDate).
    NumericDate,
}

impl TimeFormat {
    fn read(self, value: &Value) -> Option<Timestamp> {
        let time = match (value.as_i64(), self) {
            (Some(seconds), _) => Timestamp::from_second(seconds).ok()?,
            (None, Self::WholeSeconds) => return None,
            (None, Self::NumericDate) => {
                let since = SignedDuration::try_from_secs_f64(value.as_f64()?).ok()?;
                Timestamp::UNIX_EPOCH.checked_add(since).ok()?
            }
        };
        (time >= Timestamp::UNIX_EPOCH).then_some(time)
    }
}

impl Times {
    /// Reads `iat`, `exp` and, where it is present, `nbf`; the validity must be positive and at most `max_ttl_seconds`.
    pub(super) fn of(claims: &Map<String, Value>, max_ttl_seconds: u64, format: TimeFormat) -> Result<Self, Reason> {
        let time = |name: &str| claims.get(name).and_then(|value| format.read(value)).ok_or(Reason::TimesMissing);
        let (issued, expires) = (time("iat")?, time("exp")?);
        let not_before = if claims.contains_key("nbf") { time("nbf")? } else { Timestamp::UNIX_EPOCH };
        let longest = SignedDuration::from_secs(i64::try_from(max_ttl_seconds).unwrap_or(i64::MAX));
        let life = expires.duration_since(issued);
        if life <= SignedDuration::ZERO || life > longest {
            return Err(Reason::LifeTooLong);
        }
        Ok(Self { issued, expires, not_before })
    }

    /// Checks the validity at `now`, allowing for clock skew.
    pub(crate) fn check(&self, now: Timestamp) -> Result<(), Reason> {
        const SKEW: SignedDuration = SignedDuration::from_secs(MAX_CLOCK_SKEW_SECONDS);
        if now.duration_since(self.expires) >= SKEW {
            return Err(Reason::Expired);
        }
        if self.issued.duration_since(now) > SKEW {
            return Err(Reason::IssuedInFuture);
        }
        if self.not_before.duration_since(now) > SKEW {
            return Err(Reason::NotYetValid);
        }
        Ok(())
    }
}

/// Reads `cnf`, if present: the thumbprint of a leaf certificate and nothing else (RFC 8705, section 3.1), in
/// lower-case hex.
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

/// Checks that a certificate-bound token is presented on a connection with that certificate.
pub(super) fn check_confirmation(thumbprint: Option<&str>, peer: Option<&PeerIdentity>) -> Result<(), Reason> {
    match thumbprint {
        Some(thumbprint) if peer.is_none_or(|peer| peer.fingerprint != thumbprint) => Err(Reason::ConfirmationDiffers),
        _ => Ok(()),
    }
}

pub(super) fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    claims.get(name)?.as_str()
}

/// Truncates a claim for logs: the signer is trusted, but the length of the claim is not limited.
pub(super) fn bounded(text: &str) -> Arc<str> {
    text.chars().take(MAX_LOGGED_CHARACTERS).collect::<String>().into()
}

const MAX_LOGGED_CHARACTERS: usize = 128;
