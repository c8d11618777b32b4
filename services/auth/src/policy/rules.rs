//! The rules for decisions as one immutable snapshot, and the decision itself.

use std::collections::HashSet;
use std::sync::Arc;

use gaia_api::mount::{AuthMode, Brownout, Policy, UserTokenIssuer, UserTokenVerification};
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::denylist::Denied;
use crate::hash::sha256;
use crate::issuers::{Answer, Question, Source};
use crate::policy::api_key::ApiKeyTable;
use crate::policy::callers::Callers;
use crate::policy::mode::{self, Evaluation, Evidence};
use crate::principal::{Connection, Credential, Identity, PeerIdentity, Principal, Scopes};
use crate::request::extract_credentials::ExtractedCredentials;
use crate::request::notice::notice;
use crate::tokens::cache::{Token, TokenCache, TokenHash};
use crate::tokens::external_keys::UserKeys;
use crate::tokens::{HeaderRules, KeySet, Parts, TokenRules, UserToken, UserTokenRules};
use crate::{Reason, Refusal, Trace};

/// All inputs of a service's decisions. They are replaced as a whole, never modified.
#[derive(Debug)]
pub struct Rules {
    policy: Policy,
    keys: Option<Arc<KeySet>>,
    denied: Arc<Denied>,
    api_keys: ApiKeyTable,
    callers: Callers,
    windows: Windows,
    notice: HeaderMap<HeaderValue>,
    /// Hash of the policy parts that affect token verification, without the keys.
    context: [u8; 32],
}

/// Cached and fetched data that a decision uses in addition to the rules.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) cache: &'a TokenCache,
    pub(crate) user_keys: &'a UserKeys,
    /// The issuer's answer about the token, if it was queried.
    pub(crate) answer: Option<&'a Answer>,
}

/// The decision about one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The mode applied: the service's, or the key's own.
    pub mode: AuthMode,
    /// The kind of credential that decided, or was the first to fail.
    pub credential: Credential,
    /// The principal, or the refusal.
    pub result: Result<Principal, Refusal>,
    /// The ID of the matching API key record, whatever the result; its use is recorded.
    pub key_id: Option<String>,
    /// The result under the next stricter mode; none if there is none.
    pub next: Option<(Credential, Result<Principal, Refusal>)>,
    /// Loggable details of the accepted credential.
    pub trace: Trace,
}

impl Verdict {
    pub(crate) fn of(mode: AuthMode, credential: Credential, result: Result<Principal, Refusal>) -> Self {
        Self { mode, credential, result, key_id: None, next: None, trace: Trace::default() }
    }

    /// Returns the reason why the next mode would refuse an accepted request.
    #[must_use]
    pub fn would_deny(&self) -> Option<Reason> {
        match &self.next {
            Some((_, Err(refusal))) if self.result.is_ok() => Some(refusal.reason),
            _ => None,
        }
    }

    /// Returns the token that the next mode would accept, if it did not decide in this mode.
    #[must_use]
    pub fn would_pass(&self) -> Option<Credential> {
        match &self.next {
            Some((credential, Ok(_))) if *credential != self.credential => Some(*credential),
            _ => None,
        }
    }
}

impl Rules {
    /// Combines the parts. Without `keys`, because none were ever loaded, tokens get a 503.
    #[must_use]
    pub fn new(
        policy: Policy,
        keys: Option<Arc<KeySet>>,
        denied: impl Into<Arc<Denied>>,
        api_keys: ApiKeyTable,
    ) -> Self {
        let callers = Callers::from(&policy);
        let windows = Windows(policy.api_keys.brownouts.clone());
        let notice = policy.api_keys.deprecation.as_ref().map(notice).unwrap_or_default();
        let context = context(&policy);
        Self { policy, keys, denied: denied.into(), api_keys, callers, windows, notice, context }
    }

    /// Returns the policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(crate) fn keys(&self) -> Option<&KeySet> {
        self.keys.as_deref()
    }

    pub(crate) fn api_keys(&self) -> &ApiKeyTable {
        &self.api_keys
    }

    pub(crate) fn callers(&self) -> &Callers {
        &self.callers
    }

    pub(crate) fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Returns the denylist.
    #[must_use]
    pub fn denied(&self) -> &Denied {
        &self.denied
    }

    /// Returns the deprecation headers for users of a key; none unless keys are deprecated, which requires that tokens
    /// are accepted too.
    #[must_use]
    pub fn notice(&self, verdict: &Verdict) -> Option<&HeaderMap> {
        let is_told = verdict.mode == AuthMode::Dual && verdict.credential == Credential::ApiKey;
        (is_told && verdict.key_id.is_some() && !self.notice.is_empty()).then_some(&self.notice)
    }

    /// Authenticates a request with these headers over this connection, at `now`.
    #[must_use]
    pub fn authenticate(&self, headers: &HeaderMap, connection: &Connection, now: Timestamp) -> Verdict {
        let known = Known { cache: &TokenCache::default(), user_keys: &UserKeys::default(), answer: None };
        self.authenticate_with(headers, connection, now, known)
    }

    pub(crate) fn authenticate_with(
        &self,
        headers: &HeaderMap,
        connection: &Connection,
        now: Timestamp,
        known: Known<'_>,
    ) -> Verdict {
        let peer = connection.peer.as_ref();
        let presented = match peer.map_or(Ok(()), |peer| self.check_peer(peer, now)) {
            Ok(()) => ExtractedCredentials::find(headers),
            Err(reason) => Err(reason),
        };
        let presented = match presented {
            Ok(presented) => presented,
            // In every mode.
            Err(reason) => {
                let refused = || Err(Refusal::from(reason));
                let next = mode::next(self.policy.mode).map(|_| (Credential::None, refused()));
                return Verdict { next, ..Verdict::of(self.policy.mode, Credential::None, refused()) };
            }
        };
        let record = presented.api_key.and_then(|key| self.api_keys.find_record(key));
        let token = match presented.unusable {
            Some(reason) => Some(Err(reason.into())),
            None => presented.token.map(|token| self.token(token, peer, now, known)),
        };
        let evidence = Evidence {
            peer,
            refused_kind: match (&token, presented.token) {
                (Some(Err(_)), Some(text)) => self.claimed_kind(text),
                _ => Credential::None,
            },
            token,
            denied: &self.denied,
            has_key: presented.api_key.is_some(),
            record,
        };
        let mode = mode::effective(self.policy.mode, record);
        let evaluate = |mode| mode::evaluate(mode, &evidence, &self.callers, &self.windows, now);
        let Evaluation { credential, result, trace } = evaluate(mode);
        let next = mode::next(mode).map(|mode| {
            let judgement = evaluate(mode);
            (judgement.credential, judgement.result)
        });
        Verdict { mode, credential, result, key_id: record.map(|record| record.id.clone()), next, trace }
    }

    /// Authenticates the mTLS peer, independent of mode and headers.
    ///
    /// # Errors
    /// A [`Refusal`] without a peer, or if its leaf is expired or revoked.
    pub fn authenticate_peer(&self, connection: &Connection, now: Timestamp) -> Result<Principal, Refusal> {
        let peer = connection.peer.as_ref().ok_or(Reason::PeerMissing)?;
        self.check_peer(peer, now)?;
        let identity = Identity::Service(peer.spiffe_id.clone());
        Ok(Principal {
            subject: identity.clone(),
            actor: identity,
            scopes: Scopes::All,
            credential: Credential::Peer,
            expires: None,
            is_anonymous: false,
        })
    }

    /// Returns the external issuer named by an unverified token, used only to select keys.
    pub(crate) fn user_issuer(&self, token: &str) -> Option<&UserTokenIssuer> {
        if self.policy.user_tokens.issuers.is_empty() {
            return None;
        }
        let claims = Parts::cut(token).and_then(|parts| parts.claims()).ok()?;
        self.named_issuer(&claims)
    }

    fn named_issuer(&self, claims: &Map<String, Value>) -> Option<&UserTokenIssuer> {
        let named = claims.get("iss")?.as_str()?;
        self.policy.user_tokens.issuers.iter().find(|issuer| issuer.issuer == named)
    }

    /// Returns the kind that a refused token claims to be, for logs and metrics.
    fn claimed_kind(&self, token: &str) -> Credential {
        match Parts::cut(token).and_then(|parts| parts.claims()) {
            Ok(claims) if self.named_issuer(&claims).is_some() => Credential::UserToken,
            Ok(claims) if claims.get("act").is_some() => Credential::DelegatedToken,
            _ => Credential::ServiceToken,
        }
    }

    /// Returns the query to the issuer that is needed before the token can be verified. None if it can be verified
    /// already; an error if it is invalid without a query.
    pub(crate) fn question(
        &self,
        text: &str,
        (peer, source): (Option<&PeerIdentity>, Source),
        now: Timestamp,
        known: Known<'_>,
    ) -> Option<Result<(Question, Option<UserToken>), Refusal>> {
        if self.remembered(TokenHash::of(text), now, known).is_some() {
            return None;
        }
        let issuer = self.user_issuer(text)?;
        if issuer.verification == UserTokenVerification::JWKS {
            let kid = Parts::cut(text).ok()?.header(HeaderRules::External).ok()?.text("kid").ok()??.to_owned();
            let is_known = known.user_keys.get(&issuer.name).is_some_and(|keys| keys.contains(&kid));
            let is_asked = !is_known && !kid.is_empty() && kid.len() <= MAX_ASKED_KID_BYTES;
            return is_asked.then(|| Ok((Question::Key { issuer: issuer.clone(), kid }, None)));
        }
        Some(self.user_rules(issuer).read_unverified(text).and_then(|token| {
            if let Err(reason) = token.check(&self.denied, peer, now) {
                return Err(Refusal { trace: token.trace, ..reason.into() });
            }
            let (issuer, sub) = (issuer.clone(), token.sub.clone());
            Ok((Question::Token { issuer, token: text.to_owned(), sub, source }, Some(token)))
        }))
    }

    pub(crate) fn context(&self) -> [u8; 32] {
        self.context
    }

    pub(crate) fn user_rules<'a>(&'a self, issuer: &'a UserTokenIssuer) -> UserTokenRules<'a> {
        UserTokenRules { issuer, denied: &self.denied }
    }

    /// The operator's certificate is for probing instances; it may not call services.
    fn check_peer(&self, peer: &PeerIdentity, now: Timestamp) -> Result<(), Reason> {
        self.denied.check_peer(peer, now)?;
        if peer.spiffe_id.workload_parts().is_some() { Ok(()) } else { Err(Reason::PeerNotAWorkload) }
    }

    /// Verifies a token for this request.
    pub(crate) fn token(
        &self,
        text: &str,
        peer: Option<&PeerIdentity>,
        now: Timestamp,
        known: Known<'_>,
    ) -> Result<Token, Refusal> {
        let hash = TokenHash::of(text);
        let token = match self.remembered(hash, now, known) {
            Some(token) => token,
            None => self.read(text, hash, now, known)?,
        };
        let (checked, trace) = match &token {
            Token::Platform(token) => (token.check(&self.denied, peer, now), &token.trace),
            Token::User(token) => (token.check(&self.denied, peer, now), &token.trace),
        };
        match checked {
            Ok(()) => Ok(token),
            Err(reason) => Err(Refusal { trace: trace.clone(), ..reason.into() }),
        }
    }

    /// Returns the cached token if it was verified with the current keys and policy.
    pub(crate) fn remembered(&self, hash: TokenHash, now: Timestamp, known: Known<'_>) -> Option<Token> {
        let remembered = known.cache.get(hash, now)?;
        let keys = match &remembered.token {
            Token::Platform(_) => self.keys.as_ref().map(|keys| keys.hash()),
            // Tokens confirmed over HTTP have no key set; the cache limits them to a minute.
            Token::User(_) if remembered.keys.is_none() => None,
            Token::User(token) => Some(known.user_keys.get(&token.issuer)?.hash()),
        };
        (remembered.context == self.context && remembered.keys == keys).then(|| remembered.token.clone())
    }

    fn read(&self, text: &str, hash: TokenHash, now: Timestamp, known: Known<'_>) -> Result<Token, Refusal> {
        let (token, keys) = match self.user_issuer(text) {
            None => {
                let keys = self.keys.as_deref().ok_or(Reason::KeysNotLoaded)?;
                (Token::Platform(Arc::new(self.token_rules(keys).read(text)?)), keys.hash())
            }
            Some(issuer) if issuer.verification == UserTokenVerification::Remote => {
                // Tokens close to expiry are not cached, so the answer is used directly.
                let answer = known.answer.ok_or(Reason::IssuerUnavailable)?;
                return answer.of(hash, self.context).map(Token::User);
            }
            Some(issuer) => {
                let keys = known.user_keys.get(&issuer.name).ok_or(Reason::IssuerKeysNotLoaded)?;
                (Token::User(Arc::new(self.user_rules(issuer).read(&keys, text)?)), keys.hash())
            }
        };
        known.cache.put(hash, token.clone(), Some(keys), self.context, now);
        Ok(token)
    }

    /// Returns the verification rules; the mode decides which audience is accepted.
    fn token_rules<'a>(&'a self, keys: &'a KeySet) -> TokenRules<'a> {
        let tokens = &self.policy.tokens;
        TokenRules {
            keys,
            issuer: &tokens.issuer,
            own: &self.policy.service.spiffe_id,
            broad_audience: Some(&tokens.audience),
            max_ttl_seconds: tokens.max_ttl_seconds,
            denied: &self.denied,
        }
    }
}

/// Reason why a policy was rejected as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Two issuers have tokens that cannot be distinguished, or two users would have one name.
    #[error("userTokens.issuers {name:?}: name or issuer occurs twice, or the issuer is the platform's own")]
    IssuerRepeated {
        /// The second one's name.
        name: String,
    },
    /// A name that is not permitted in a subject.
    #[error("userTokens.issuers {name:?}: name must be a DNS label")]
    IssuerName {
        /// The name.
        name: String,
    },
}

/// Checks that a policy is unambiguous.
///
/// # Errors
/// [`PolicyError`] if an external issuer could be mistaken for another one or for the platform.
pub fn check_policy(policy: &Policy) -> Result<(), PolicyError> {
    let (mut names, mut issuers) = (HashSet::new(), HashSet::from([policy.tokens.issuer.as_str()]));
    for issuer in &policy.user_tokens.issuers {
        let name = issuer.name.clone();
        let user = Identity::User { issuer: name.clone(), sub: "x".to_owned() };
        if Identity::parse_delegated(&user.to_string()) != Some(user) {
            return Err(PolicyError::IssuerName { name });
        }
        if !names.insert(issuer.name.as_str()) || !issuers.insert(issuer.issuer.as_str()) {
            return Err(PolicyError::IssuerRepeated { name });
        }
    }
    Ok(())
}

/// The brownout windows, in which keys are refused.
#[derive(Debug)]
pub(crate) struct Windows(pub(crate) Vec<Brownout>);

impl Windows {
    /// Returns the end of the brownout at `now`; none if there is none. Of overlapping windows the latest end counts.
    pub(crate) fn end_of_brownout(&self, now: Timestamp) -> Option<Timestamp> {
        self.0.iter().filter(|window| (window.start..window.end).contains(&now)).map(|window| window.end).max()
    }
}

fn context(policy: &Policy) -> [u8; 32] {
    // Serialization of these types cannot fail.
    let text = serde_json::to_vec(&(&policy.service, &policy.tokens, &policy.user_tokens)).unwrap_or_default();
    sha256(&text)
}

const MAX_ASKED_KID_BYTES: usize = 128;

#[cfg(test)]
mod tests;
