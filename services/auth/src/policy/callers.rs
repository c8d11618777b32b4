//! Caller policy: permitted callers and their scopes.

use std::collections::{HashMap, HashSet};

use gaia_api::SpiffeId;
use gaia_api::mount::{ApiKeyRecord, AuthMode, Policy};
use jiff::Timestamp;

use crate::Reason;
use crate::denylist::Denied;
use crate::policy::api_key;
use crate::principal::{Credential, Identity, PeerIdentity, Principal, Scopes};
use crate::tokens::{ServiceToken, UserToken};

/// Permitted callers, and the scopes of users.
#[derive(Debug)]
pub(crate) struct Callers {
    declared: HashMap<SpiffeId, Declared>,
    user_scopes: Scopes,
    /// Short names of the issuers of user tokens.
    issuers: HashSet<String>,
}

#[derive(Debug)]
struct Declared {
    scopes: Scopes,
    on_behalf_of: bool,
}

impl From<&Policy> for Callers {
    fn from(policy: &Policy) -> Self {
        let mut declared: HashMap<SpiffeId, Declared> = HashMap::new();
        for caller in &policy.callers {
            let entry = Declared { scopes: Scopes::from_list(&caller.scopes), on_behalf_of: caller.on_behalf_of };
            declared.insert(caller.spiffe_id.clone(), entry);
        }
        let issuers = policy.user_tokens.issuers.iter().map(|issuer| issuer.name.clone()).collect();
        Self { declared, user_scopes: Scopes::from_list(&policy.user_tokens.scopes), issuers }
    }
}

impl Callers {
    /// Returns the principal of a platform token. A declared caller gets the policy's scopes limited to those of its
    /// token, and on behalf of a user limited to those of users. An undeclared caller is accepted unless the mode is
    /// `JWTOnly`, but never on behalf of another subject.
    pub(crate) fn platform_principal(
        &self,
        mode: AuthMode,
        token: &ServiceToken,
        credential: Credential,
    ) -> Result<Principal, Reason> {
        if mode == AuthMode::JWTOnly && token.is_broad {
            return Err(Reason::AudienceWrong);
        }
        let declared = self.declared.get(&token.caller);
        let granted = match declared {
            Some(declared) => declared.scopes.clone(),
            None if mode == AuthMode::JWTOnly => return Err(Reason::CallerNotDeclared),
            None => Scopes::All,
        };
        if token.on_behalf_of.is_some() && !self.may_carry(&token.caller) {
            return Err(Reason::DelegationNotAllowed);
        }
        let scopes = match &token.on_behalf_of {
            Some(Identity::User { .. }) => granted.and(&token.scopes).and(&self.user_scopes),
            // On behalf of another service: limited to that service's own scopes.
            Some(Identity::Service(service)) => match self.declared.get(service) {
                Some(declared) => granted.and(&token.scopes).and(&declared.scopes),
                None if mode == AuthMode::JWTOnly => return Err(Reason::CallerNotDeclared),
                None => granted.and(&token.scopes),
            },
            _ => granted.and(&token.scopes),
        };
        let actor = Identity::Service(token.caller.clone());
        Ok(Principal {
            subject: token.on_behalf_of.clone().unwrap_or_else(|| actor.clone()),
            actor,
            scopes,
            credential,
            expires: Some(token.expires),
            is_anonymous: false,
        })
    }

    /// Returns true if the policy lets a caller carry another identity.
    pub(crate) fn may_carry(&self, caller: &SpiffeId) -> bool {
        self.declared.get(caller).is_some_and(|declared| declared.on_behalf_of)
    }

    /// Checks that the key of a record is valid, in a mode that accepts keys.
    pub(crate) fn check_key(&self, record: &ApiKeyRecord, denied: &Denied, now: Timestamp) -> Result<(), Reason> {
        api_key::check(record, now)?;
        let holder = api_key::holder(record);
        match &holder {
            Identity::User { issuer, .. } if !self.issuers.contains(issuer) => Err(Reason::ApiKeyIssuerUnknown),
            _ => denied.check_holder(&holder, now),
        }
    }

    /// Returns the principal of a valid key. The key of a user is limited to the scopes of users.
    pub(crate) fn key_principal(&self, record: &ApiKeyRecord, peer: Option<&PeerIdentity>) -> Principal {
        let holder = api_key::holder(record);
        let scopes = Scopes::from_list(&record.scopes);
        Principal {
            actor: peer.map_or_else(|| holder.clone(), |peer| Identity::Service(peer.spiffe_id.clone())),
            scopes: if matches!(holder, Identity::User { .. }) { scopes.and(&self.user_scopes) } else { scopes },
            subject: holder,
            credential: Credential::ApiKey,
            expires: record.expires,
            is_anonymous: false,
        }
    }

    /// Returns the principal of a user token. The request comes from the user directly, or from a peer that may carry
    /// users' identities.
    pub(crate) fn user_principal(&self, token: &UserToken, peer: Option<&PeerIdentity>) -> Result<Principal, Reason> {
        let user = token.identity();
        let (actor, scopes) = match peer {
            None => (user.clone(), self.user_scopes.clone()),
            Some(peer) => match self.declared.get(&peer.spiffe_id) {
                Some(declared) if declared.on_behalf_of => {
                    (Identity::Service(peer.spiffe_id.clone()), self.user_scopes.and(&declared.scopes))
                }
                _ => return Err(Reason::DelegationNotAllowed),
            },
        };
        Ok(Principal {
            subject: user,
            actor,
            scopes,
            credential: Credential::UserToken,
            expires: Some(token.expires),
            is_anonymous: token.is_anonymous,
        })
    }
}
