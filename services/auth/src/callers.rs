//! Whom the policy lets call, and what each of them may do.

use std::collections::{HashMap, HashSet};

use gaia_api::SpiffeId;
use gaia_api::mount::{ApiKeyRecord, AuthMode, Policy};
use jiff::Timestamp;

use crate::Reason;
use crate::api_key;
use crate::denylist::Denied;
use crate::jwt::{ServiceToken, UserToken};
use crate::principal::{Credential, Identity, PeerIdentity, Principal, Scopes};

/// Who may call, and what users may do.
#[derive(Debug)]
pub(crate) struct Callers {
    declared: HashMap<SpiffeId, Declared>,
    user_scopes: Scopes,
    /// The short names of the issuers of user tokens.
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
    /// A declared caller has what the policy lists, within what its token names, and for a user no more than users may.
    /// An undeclared one is let in unless tokens are all there is, but never for someone else.
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
            // A service that is called for has no more than it would have by itself.
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

    /// Returns true if the policy lets a caller carry someone else's identity.
    pub(crate) fn may_carry(&self, caller: &SpiffeId) -> bool {
        self.declared.get(caller).is_some_and(|declared| declared.on_behalf_of)
    }

    /// Checks whether a recognised key works, where keys are accepted.
    pub(crate) fn check_key(&self, record: &ApiKeyRecord, denied: &Denied, now: Timestamp) -> Result<(), Reason> {
        api_key::check(record, now)?;
        let holder = api_key::holder(record);
        match &holder {
            Identity::User { issuer, .. } if !self.issuers.contains(issuer) => Err(Reason::ApiKeyIssuerUnknown),
            _ => denied.check_holder(&holder, now),
        }
    }

    /// The principal of a key that works. The key of a user has no more scopes than users have.
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

    /// A user comes alone, or is brought by a peer that may carry a user's identity.
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
