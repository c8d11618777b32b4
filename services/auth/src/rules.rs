//! One immutable generation of everything that decides, and the decision itself.

use std::collections::HashMap;
use std::sync::Arc;

use gaia_api::SpiffeId;
use gaia_api::mount::{ApiKeyRecord, AuthMode, Policy};
use http::HeaderMap;
use jiff::Timestamp;

use crate::api_key::{self, ApiKeyTable};
use crate::denylist::Denied;
use crate::jwt::{KeySet, ServiceToken, TokenRules};
use crate::presented::Presented;
use crate::principal::{Connection, Credential, Identity, PeerIdentity, Principal, Scopes};
use crate::{Reason, Refusal, Trace};

/// Everything one service decides by. It is replaced as a whole, never changed.
#[derive(Debug)]
pub struct Rules {
    policy: Policy,
    keys: Option<Arc<KeySet>>,
    denied: Denied,
    api_keys: ApiKeyTable,
    callers: HashMap<SpiffeId, Scopes>,
}

/// What was found out about one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The kind of credential that decided, or was the first to fail.
    pub credential: Credential,
    /// Who it is, or why not.
    pub result: Result<Principal, Refusal>,
    /// The id of a recognised API key, whatever became of it: this is how its last use is known.
    pub key_id: Option<String>,
    /// Why a stricter mode would have refused what passed.
    pub would_deny: Option<Reason>,
    /// What may be logged of the credential that passed.
    pub trace: Trace,
}

impl Rules {
    /// Puts the parts together. Without `keys`, because none were ever loaded, tokens get a 503.
    #[must_use]
    pub fn new(policy: Policy, keys: Option<Arc<KeySet>>, denied: Denied, api_keys: ApiKeyTable) -> Self {
        let callers = policy.callers.iter().map(|c| (c.spiffe_id.clone(), Scopes::from_list(&c.scopes))).collect();
        Self { policy, keys, denied, api_keys, callers }
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What is revoked.
    #[must_use]
    pub fn denied(&self) -> &Denied {
        &self.denied
    }

    /// Finds out who sent a request with these headers over this connection, at `now`.
    #[must_use]
    pub fn authenticate(&self, headers: &HeaderMap, connection: &Connection, now: Timestamp) -> Verdict {
        let mut verdict = Verdict {
            credential: Credential::None,
            result: Err(Reason::NoCredential.into()),
            key_id: None,
            would_deny: None,
            trace: Trace::default(),
        };
        verdict.result = self.decide(headers, connection, now, &mut verdict);
        verdict
    }

    /// Finds out who the mTLS peer is, whatever the mode and the headers say.
    ///
    /// # Errors
    /// A [`Refusal`] without a peer, or if its leaf ended or was revoked.
    pub fn authenticate_peer(&self, connection: &Connection, now: Timestamp) -> Result<Principal, Refusal> {
        let peer = connection.peer.as_ref().ok_or(Reason::PeerMissing)?;
        self.denied.check_peer(peer, now)?;
        let identity = Identity::Service(peer.spiffe_id.clone());
        Ok(Principal { subject: identity.clone(), actor: identity, scopes: Scopes::All, credential: Credential::Peer })
    }

    fn decide(
        &self,
        headers: &HeaderMap,
        connection: &Connection,
        now: Timestamp,
        verdict: &mut Verdict,
    ) -> Result<Principal, Refusal> {
        let peer = connection.peer.as_ref();
        if let Some(peer) = peer {
            self.denied.check_peer(peer, now)?;
        }
        let presented = Presented::find(headers)?;
        let record = presented.api_key.and_then(|key| self.api_keys.recognise(key));
        verdict.key_id = record.map(|record| record.id.clone());
        match (self.policy.mode, presented.token, presented.api_key) {
            // A presented token decides alone: if it is bad, no key saves the request.
            (AuthMode::Dual | AuthMode::JWTOnly, Some(token), _) => {
                verdict.credential = Credential::ServiceToken;
                let token = self.verify(token, peer, now)?;
                verdict.trace = token.trace.clone();
                let principal = self.token_principal(token, verdict)?;
                self.check_conflict(record, &principal, now)?;
                Ok(principal)
            }
            (mode, _, Some(_)) => {
                verdict.credential = Credential::ApiKey;
                let refuse = |reason| Refusal {
                    reason,
                    trace: Trace { key_id: record.map(|r| r.id.clone()), ..Trace::default() },
                };
                let record = record.ok_or_else(|| refuse(Reason::ApiKeyUnknown))?;
                verdict.trace.key_id = Some(record.id.clone());
                api_key::check(record, mode, now).map_err(refuse)?;
                Ok(key_principal(record, peer))
            }
            (_, _, None) => Err(Reason::NoCredential.into()),
        }
    }

    fn verify(&self, token: &str, peer: Option<&PeerIdentity>, now: Timestamp) -> Result<ServiceToken, Refusal> {
        let keys = self.keys.as_deref().ok_or(Reason::KeysNotLoaded)?;
        let tokens = &self.policy.tokens;
        let rules = TokenRules {
            keys,
            issuer: &tokens.issuer,
            own: &self.policy.service.spiffe_id,
            broad_audience: (self.policy.mode != AuthMode::JWTOnly).then_some(tokens.audience.as_str()),
            max_ttl_seconds: tokens.max_ttl_seconds,
            denied: &self.denied,
        };
        rules.verify(token, peer, now)
    }

    /// Caller policy: a declared caller has what the policy lists, within what its token names. An undeclared one is
    /// let in and counted, unless tokens are all there is.
    fn token_principal(&self, token: ServiceToken, verdict: &mut Verdict) -> Result<Principal, Refusal> {
        let granted = match self.callers.get(&token.caller) {
            Some(scopes) => scopes.clone(),
            None if self.policy.mode == AuthMode::JWTOnly => {
                return Err(Refusal { reason: Reason::CallerNotDeclared, trace: token.trace });
            }
            None => {
                verdict.would_deny = Some(Reason::CallerNotDeclared);
                Scopes::All
            }
        };
        let named = match token.scopes {
            None => Scopes::All,
            Some(scopes) => Scopes::Only(scopes.into_iter().collect()),
        };
        let identity = Identity::Service(token.caller);
        Ok(Principal {
            subject: identity.clone(),
            actor: identity,
            scopes: granted.and(&named),
            credential: Credential::ServiceToken,
        })
    }

    /// A token wins over a shared key, and over one that does not work. With a working key that someone else owns, the
    /// request says two things at once.
    fn check_conflict(
        &self,
        record: Option<&ApiKeyRecord>,
        principal: &Principal,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        match record {
            Some(record)
                if !record.shared
                    && api_key::check(record, self.policy.mode, now).is_ok()
                    && api_key::holder(record) != principal.subject =>
            {
                let trace = Trace { key_id: Some(record.id.clone()), ..Trace::default() };
                Err(Refusal { reason: Reason::CredentialsConflict, trace })
            }
            _ => Ok(()),
        }
    }
}

fn key_principal(record: &ApiKeyRecord, peer: Option<&PeerIdentity>) -> Principal {
    let holder = api_key::holder(record);
    Principal {
        actor: peer.map_or_else(|| holder.clone(), |peer| Identity::Service(peer.spiffe_id.clone())),
        subject: holder,
        scopes: api_key::scopes(record),
        credential: Credential::ApiKey,
    }
}

#[cfg(test)]
mod tests;
