//! Issuing of delegated tokens (RFC 8693): a service that was called on behalf of a subject calls another one on behalf
//! of the same subject.

use std::collections::BTreeMap;
use std::fmt;

use gaia_api::SpiffeId;
use gaia_auth::issue::{Actor, DelegatedClaims};
use gaia_auth::tokens::MAX_DELEGATED_SECONDS;
use gaia_auth::{Credential, Denied, Identity, Introspected, PeerIdentity, Reason, Scopes, parse_scope};
use gaia_runtime::wire::{ACCESS_TOKEN_TYPE, API_KEY_TYPE, EXCHANGE_GRANT_TYPE, JWT_TYPE};
use jiff::Timestamp;

use crate::denial::Denial;
use crate::grants::{GrantTable, granted};
use crate::issuer::{check_peer, life_seconds, whole_seconds};

/// A parsed exchange request.
#[derive(Clone, PartialEq, Eq)]
pub struct ExchangeRequest {
    /// The credential of the subject.
    pub subject: SubjectCredential,
    /// The service to call, `name` or `namespace/name`.
    pub audience: String,
    /// The requested scopes, separated by spaces; none: all granted ones.
    pub scope: Option<String>,
}

/// A credential to exchange.
#[derive(Clone, PartialEq, Eq)]
pub enum SubjectCredential {
    /// The token of a user or a service, or a delegated one.
    Token(String),
    /// An API key.
    ApiKey(String),
}

impl fmt::Debug for SubjectCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::ApiKey(_) => "ApiKey",
        })
    }
}

impl fmt::Debug for ExchangeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeRequest").field("subject", &self.subject).field("audience", &self.audience).finish()
    }
}

impl ExchangeRequest {
    /// Parses the form of a request (RFC 8693, section 2.1). The actor is always the peer and cannot be set.
    ///
    /// # Errors
    /// [`Denial::Malformed`], or [`Denial::GrantTypeUnknown`] for another grant type.
    pub fn parse(mut form: BTreeMap<String, String>) -> Result<Self, Denial> {
        match form.remove("grant_type") {
            None => return Err(Denial::Malformed),
            Some(grant_type) if grant_type != EXCHANGE_GRANT_TYPE => return Err(Denial::GrantTypeUnknown),
            Some(_) => {}
        }
        if form.remove("requested_token_type").is_some_and(|kind| !TOKEN_TYPES.contains(&kind.as_str())) {
            return Err(Denial::Malformed);
        }
        let mut take = |name: &str| form.remove(name).filter(|value| !value.is_empty());
        let subject = take("subject_token").ok_or(Denial::Malformed)?;
        let subject = match take("subject_token_type").as_deref() {
            Some(kind) if TOKEN_TYPES.contains(&kind) => SubjectCredential::Token(subject),
            Some(API_KEY_TYPE) => SubjectCredential::ApiKey(subject),
            _ => return Err(Denial::Malformed),
        };
        let audience = take("audience").ok_or(Denial::Malformed)?;
        let scope = take("scope");
        // Unknown fields are refused, because ignoring them would be misleading: `actor_token`, `resource`, a
        // misspelled name.
        if form.is_empty() { Ok(Self { subject, audience, scope }) } else { Err(Denial::Malformed) }
    }
}

/// Returns the claims of a delegated token for `peer`, issued at `now` with the ID `jti`. Subject, scopes and expiry
/// never exceed those of the credential.
///
/// # Errors
/// [`Denial`] for the first rule that is broken.
pub fn claims(
    grants: &GrantTable,
    denied: &Denied,
    peer: &PeerIdentity,
    subject: &Introspected,
    request: &ExchangeRequest,
    now: Timestamp,
    jti: String,
) -> Result<DelegatedClaims, Denial> {
    let issued = whole_seconds(now);
    check_peer(denied, peer, now)?;
    denied.check_subject(&subject.subject.to_string(), issued).map_err(Denial::SubjectRefused)?;
    check_kind(subject, peer)?;
    let requested = match &request.scope {
        None => None,
        Some(scope) => Some(parse_scope(scope).ok_or(Denial::Malformed)?),
    };
    let caller = grants.service(&peer.spiffe_id).ok_or(Denial::CallerUnknown)?;
    let target = grants.target(&request.audience, caller)?;
    let allowed = grants.scopes(&peer.spiffe_id, &target.spiffe_id).ok_or(Denial::PairNotGranted)?;
    if !grants.is_on_behalf_of(&peer.spiffe_id, &target.spiffe_id) {
        return Err(Denial::DelegationNotGranted);
    }
    let mut limits = Scopes::from_list(allowed).and(&subject.scopes);
    // A call on behalf of a service requires that the service may call the target itself. An API key is not bound to
    // the service that owns it.
    if let (Identity::Service(service), false) = (&subject.subject, subject.kind == Credential::ApiKey) {
        let own = grants.scopes(service, &target.spiffe_id).ok_or(Denial::PairNotGranted)?;
        limits = limits.and(&Scopes::from_list(own));
    }
    let scope = match limits {
        Scopes::All => granted(requested.as_deref(), &[]),
        Scopes::Only(both) if both.is_empty() => Err(()),
        Scopes::Only(both) => granted(requested.as_deref(), &both.iter().cloned().collect::<Vec<_>>()),
    };
    let scope = scope.map_err(|()| Denial::ScopeNotGranted)?;
    let longest = MAX_DELEGATED_SECONDS.min(grants.tokens().max_ttl_seconds);
    let life = life_seconds(longest, peer.not_after, now)?;
    // Expired credentials are accepted for calls within the clock skew, but not exchanged.
    let left = subject.expires.map_or(life, |expires| life.min(expires.as_second() - issued.as_second()));
    if left <= 0 {
        return Err(Denial::SubjectRefused(Reason::Expired));
    }
    Ok(DelegatedClaims {
        iss: grants.tokens().issuer.clone(),
        sub: delegated_subject(subject, &target.spiffe_id).to_string(),
        client_id: peer.spiffe_id.to_string(),
        act: Actor { sub: peer.spiffe_id.to_string() },
        service: caller.name.clone(),
        aud: target.spiffe_id.to_string(),
        jti,
        iat: issued.as_second(),
        exp: issued.as_second() + left,
        scope,
    })
}

/// Returns the subject of the token. A delegated token cannot have its target as subject, so the target's own key
/// stands for itself.
fn delegated_subject(subject: &Introspected, target: &SpiffeId) -> Identity {
    match (&subject.subject, &subject.trace.key_id) {
        (Identity::Service(owner), Some(key)) if subject.kind == Credential::ApiKey && owner == target => {
            Identity::Key(key.to_string())
        }
        (subject, _) => subject.clone(),
    }
}

/// Checks the kind of the credential. A workload acts for itself with its own token, and another one acts on its behalf
/// only with a token whose audience it was. A delegated token cannot express that its user is anonymous, so those of
/// anonymous users are refused.
fn check_kind(subject: &Introspected, peer: &PeerIdentity) -> Result<(), Denial> {
    let own = &peer.spiffe_id;
    match subject.kind {
        Credential::ServiceToken if subject.subject == Identity::Service(own.clone()) => {
            Err(Denial::SubjectRefused(Reason::KindNotAccepted))
        }
        Credential::ServiceToken if subject.audience.as_deref() != Some(own.as_str()) => {
            Err(Denial::SubjectRefused(Reason::AudienceWrong))
        }
        _ if subject.is_anonymous => Err(Denial::SubjectRefused(Reason::AnonymousUser)),
        _ => Ok(()),
    }
}

const TOKEN_TYPES: [&str; 2] = [JWT_TYPE, ACCESS_TOKEN_TYPE];

#[cfg(test)]
mod tests;
