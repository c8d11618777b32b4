//! Credentials that a request brings along without being made by them: to be exchanged, or asked about.
//!
//! They are judged as if their holder had presented them to the service that brings them: for platform tokens that
//! service is the audience, and who made the token for whom is told rather than compared with a peer.

use std::net::IpAddr;
use std::sync::Arc;

use gaia_api::SpiffeId;
use gaia_api::mount::AuthMode;
use http::HeaderMap;
use jiff::Timestamp;

use crate::authenticator::Authenticator;
use crate::cache::Token;
use crate::jwt::{ServiceToken, TokenRules, UserToken};
use crate::ledger::Caller;
use crate::mode::{self, Evidence};
use crate::presented;
use crate::principal::{Connection, Credential, Identity, PeerIdentity, Scopes};
use crate::rules::{Known, Rules};
use crate::{Reason, Refusal, Trace};

/// What a credential says, all of it verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// Its kind.
    pub kind: Credential,
    /// For whom it is.
    pub subject: Identity,
    /// Of a platform token: the one service that may present it.
    pub client: Option<SpiffeId>,
    /// Of a token: its `iss`.
    pub issuer: Option<String>,
    /// Of a platform token: its `aud`.
    pub audience: Option<String>,
    /// What its holder may do, as far as it and the policy of this service say.
    pub scopes: Scopes,
    /// When it was issued.
    pub issued: Option<Timestamp>,
    /// When it ends; none: it does not.
    pub expires: Option<Timestamp>,
    /// Whether it is of a user that nobody has signed in as.
    pub is_anonymous: bool,
    /// What may be logged of it.
    pub trace: Trace,
}

impl Authenticator {
    /// Examines a token that `peer` brings, asking its issuer where that is needed. A platform token must be meant for
    /// the peer. A token bound to a certificate is good only if it is the peer's own. A question to the issuer is charged
    /// to the peer and to `client`, the address that the token came from.
    ///
    /// # Errors
    /// A [`Refusal`] with the first rule that it breaks.
    pub async fn examine_token(
        self: &Arc<Self>,
        text: &str,
        peer: Option<&PeerIdentity>,
        client: Option<IpAddr>,
    ) -> Result<Examined, Refusal> {
        let rules = self.rules().ok_or(Reason::PolicyNotLoaded)?;
        let Some(issuer) = rules.user_issuer(text) else {
            let token = rules.meant_for(text, peer, self.now())?;
            return Ok(rules.of_platform(token, peer));
        };
        let connection = Connection { peer: peer.cloned(), address: client, ..Connection::default() };
        let answer = match self.asking(&rules, text, &connection) {
            None => None,
            Some(asking) => asking.await,
        };
        match rules.token(text, peer, self.now(), Known { answer: answer.as_ref(), ..self.known() })? {
            Token::User(token) => Ok(rules.of_user(Arc::unwrap_or_clone(token), &issuer.issuer)),
            // Its issuer was found in the table, and a token is remembered by the table it was read by.
            Token::Platform(_) => Err(Reason::IssuerWrong.into()),
        }
    }

    /// Examines an API key that came with a request. It obeys the mode and the brownouts of this service, and its use
    /// is noted as if it had been presented.
    ///
    /// # Errors
    /// A [`Refusal`] with the first rule that it breaks.
    pub fn examine_key(
        &self,
        key: &str,
        route: &'static str,
        headers: &HeaderMap,
        connection: &Connection,
    ) -> Result<Examined, Refusal> {
        let rules = self.rules().ok_or(Reason::PolicyNotLoaded)?;
        presented::check_key(key)?;
        let now = self.now();
        let record = rules.api_keys().recognise(key);
        if let Some(record) = record {
            self.note_key(&record.id, Caller::of(connection, headers, route), now);
        }
        let evidence = Evidence {
            peer: connection.peer.as_ref(),
            token: None,
            refused_kind: Credential::None,
            denied: rules.denied(),
            has_key: true,
            record,
        };
        let mode = mode::effective(rules.policy().mode, record);
        let judgement = mode::judge(mode, &evidence, rules.callers(), rules.windows(), now);
        let (principal, record) = (judgement.result?, record.ok_or(Reason::ApiKeyUnknown)?);
        // The same as where the key is presented itself: its owner, or the key. No token names its caller as the one it is
        // delegated for, so the key stands for itself where the owner brings it.
        let is_own =
            connection.peer.as_ref().is_some_and(|peer| principal.subject == Identity::Service(peer.spiffe_id.clone()));
        let subject = if is_own { Identity::Key(record.id.clone()) } else { principal.subject };
        Ok(Examined {
            kind: Credential::ApiKey,
            subject,
            client: None,
            issuer: None,
            audience: None,
            scopes: principal.scopes,
            issued: None,
            expires: principal.expires,
            is_anonymous: false,
            trace: judgement.trace,
        })
    }
}

impl Rules {
    /// A platform token that was meant for `peer`, whoever it was made for.
    fn meant_for(&self, text: &str, peer: Option<&PeerIdentity>, now: Timestamp) -> Result<ServiceToken, Refusal> {
        let keys = self.keys().ok_or(Reason::KeysNotLoaded)?;
        let tokens = &self.policy().tokens;
        let rules = TokenRules {
            keys,
            issuer: &tokens.issuer,
            own: &peer.ok_or(Reason::PeerMissing)?.spiffe_id,
            broad_audience: (self.policy().mode != AuthMode::JWTOnly).then_some(tokens.audience.as_str()),
            max_ttl_seconds: tokens.max_ttl_seconds,
            denied: self.denied(),
        };
        let token = rules.read(text)?;
        match token.check_unbound(self.denied(), now) {
            Ok(()) => Ok(token),
            Err(reason) => Err(Refusal { trace: token.trace, ..reason.into() }),
        }
    }

    fn of_platform(&self, token: ServiceToken, peer: Option<&PeerIdentity>) -> Examined {
        let own = peer.map(|peer| peer.spiffe_id.to_string());
        let kind = if token.on_behalf_of.is_some() { Credential::DelegatedToken } else { Credential::ServiceToken };
        Examined {
            kind,
            subject: token.on_behalf_of.clone().unwrap_or_else(|| Identity::Service(token.caller.clone())),
            issuer: Some(self.policy().tokens.issuer.clone()),
            audience: if token.is_broad { Some(self.policy().tokens.audience.clone()) } else { own },
            issued: Some(token.issued()),
            scopes: token.scopes,
            expires: Some(token.expires),
            is_anonymous: false,
            client: Some(token.caller),
            trace: token.trace,
        }
    }

    fn of_user(&self, token: UserToken, issuer: &str) -> Examined {
        Examined {
            kind: Credential::UserToken,
            subject: token.identity(),
            client: None,
            issuer: Some(issuer.to_owned()),
            audience: None,
            scopes: Scopes::from_list(&self.policy().user_tokens.scopes),
            issued: Some(token.issued()),
            expires: Some(token.expires),
            is_anonymous: token.is_anonymous,
            trace: token.trace,
        }
    }
}

#[cfg(test)]
mod tests;
