//! Verification of platform tokens: cheap checks first, fail closed.

use std::sync::Arc;

use gaia_api::SpiffeId;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::claims::{self, TimeFormat, Times, bounded, text};
use super::header::Unverified;
use super::keys::KeySet;
use crate::denylist::Denied;
use crate::principal::{Identity, PeerIdentity, Scopes};
use crate::tokens::scope::parse_scope;
use crate::{Reason, Refusal, Trace};

/// `typ` of a service token (RFC 9068, section 2.1).
pub const SERVICE_TOKEN_TYPE: &str = "at+jwt";
/// Maximum validity of a delegated token.
pub const MAX_DELEGATED_SECONDS: u64 = 5 * 60;

/// Verification rules for service tokens at one service.
#[derive(Debug, Clone, Copy)]
pub struct TokenRules<'a> {
    /// The issuer's keys.
    pub keys: &'a KeySet,
    /// The required issuer.
    pub issuer: &'a str,
    /// This service, as the required audience.
    pub own: &'a SpiffeId,
    /// The broad audience, if it is accepted.
    pub broad_audience: Option<&'a str>,
    /// Maximum validity in seconds.
    pub max_ttl_seconds: u64,
    /// The denylist.
    pub denied: &'a Denied,
}

/// A verified service token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceToken {
    /// The calling service, from `client_id` and the peer; also `sub` if the token is not delegated.
    pub caller: SpiffeId,
    /// Of a delegated token: the subject that the caller acts for.
    pub on_behalf_of: Option<Identity>,
    /// The granted scopes; if the token has none, only the target's policy applies.
    pub scopes: Scopes,
    /// Whether the token has the broad audience of the dual phases.
    pub is_broad: bool,
    /// Expiry.
    pub expires: Timestamp,
    /// Loggable details of the token.
    pub trace: Trace,
    times: Times,
    kid: String,
    jti: String,
    thumbprint: Option<String>,
}

impl TokenRules<'_> {
    /// Verifies a service token presented by `peer` at `now`.
    ///
    /// # Errors
    /// A [`Refusal`] for the first rule that the token breaks.
    pub fn verify(&self, token: &str, peer: Option<&PeerIdentity>, now: Timestamp) -> Result<ServiceToken, Refusal> {
        let token = self.read(token)?;
        match token.check(self.denied, peer, now) {
            Ok(()) => Ok(token),
            Err(reason) => Err(Refusal { trace: token.trace, ..reason.into() }),
        }
    }

    /// Verifies the parts that do not change between requests: signature and claims.
    pub(crate) fn read(&self, token: &str) -> Result<ServiceToken, Refusal> {
        let mut trace = Trace::default();
        self.verified(token, &mut trace).map_err(|reason| Refusal { trace, ..reason.into() })
    }

    fn verified(&self, token: &str, trace: &mut Trace) -> Result<ServiceToken, Reason> {
        let unverified = Unverified::parse(token)?;
        trace.kid = Some(unverified.kid.as_str().into());
        let claims = claims::signed(&unverified, self.keys, self.denied, |typ| typ == Some(SERVICE_TOKEN_TYPE))?;
        trace.jti = text(&claims, "jti").map(bounded);
        trace.sub = text(&claims, "sub").map(bounded);

        let (caller, on_behalf_of) = parties(&claims)?;
        if on_behalf_of == Some(Identity::Service(self.own.clone())) {
            return Err(Reason::SubjectWrong);
        }
        if text(&claims, "iss") != Some(self.issuer) {
            return Err(Reason::IssuerWrong);
        }
        let scopes = scopes(&claims)?;
        let is_broad = self.is_broad(&claims, scopes != Scopes::All || on_behalf_of.is_some())?;
        let longest = if on_behalf_of.is_some() { MAX_DELEGATED_SECONDS } else { u64::MAX };
        let times = Times::of(&claims, self.max_ttl_seconds.min(longest), TimeFormat::WholeSeconds)?;
        let jti = text(&claims, "jti").filter(|jti| (1..=MAX_JTI_BYTES).contains(&jti.len()));
        Ok(ServiceToken {
            caller,
            on_behalf_of,
            scopes,
            is_broad,
            expires: times.expires,
            trace: trace.clone(),
            times,
            kid: unverified.kid,
            jti: jti.ok_or(Reason::TokenIdMissing)?.to_owned(),
            thumbprint: claims::confirmation(&claims)?,
        })
    }

    /// Returns true if `aud` is the broad audience, which requires a token without scopes and without another subject.
    fn is_broad(&self, claims: &Map<String, Value>, is_particular: bool) -> Result<bool, Reason> {
        match text(claims, "aud") {
            Some(audience) if audience == self.own.as_str() => Ok(false),
            Some(audience) if Some(audience) == self.broad_audience && !is_particular => Ok(true),
            _ => Err(Reason::AudienceWrong),
        }
    }
}

impl ServiceToken {
    /// Checks the conditions that may change between requests: time, denylist and peer.
    pub(crate) fn check(&self, denied: &Denied, peer: Option<&PeerIdentity>, now: Timestamp) -> Result<(), Reason> {
        self.times.check(now)?;
        denied.check_kid(&self.kid)?;
        let peer = peer.ok_or(Reason::PeerMissing)?;
        if peer.spiffe_id != self.caller {
            return Err(Reason::PeerDiffers);
        }
        claims::check_confirmation(self.thumbprint.as_deref(), Some(peer))?;
        self.check_revocation(denied)
    }

    /// Like `check`, for a caller other than the client of the token: the peer is not compared, and certificate-bound
    /// tokens are rejected.
    pub(crate) fn check_unbound(&self, denied: &Denied, now: Timestamp) -> Result<(), Reason> {
        self.times.check(now)?;
        denied.check_kid(&self.kid)?;
        claims::check_confirmation(self.thumbprint.as_deref(), None)?;
        self.check_revocation(denied)
    }

    pub(crate) fn issued(&self) -> Timestamp {
        self.times.issued
    }

    fn check_revocation(&self, denied: &Denied) -> Result<(), Reason> {
        denied.check_token(&self.jti, self.caller.as_str(), self.times.issued)?;
        match &self.on_behalf_of {
            Some(subject) => denied.check_subject(&subject.to_string(), self.times.issued),
            None => Ok(()),
        }
    }
}

/// Reads caller and subject. In a service token `sub` and `client_id` are equal; in a delegated one (RFC 8693, section
/// 4.1) `act` names the caller, and `sub` a user, a key or another service.
fn parties(claims: &Map<String, Value>) -> Result<(SpiffeId, Option<Identity>), Reason> {
    let sub = text(claims, "sub").ok_or(Reason::SubjectWrong)?;
    let client = text(claims, "client_id").ok_or(Reason::SubjectWrong)?;
    let caller = SpiffeId::parse(client).map_err(|_| Reason::SubjectWrong)?;
    match claims.get("act") {
        None if sub == client => Ok((caller, None)),
        None => Err(Reason::SubjectWrong),
        Some(actor) => {
            // Exactly one actor; chains of delegation are not supported.
            let actor = actor.as_object().filter(|members| members.len() == 1).and_then(|act| act.get("sub")?.as_str());
            if actor != Some(client) {
                return Err(Reason::ActorWrong);
            }
            let subject =
                Identity::parse_delegated(sub).or_else(|| service(sub, &caller)).ok_or(Reason::SubjectWrong)?;
            Ok((caller, Some(subject)))
        }
    }
}

/// Returns another workload of the caller's trust domain as the subject.
fn service(sub: &str, caller: &SpiffeId) -> Option<Identity> {
    let id = SpiffeId::parse(sub).ok()?;
    let is_another = id != *caller && id.workload_parts().is_some() && id.trust_domain() == caller.trust_domain();
    is_another.then_some(Identity::Service(id))
}

fn scopes(claims: &Map<String, Value>) -> Result<Scopes, Reason> {
    let Some(value) = claims.get("scope") else { return Ok(Scopes::All) };
    let scopes = value.as_str().and_then(parse_scope).ok_or(Reason::ScopeMalformed)?;
    Ok(Scopes::Only(Arc::new(scopes.into_iter().map(str::to_owned).collect())))
}

const MAX_JTI_BYTES: usize = 128;

#[cfg(test)]
mod tests;
