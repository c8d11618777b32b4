//! Whom the policy lets call, and what each of them may do.

use std::collections::HashMap;

use gaia_api::SpiffeId;
use gaia_api::mount::{AuthMode, Policy};

use crate::Reason;
use crate::jwt::{ServiceToken, UserToken};
use crate::principal::{Credential, Identity, PeerIdentity, Principal, Scopes};

/// Who may call, and what users may do.
#[derive(Debug)]
pub(crate) struct Callers {
    declared: HashMap<SpiffeId, Declared>,
    user_scopes: Scopes,
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
        Self { declared, user_scopes: Scopes::from_list(&policy.user_tokens.scopes) }
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
