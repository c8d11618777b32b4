//! The decision table: how each mode treats each credential.
//!
//! | mode | API key | token | and |
//! |---|---|---|---|
//! | APIKeyOnly | decides | never changes the decision | |
//! | Dual | accepted | accepted; a valid key never replaces an invalid token | a valid token takes precedence over a shared key; together with a key of another owner, the request is contradictory |
//! | JWTOnly | refused with a reason of its own | decides | |
//!
//! A key's own mode may be stricter than its service's; the stricter one applies to a request with that key.

use gaia_api::mount::{ApiKeyRecord, AuthMode};
use http::StatusCode;
use jiff::Timestamp;

use crate::denylist::Denied;
use crate::policy::api_key;
use crate::policy::callers::Callers;
use crate::policy::rules::Windows;
use crate::principal::{Credential, PeerIdentity, Principal};
use crate::tokens::cache::Token;
use crate::{Reason, Refusal, Trace};

/// All credentials found in one request, each verified separately.
pub(crate) struct Evidence<'a> {
    pub(crate) peer: Option<&'a PeerIdentity>,
    /// The result of verifying the token, if there is one.
    pub(crate) token: Option<Result<Token, Refusal>>,
    /// The kind of a refused token, if known.
    pub(crate) refused_kind: Credential,
    /// The denylist.
    pub(crate) denied: &'a Denied,
    /// Whether a value for an API key was presented.
    pub(crate) has_key: bool,
    /// The record of the key, if one matches.
    pub(crate) record: Option<&'a ApiKeyRecord>,
}

/// The deciding credential and the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Evaluation {
    pub(crate) credential: Credential,
    pub(crate) result: Result<Principal, Refusal>,
    pub(crate) trace: Trace,
}

/// Returns the mode that applies to a request.
pub(crate) fn effective(service: AuthMode, record: Option<&ApiKeyRecord>) -> AuthMode {
    record.and_then(|record| record.mode).map_or(service, |own| own.max(service))
}

/// Returns the next stricter mode.
pub(crate) fn next(mode: AuthMode) -> Option<AuthMode> {
    match mode {
        AuthMode::APIKeyOnly => Some(AuthMode::Dual),
        AuthMode::Dual => Some(AuthMode::JWTOnly),
        AuthMode::JWTOnly => None,
    }
}

/// Decides a request under `mode`.
pub(crate) fn evaluate(
    mode: AuthMode,
    evidence: &Evidence<'_>,
    callers: &Callers,
    windows: &Windows,
    now: Timestamp,
) -> Evaluation {
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
) -> Evaluation {
    let (credential, trace, result) = match token {
        Err(refusal) => {
            // Without a key the request is malformed; with one it has an invalid token, which the key does not replace.
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
    Evaluation { credential, result, trace }
}

/// Returns true if token and key contradict each other. A token takes precedence over a shared or invalid key, but not
/// over a valid key of another owner. A brownout does not change this.
fn is_conflict(record: &ApiKeyRecord, principal: &Principal, checked: Result<(), Reason>) -> bool {
    let holder = api_key::holder(record);
    !record.shared && checked.is_ok() && holder != principal.subject && holder != principal.actor
}

fn by_key(mode: AuthMode, evidence: &Evidence<'_>, callers: &Callers, windows: &Windows, now: Timestamp) -> Evaluation {
    if !evidence.has_key {
        let result = Err(Reason::NoCredential.into());
        return Evaluation { credential: Credential::None, result, trace: Trace::default() };
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
    Evaluation { credential: Credential::ApiKey, result, trace }
}

#[cfg(test)]
mod tests;
