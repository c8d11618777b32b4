//! Who gets which delegated token (RFC 8693): a service that was called for someone calls on for the same.

use std::collections::BTreeMap;
use std::fmt;

use gaia_api::SpiffeId;
use gaia_auth::issue::{Actor, DelegatedClaims};
use gaia_auth::jwt::MAX_DELEGATED_SECONDS;
use gaia_auth::{Credential, Denied, Examined, Identity, PeerIdentity, Reason, Scopes, parse_scope};
use gaia_runtime::wire::{ACCESS_TOKEN_TYPE, API_KEY_TYPE, EXCHANGE_GRANT_TYPE, JWT_TYPE};
use jiff::Timestamp;

use crate::denial::Denial;
use crate::grants::{GrantTable, granted};
use crate::issuer::{check_peer, life_seconds, whole_seconds};

/// What a service asks for.
#[derive(Clone, PartialEq, Eq)]
pub struct ExchangeRequest {
    /// The credential that it was called with.
    pub subject: SubjectCredential,
    /// Whom it wants to call, `name` or `namespace/name`.
    pub audience: String,
    /// The scopes it wants, one space apart; none: all that are granted.
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
    /// Reads a request's form (RFC 8693, section 2.1). Who acts is the peer, so nobody else can be named as the actor.
    ///
    /// # Errors
    /// [`Denial::Malformed`], or [`Denial::GrantTypeUnknown`] if it asks for something else.
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
        // What is not known must not be thought to have had an effect: `actor_token`, `resource`, a misspelt name.
        if form.is_empty() { Ok(Self { subject, audience, scope }) } else { Err(Denial::Malformed) }
    }
}

/// The claims a peer gets for a subject's credential, issued at `now` under the id `jti`. They say and allow no more than
/// the credential did, and end no later.
///
/// # Errors
/// [`Denial`] with the first rule in the way.
pub fn claims(
    grants: &GrantTable,
    denied: &Denied,
    peer: &PeerIdentity,
    subject: &Examined,
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
    // A service is called for only where it may call itself. An API key is not bound to the service that holds it.
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
    // A credential is taken for a moment after its end, as clocks differ; nothing new comes of it any more.
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

/// Whom the token is about. No token names its target as the one that it is for, so the target's own key stands for itself.
fn delegated_subject(subject: &Examined, target: &SpiffeId) -> Identity {
    match (&subject.subject, &subject.trace.key_id) {
        (Identity::Service(owner), Some(key)) if subject.kind == Credential::ApiKey && owner == target => {
            Identity::Key(key.to_string())
        }
        (subject, _) => subject.clone(),
    }
}

/// A workload acts for itself with a token of its own, and another one acts for it only with a token that was meant for
/// that one. And a delegated token does not tell that its user is anonymous, so that a route which takes no such users
/// could not keep them out.
fn check_kind(subject: &Examined, peer: &PeerIdentity) -> Result<(), Denial> {
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
