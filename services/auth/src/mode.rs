//! What each credential does under each mode.
//!
//! | mode | API key | token | and |
//! |---|---|---|---|
//! | APIKeyOnly | decides | never changes the verdict | |
//! | Dual | accepted | accepted; a bad one is never made good by a key | a good one wins over a shared key; with a key that someone else owns, the request says two things at once |
//! | JWTOnly | refused by name | decides | |
//!
//! A key's own mode may be stricter than its service's: a request with that key is judged by the stricter one.

use gaia_api::mount::{ApiKeyRecord, AuthMode};
use http::StatusCode;
use jiff::Timestamp;

use crate::api_key;
use crate::cache::Token;
use crate::callers::Callers;
use crate::denylist::Denied;
use crate::principal::{Credential, PeerIdentity, Principal};
use crate::rules::Windows;
use crate::{Reason, Refusal, Trace};

/// All that was found in one request, each credential judged by itself.
pub(crate) struct Evidence<'a> {
    pub(crate) peer: Option<&'a PeerIdentity>,
    /// What became of the token, if there is one.
    pub(crate) token: Option<Result<Token, Refusal>>,
    /// The kind of a token that is refused, as far as it has one.
    pub(crate) refused_kind: Credential,
    /// What is revoked.
    pub(crate) denied: &'a Denied,
    /// Whether there is something that claims to be a key.
    pub(crate) has_key: bool,
    /// The record of the key, if it is one.
    pub(crate) record: Option<&'a ApiKeyRecord>,
}

/// What decided, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judgement {
    pub(crate) credential: Credential,
    pub(crate) result: Result<Principal, Refusal>,
    pub(crate) trace: Trace,
}

/// The mode a request is judged by.
pub(crate) fn effective(service: AuthMode, record: Option<&ApiKeyRecord>) -> AuthMode {
    record.and_then(|record| record.mode).map_or(service, |own| own.max(service))
}

/// The mode after `mode` on the way to tokens only.
pub(crate) fn next(mode: AuthMode) -> Option<AuthMode> {
    match mode {
        AuthMode::APIKeyOnly => Some(AuthMode::Dual),
        AuthMode::Dual => Some(AuthMode::JWTOnly),
        AuthMode::JWTOnly => None,
    }
}

/// Judges a request under `mode`.
pub(crate) fn judge(
    mode: AuthMode,
    evidence: &Evidence<'_>,
    callers: &Callers,
    windows: &Windows,
    now: Timestamp,
) -> Judgement {
    match (mode, &evidence.token) {
        (AuthMode::Dual | AuthMode::JWTOnly, Some(token)) => by_token(mode, token, evidence, callers, now),
        _ => by_key(mode, evidence, callers, windows, now),
    }
}

fn by_token(
    mode: AuthMode,
    token: &Result<Token, Refusal>,
    evidence: &Evidence<'_>,
    callers: &Callers,
    now: Timestamp,
) -> Judgement {
    let (credential, trace, result) = match token {
        Err(refusal) => {
            // Alone it makes the request malformed; beside a key it is a bad token, which the key does not replace.
            let is_unreadable = evidence.has_key && refusal.reason.status() == StatusCode::BAD_REQUEST;
            let reason = if is_unreadable { Reason::TokenUnreadable } else { refusal.reason };
            (evidence.refused_kind, refusal.trace.clone(), Err(Refusal { reason, ..refusal.clone() }))
        }
        Ok(Token::Platform(token)) => {
            let credential =
                if token.on_behalf_of.is_some() { Credential::DelegatedToken } else { Credential::ServiceToken };
            let principal = callers.platform_principal(mode, token, credential);
            (credential, token.trace.clone(), principal.map_err(Refusal::from))
        }
        Ok(Token::User(token)) => {
            let principal = callers.user_principal(token, evidence.peer);
            (Credential::UserToken, token.trace.clone(), principal.map_err(Refusal::from))
        }
    };
    let result = result.and_then(|principal| match evidence.record {
        Some(record)
            if mode == AuthMode::Dual
                && is_conflict(record, &principal, callers.check_key(record, evidence.denied, now)) =>
        {
            let trace = Trace { key_id: Some(record.id.as_str().into()), ..trace.clone() };
            Err(Refusal { trace, ..Reason::CredentialsConflict.into() })
        }
        _ => Ok(principal),
    });
    let result = result.map_err(|refusal| {
        if refusal.trace == Trace::default() { Refusal { trace: trace.clone(), ..refusal } } else { refusal }
    });
    Judgement { credential, result, trace }
}

/// A token wins over a shared key, and over one that does not work. With a working key that someone else owns, the
/// request says two things at once. A brownout does not change what it says.
fn is_conflict(record: &ApiKeyRecord, principal: &Principal, checked: Result<(), Reason>) -> bool {
    let holder = api_key::holder(record);
    !record.shared && checked.is_ok() && holder != principal.subject && holder != principal.actor
}

fn by_key(mode: AuthMode, evidence: &Evidence<'_>, callers: &Callers, windows: &Windows, now: Timestamp) -> Judgement {
    if !evidence.has_key {
        let result = Err(Reason::NoCredential.into());
        return Judgement { credential: Credential::None, result, trace: Trace::default() };
    }
    let trace = Trace { key_id: evidence.record.map(|record| record.id.as_str().into()), ..Trace::default() };
    let refuse = |reason: Reason| Refusal { trace: trace.clone(), ..reason.into() };
    let result = match evidence.record {
        None => Err(refuse(Reason::ApiKeyUnknown)),
        Some(record) => match (callers.check_key(record, evidence.denied, now), mode) {
            (Err(reason), _) => Err(refuse(reason)),
            (Ok(()), AuthMode::JWTOnly) => Err(refuse(Reason::ApiKeysNotAccepted)),
            (Ok(()), AuthMode::Dual) => match windows.end_of_brownout(now) {
                Some(end) => Err(Refusal { until: Some(end), ..refuse(Reason::ApiKeysBrownedOut) }),
                None => Ok(callers.key_principal(record, evidence.peer)),
            },
            (Ok(()), AuthMode::APIKeyOnly) => Ok(callers.key_principal(record, evidence.peer)),
        },
    };
    Judgement { credential: Credential::ApiKey, result, trace }
}

#[cfg(test)]
mod tests;
