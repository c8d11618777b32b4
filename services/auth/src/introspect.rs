//! Introspection of credentials that a request carries for exchange or validation, rather than to authenticate itself.
//!
//! They are verified as if their holder had presented them to the requesting service: the audience of a platform token
//! must be that service. The client of the token is returned instead of being compared with the peer.

use std::sync::Arc;

use gaia_api::SpiffeId;
use gaia_api::mount::AuthMode;
use http::HeaderMap;
use jiff::Timestamp;

use crate::decision::authenticator::Authenticator;
use crate::issuers::Source;
use crate::policy::mode::{self, Evidence};
use crate::policy::rules::{Known, Rules};
use crate::principal::{Connection, Credential, Identity, PeerIdentity, Scopes};
use crate::request::client::Client;
use crate::request::extract_credentials;
use crate::tokens::cache::Token;
use crate::tokens::{ServiceToken, TokenRules, UserToken};
use crate::usage::Caller;
use crate::{Reason, Refusal, Trace};

/// The verified contents of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introspected {
    /// The kind of credential.
    pub kind: Credential,
    /// The subject.
    pub subject: Identity,
    /// Of a platform token: the only service that may present it.
    pub client: Option<SpiffeId>,
    /// Of a token: its `iss`.
    pub issuer: Option<String>,
    /// Of a platform token: its `aud`.
    pub audience: Option<String>,
    /// The scopes granted by the credential and the policy of this service.
    pub scopes: Scopes,
    /// Issue time.
    pub issued: Option<Timestamp>,
    /// Expiry; none if it does not expire.
    pub expires: Option<Timestamp>,
    /// Set for an anonymous user, created by the issuer without sign-in.
    pub is_anonymous: bool,
    /// Loggable details of the credential.
    pub trace: Trace,
}

impl Authenticator {
    /// Verifies a token sent by `peer`, and queries its issuer where needed. The audience of a platform token must be
    /// the peer. A certificate-bound token is accepted only if it is bound to the peer's certificate. A query to the
    /// issuer counts against the share of `client` at the peer.
    ///
    /// # Errors
    /// A [`Refusal`] for the first rule that the token breaks.
    pub async fn introspect_token(
        self: &Arc<Self>,
        text: &str,
        peer: Option<&PeerIdentity>,
        client: Client,
    ) -> Result<Introspected, Refusal> {
        let rules = self.rules().ok_or(Reason::PolicyNotLoaded)?;
        let Some(issuer) = rules.user_issuer(text) else {
            let token = rules.meant_for(text, peer, self.now())?;
            return Ok(rules.of_platform(token, peer));
        };
        let answer = match self.asking(&rules, text, (peer, Source::new(peer, client, None))) {
            None => None,
            Some(asking) => asking.await,
        };
        match rules.token(text, peer, self.now(), Known { answer: answer.as_ref(), ..self.known() })? {
            Token::User(token) => Ok(rules.of_user(Arc::unwrap_or_clone(token), &issuer.issuer)),
            // The issuer was found in the policy, and cache entries of another policy do not match.
            Token::Platform(_) => Err(Reason::IssuerWrong.into()),
        }
    }

    /// Verifies an API key sent with a request. Mode and brownouts of this service apply, and the use is recorded as if
    /// the key had been presented.
    ///
    /// # Errors
    /// A [`Refusal`] for the first rule that the key breaks.
    pub fn introspect_key(
        &self,
        key: &str,
        route: &'static str,
        headers: &HeaderMap,
        connection: &Connection,
    ) -> Result<Introspected, Refusal> {
        let rules = self.rules().ok_or(Reason::PolicyNotLoaded)?;
        extract_credentials::check_key(key)?;
        let now = self.now();
        let record = rules.api_keys().find_record(key);
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
        let judgement = mode::evaluate(mode, &evidence, rules.callers(), rules.windows(), now);
        let (principal, record) = (judgement.result?, record.ok_or(Reason::ApiKeyUnknown)?);
        // The subject is the owner or the key, as for a presented key. A delegated token cannot name its caller as
        // subject, so the key stands for itself if its owner sends it.
        let is_own =
            connection.peer.as_ref().is_some_and(|peer| principal.subject == Identity::Service(peer.spiffe_id.clone()));
        let subject = if is_own { Identity::Key(record.id.clone()) } else { principal.subject };
        Ok(Introspected {
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
    /// Verifies a platform token whose audience is `peer`, whichever client it was issued to.
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

    fn of_platform(&self, token: ServiceToken, peer: Option<&PeerIdentity>) -> Introspected {
        let own = peer.map(|peer| peer.spiffe_id.to_string());
        let kind = if token.on_behalf_of.is_some() { Credential::DelegatedToken } else { Credential::ServiceToken };
        Introspected {
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

    fn of_user(&self, token: UserToken, issuer: &str) -> Introspected {
        Introspected {
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
