//! Cache of verified tokens for one minute, so that a signature is verified once and not for each request.
//!
//! Only facts derived from the token and the keys are cached. Everything that may change in between (time, keys,
//! denylist, peer) is checked for each request, and authorization is not cached.

use std::sync::{Arc, Mutex};

use gaia_api::sync::lock;
use jiff::{SignedDuration, Timestamp};

use crate::bounded::BoundedMap;
use crate::hash::sha256;
use crate::tokens::{ServiceToken, UserToken};

/// A token with valid signature and claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// A platform token of a service that acts for itself or on behalf of another subject.
    Platform(Arc<ServiceToken>),
    /// A token of an external issuer.
    User(Arc<UserToken>),
}

impl Token {
    fn expires(&self) -> Timestamp {
        match self {
            Self::Platform(token) => token.expires,
            Self::User(token) => token.expires,
        }
    }
}

/// Cache key of a token: the SHA-256 of its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TokenHash([u8; 32]);

impl TokenHash {
    pub(crate) fn of(token: &str) -> Self {
        Self(sha256(token.as_bytes()))
    }
}

/// A cached token and the inputs of its verification.
#[derive(Debug)]
pub(crate) struct Remembered {
    pub(crate) token: Token,
    /// Hash of the key set; none if the issuer was queried.
    pub(crate) keys: Option<[u8; 32]>,
    /// Hash of the part of the policy that affects verification.
    pub(crate) context: [u8; 32],
    until: Timestamp,
}

/// The cache: the newest [`MAX_TOKENS`] tokens, and those in use.
#[derive(Debug)]
pub(crate) struct TokenCache {
    tokens: Mutex<BoundedMap<TokenHash, Arc<Remembered>>>,
}

impl Default for TokenCache {
    fn default() -> Self {
        Self { tokens: Mutex::new(BoundedMap::newest(MAX_TOKENS)) }
    }
}

impl TokenCache {
    /// Returns the entry of a token that is valid at `now`.
    pub(crate) fn get(&self, hash: TokenHash, now: Timestamp) -> Option<Arc<Remembered>> {
        let mut tokens = lock(&self.tokens);
        let found = Arc::clone(tokens.get(&hash)?);
        tokens.touch(&hash);
        drop(tokens);
        (now < found.until).then_some(found)
    }

    /// Caches a token until it expires, at most for one minute.
    pub(crate) fn put(&self, hash: TokenHash, token: Token, keys: Option<[u8; 32]>, context: [u8; 32], now: Timestamp) {
        let until = token.expires().min(now + MAX_AGE);
        if now < until {
            lock(&self.tokens).insert((), hash, Arc::new(Remembered { token, keys, context, until }));
        }
    }
}

const MAX_AGE: SignedDuration = SignedDuration::from_secs(60);
const MAX_TOKENS: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Denied;
    use crate::fixtures::{RSA_SIGNER, at, claims, keys, now, own};
    use crate::tokens::TokenRules;

    fn token() -> Token {
        let (keys, own, denied) = (keys(), own(), Denied::default());
        let rules = TokenRules {
            keys: &keys,
            issuer: "gaia-platform",
            own: &own,
            broad_audience: None,
            max_ttl_seconds: 3600,
            denied: &denied,
        };
        Token::Platform(Arc::new(rules.read(&RSA_SIGNER.sign(&claims()).unwrap()).unwrap()))
    }

    #[test]
    fn a_token_is_remembered_for_a_minute_or_until_it_ends() {
        let cache = TokenCache::default();
        let second = |offset: i64| at(now().as_second() + offset);
        cache.put(TokenHash::of("a"), token(), None, [0; 32], now());
        assert!(cache.get(TokenHash::of("a"), second(59)).is_some());
        assert!(cache.get(TokenHash::of("a"), second(60)).is_none());
        assert!(cache.get(TokenHash::of("b"), now()).is_none());
        cache.put(TokenHash::of("late"), token(), None, [0; 32], second(890));
        assert!(cache.get(TokenHash::of("late"), second(899)).is_some());
        assert!(cache.get(TokenHash::of("late"), second(900)).is_none(), "the token ends at 900");
        cache.put(TokenHash::of("skewed"), token(), None, [0; 32], second(930));
        assert!(
            cache.get(TokenHash::of("skewed"), second(930)).is_none(),
            "only the allowance for clocks keeps it good"
        );
    }

    #[test]
    fn a_flood_of_tokens_takes_no_more_room_and_what_is_in_use_stays() {
        let (cache, token) = (TokenCache::default(), token());
        cache.put(TokenHash::of("in use"), token.clone(), None, [0; 32], now());
        for number in 0..2 * MAX_TOKENS {
            cache.put(TokenHash::of(&number.to_string()), token.clone(), None, [0; 32], now());
            if number % (MAX_TOKENS / 4) == 0 {
                assert!(cache.get(TokenHash::of("in use"), now()).is_some(), "after {number}");
            }
        }
        assert_eq!(lock(&cache.tokens).len(), MAX_TOKENS);
        assert!(cache.get(TokenHash::of("0"), now()).is_none(), "the first of the flood is forgotten");
    }
}
