//! One immutable generation of everything that decides, and the decision itself.

use std::collections::HashSet;
use std::sync::Arc;

use gaia_api::mount::{AuthMode, Brownout, Policy, UserTokenIssuer, UserTokenVerification};
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::api_key::ApiKeyTable;
use crate::cache::{Token, TokenCache, TokenHash};
use crate::callers::Callers;
use crate::denylist::Denied;
use crate::hash::sha256;
use crate::jwt::{HeaderRules, KeySet, Parts, TokenRules, UserToken, UserTokenRules};
use crate::mode::{self, Evidence, Judgement};
use crate::notice::notice;
use crate::outside::{Answer, Question, Source};
use crate::presented::Presented;
use crate::principal::{Connection, Credential, Identity, PeerIdentity, Principal, Scopes};
use crate::user_keys::UserKeys;
use crate::{Reason, Refusal, Trace};

/// Everything one service decides by. It is replaced as a whole, never changed.
#[derive(Debug)]
pub struct Rules {
    policy: Policy,
    keys: Option<Arc<KeySet>>,
    denied: Arc<Denied>,
    api_keys: ApiKeyTable,
    callers: Callers,
    windows: Windows,
    notice: HeaderMap<HeaderValue>,
    /// Of all that tokens are read by, but for the keys.
    context: [u8; 32],
}

/// What is known beside the rules when a request comes in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) cache: &'a TokenCache,
    pub(crate) user_keys: &'a UserKeys,
    /// What the issuer answered about the token, if it was asked.
    pub(crate) answer: Option<&'a Answer>,
}

/// What was found out about one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The mode it was judged by: the service's, or the key's own.
    pub mode: AuthMode,
    /// The kind of credential that decided, or was the first to fail.
    pub credential: Credential,
    /// Who it is, or why not.
    pub result: Result<Principal, Refusal>,
    /// The id of a recognised API key, whatever became of it: this is how its last use is known.
    pub key_id: Option<String>,
    /// The same under the next mode on the way to tokens only; none: there is none.
    pub next: Option<(Credential, Result<Principal, Refusal>)>,
    /// What may be logged of the credential that passed.
    pub trace: Trace,
}

impl Verdict {
    pub(crate) fn of(mode: AuthMode, credential: Credential, result: Result<Principal, Refusal>) -> Self {
        Self { mode, credential, result, key_id: None, next: None, trace: Trace::default() }
    }

    /// Why the next mode would refuse what passed.
    #[must_use]
    pub fn would_deny(&self) -> Option<Reason> {
        match &self.next {
            Some((_, Err(refusal))) if self.result.is_ok() => Some(refusal.reason),
            _ => None,
        }
    }

    /// The token that would pass in the next mode, where it decided nothing in this one.
    #[must_use]
    pub fn would_pass(&self) -> Option<Credential> {
        match &self.next {
            Some((credential, Ok(_))) if *credential != self.credential => Some(*credential),
            _ => None,
        }
    }
}

impl Rules {
    /// Puts the parts together. Without `keys`, because none were ever loaded, tokens get a 503.
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

    /// The policy.
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

    /// What is revoked.
    #[must_use]
    pub fn denied(&self) -> &Denied {
        &self.denied
    }

    /// What users of a key are told in the headers of an answer: nothing unless keys are deprecated, which they can be
    /// only where tokens are accepted beside them.
    #[must_use]
    pub fn notice(&self, verdict: &Verdict) -> Option<&HeaderMap> {
        let is_told = verdict.mode == AuthMode::Dual && verdict.credential == Credential::ApiKey;
        (is_told && verdict.key_id.is_some() && !self.notice.is_empty()).then_some(&self.notice)
    }

    /// Finds out who sent a request with these headers over this connection, at `now`.
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
            Ok(()) => Presented::find(headers),
            Err(reason) => Err(reason),
        };
        let presented = match presented {
            Ok(presented) => presented,
            // Whatever the mode.
            Err(reason) => {
                let refused = || Err(Refusal::from(reason));
                let next = mode::next(self.policy.mode).map(|_| (Credential::None, refused()));
                return Verdict { next, ..Verdict::of(self.policy.mode, Credential::None, refused()) };
            }
        };
        let record = presented.api_key.and_then(|key| self.api_keys.recognise(key));
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
        let judge = |mode| mode::judge(mode, &evidence, &self.callers, &self.windows, now);
        let Judgement { credential, result, trace } = judge(mode);
        let next = mode::next(mode).map(|mode| {
            let judgement = judge(mode);
            (judgement.credential, judgement.result)
        });
        Verdict { mode, credential, result, key_id: record.map(|record| record.id.clone()), next, trace }
    }

    /// Finds out who the mTLS peer is, whatever the mode and the headers say.
    ///
    /// # Errors
    /// A [`Refusal`] without a peer, or if its leaf ended or was revoked.
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

    /// The outside issuer of a token, by what it says of itself: good for nothing but to choose the keys.
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

    /// What a token that is refused says it is: for logs and metrics.
    fn claimed_kind(&self, token: &str) -> Credential {
        match Parts::cut(token).and_then(|parts| parts.claims()) {
            Ok(claims) if self.named_issuer(&claims).is_some() => Credential::UserToken,
            Ok(claims) if claims.get("act").is_some() => Credential::DelegatedToken,
            _ => Credential::ServiceToken,
        }
    }

    /// What its issuer has to be asked about a token before it can be judged: nothing, if it can be already; and what
    /// there is no need to ask, because the token is bad anyway.
    pub(crate) fn question(
        &self,
        text: &str,
        connection: &Connection,
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
            if let Err(reason) = token.check(&self.denied, connection.peer.as_ref(), now) {
                return Err(Refusal { trace: token.trace, ..reason.into() });
            }
            let (issuer, sub) = (issuer.clone(), token.sub.clone());
            let peer = connection.peer.as_ref().map(|peer| peer.spiffe_id.clone());
            let source = Source { peer, address: connection.address };
            Ok((Question::Token { issuer, token: text.to_owned(), sub, source }, Some(token)))
        }))
    }

    pub(crate) fn context(&self) -> [u8; 32] {
        self.context
    }

    pub(crate) fn user_rules<'a>(&'a self, issuer: &'a UserTokenIssuer) -> UserTokenRules<'a> {
        UserTokenRules { issuer, denied: &self.denied }
    }

    /// The operator has an identity to look at instances with; it calls nothing.
    fn check_peer(&self, peer: &PeerIdentity, now: Timestamp) -> Result<(), Reason> {
        self.denied.check_peer(peer, now)?;
        if peer.spiffe_id.workload_parts().is_some() { Ok(()) } else { Err(Reason::PeerNotAWorkload) }
    }

    /// What a token says, if it holds for this request.
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

    /// What is remembered of a token, if it was read by the keys and the policy that are in force now.
    pub(crate) fn remembered(&self, hash: TokenHash, now: Timestamp, known: Known<'_>) -> Option<Token> {
        let remembered = known.cache.get(hash, now)?;
        let keys = match &remembered.token {
            Token::Platform(_) => self.keys.as_ref().map(|keys| keys.hash()),
            // Whose answer was asked for over HTTP is known for a minute and no longer, which the cache sees to.
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
                // It is not remembered where it is about to end: what was answered is all there is to go by.
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

    /// Which audience does is for the mode to say.
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

/// Why a policy was refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Tokens of two issuers could not be told apart, or two users would have one name.
    #[error("userTokens.issuers {name:?}: its name or issuer occurs twice, or the issuer is the platform's own")]
    IssuerRepeated {
        /// The second of them.
        name: String,
    },
    /// A name that no subject could carry.
    #[error("userTokens.issuers {name:?}: name must be a DNS label")]
    IssuerName {
        /// The name.
        name: String,
    },
}

/// Whether a policy has one meaning.
///
/// # Errors
/// [`PolicyError`] if it names an outside issuer that could be taken for another one or for the platform.
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

/// The times in which keys are refused.
#[derive(Debug)]
pub(crate) struct Windows(pub(crate) Vec<Brownout>);

impl Windows {
    /// When the brownout of `now` ends; none: there is none. Of windows that overlap, the last to end counts.
    pub(crate) fn end_of_brownout(&self, now: Timestamp) -> Option<Timestamp> {
        self.0.iter().filter(|window| (window.start..window.end).contains(&now)).map(|window| window.end).max()
    }
}

fn context(policy: &Policy) -> [u8; 32] {
    // Plain data of our own always has a JSON form; if it had none, no token would be remembered as another's.
    let text = serde_json::to_vec(&(&policy.service, &policy.tokens, &policy.user_tokens)).unwrap_or_default();
    sha256(&text)
}

const MAX_ASKED_KID_BYTES: usize = 128;

#[cfg(test)]
mod tests;
