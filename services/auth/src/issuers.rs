//! Queries to external issuers, and limits on their frequency.
//!
//! This module decides; the implementation of [`Ask`] sends the queries.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use gaia_api::SpiffeId;
use gaia_api::mount::UserTokenIssuer;
use jiff::{SignedDuration, Timestamp};

use crate::principal::{PeerIdentity, site};
use crate::request::client::Client;
use crate::tokens::UserToken;
use crate::tokens::cache::TokenHash;
use crate::{Reason, Refusal};

/// Client for external issuers over HTTP.
pub trait Ask: Send + Sync + 'static {
    /// Sends a query, and returns when its result is known.
    fn ask(&self, question: Question) -> Pin<Box<dyn Future<Output = Result<(), Reason>> + Send>>;
}

/// The source of a query, used for a fair share of the issuer's capacity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Source {
    /// The mTLS peer.
    pub peer: Option<SpiffeId>,
    /// A client that this service or the peer has authenticated. It counts in place of its address.
    pub known: Option<String>,
    /// The site of the client's address.
    pub address: Option<IpAddr>,
}

impl Source {
    /// The source of a credential that `peer` presents for `client` from the address `on_the_wire`.
    #[must_use]
    pub fn new(peer: Option<&PeerIdentity>, client: Client, on_the_wire: Option<IpAddr>) -> Self {
        let address = client.address.or(on_the_wire).map(site).filter(|_| client.known.is_none());
        Self { peer: peer.map(|peer| peer.spiffe_id.clone()), known: client.known, address }
    }
}

/// A query to an external issuer.
pub enum Question {
    /// Whether the issuer has published a key with that ID since the last fetch.
    Key {
        /// The issuer.
        issuer: UserTokenIssuer,
        /// The unknown key ID.
        kid: String,
    },
    /// Whether a token was issued by the issuer and is valid.
    Token {
        /// The issuer.
        issuer: UserTokenIssuer,
        /// The token.
        token: String,
        /// The `sub` claim, which the issuer must confirm.
        sub: String,
        /// The source of the token.
        source: Source,
    },
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { issuer, kid } => f.debug_struct("Key").field("issuer", &issuer.name).field("kid", kid).finish(),
            Self::Token { issuer, sub, .. } => {
                f.debug_struct("Token").field("issuer", &issuer.name).field("sub", sub).finish_non_exhaustive()
            }
        }
    }
}

/// The result of a query about a token, for the one decision that follows.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The issuer confirmed the token.
    Confirmed(Confirmed),
    /// The token failed a check before the query, the issuer rejected it, or the issuer is unavailable.
    Refused(Refusal),
}

/// A token confirmed by its issuer.
#[derive(Debug)]
pub(crate) struct Confirmed {
    pub(crate) token: Arc<UserToken>,
    /// Hash of its text.
    pub(crate) hash: TokenHash,
    /// Hash of the part of the policy that it was parsed by.
    pub(crate) context: [u8; 32],
}

impl Answer {
    /// Returns the confirmed token if hash and policy context match.
    pub(crate) fn of(&self, hash: TokenHash, context: [u8; 32]) -> Result<Arc<UserToken>, Refusal> {
        match self {
            Self::Confirmed(known) if known.hash == hash && known.context == context => Ok(Arc::clone(&known.token)),
            Self::Confirmed(_) => Err(Reason::IssuerUnavailable.into()),
            Self::Refused(refusal) => Err(refusal.clone()),
        }
    }
}

/// Age of one issuer's keys, and the times of permitted fetches.
#[derive(Debug, Default)]
pub struct Freshness {
    loaded: Option<Timestamp>,
    /// Times of the latest forced fetches, oldest first.
    forced: VecDeque<Timestamp>,
    next: Option<Timestamp>,
    /// Key IDs unknown to the issuer, with the time of the query.
    unknown: HashMap<String, Timestamp>,
}

impl Freshness {
    /// Returns true if the next periodic fetch is due.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.next.is_none_or(|next| now >= next)
    }

    /// Returns true if the keys are too old to use, or were never loaded.
    #[must_use]
    pub fn is_stale(&self, now: Timestamp) -> bool {
        self.loaded.is_none_or(|loaded| now.duration_since(loaded) > MAX_AGE)
    }

    /// Returns true if an unknown kid permits an extra fetch now, and counts that fetch. At most `FORCED_AT_ONCE`
    /// within `FORCED_WITHIN` are permitted, so that two rotations in a short time are both followed, and none for a
    /// kid that the issuer did not have less than `FORCED_EVERY` ago. A clock that was set back permits one.
    pub fn may_force(&mut self, kid: &str, now: Timestamp) -> bool {
        let is_within = |then: Timestamp, span: SignedDuration| now >= then && now.duration_since(then) < span;
        if self.unknown.get(kid).is_some_and(|&asked| is_within(asked, FORCED_EVERY)) {
            return false;
        }
        self.forced.retain(|&forced| is_within(forced, FORCED_WITHIN));
        if self.forced.len() >= FORCED_AT_ONCE {
            return false;
        }
        self.forced.push_back(now);
        true
    }

    /// Records a successful fetch. `jitter` is a random number that moves the next fetch forward by up to a tenth, so
    /// that the replicas of a service do not fetch at once.
    pub fn succeeded(&mut self, now: Timestamp, jitter: u8) {
        let earlier = FETCHED_EVERY.as_secs() * i64::from(jitter) / (10 * i64::from(u8::MAX));
        self.loaded = Some(now);
        self.next = Some(now + FETCHED_EVERY - SignedDuration::from_secs(earlier));
        self.unknown.clear();
    }

    /// Records a failed fetch. The loaded keys stay in use until they are stale.
    pub fn failed(&mut self, now: Timestamp) {
        self.next = Some(now + FORCED_EVERY);
    }

    /// Records that the issuer has no key with that ID.
    pub fn does_not_know(&mut self, kid: &str, now: Timestamp) {
        if self.unknown.len() < MAX_UNKNOWN || self.unknown.contains_key(kid) {
            self.unknown.insert(kid.to_owned(), now);
        }
    }
}

const FETCHED_EVERY: SignedDuration = SignedDuration::from_mins(5);
const FORCED_EVERY: SignedDuration = SignedDuration::from_secs(30);
const FORCED_AT_ONCE: usize = 4;
const FORCED_WITHIN: SignedDuration = SignedDuration::from_mins(2);
const MAX_AGE: SignedDuration = SignedDuration::from_hours(1);
const MAX_UNKNOWN: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{now, user_issuer};

    fn later(seconds: i64) -> Timestamp {
        now() + SignedDuration::from_secs(seconds)
    }

    #[test]
    fn keys_are_fetched_about_every_five_minutes_and_sooner_after_a_failure() {
        let mut freshness = Freshness::default();
        assert!(freshness.is_due(now()));
        freshness.succeeded(now(), 0);
        assert!(!freshness.is_due(later(299)) && freshness.is_due(later(300)));
        freshness.succeeded(now(), u8::MAX);
        assert!(!freshness.is_due(later(269)) && freshness.is_due(later(270)));
        freshness.failed(now());
        assert!(!freshness.is_due(later(29)) && freshness.is_due(later(30)));
    }

    #[test]
    fn keys_outlive_failures_by_an_hour() {
        let mut freshness = Freshness::default();
        assert!(freshness.is_stale(now()));
        freshness.succeeded(now(), 0);
        freshness.failed(later(3000));
        assert!(!freshness.is_stale(later(3600)));
        assert!(freshness.is_stale(later(3601)));
    }

    #[test]
    fn made_up_kids_cause_four_fetches_in_two_minutes_and_each_only_one() {
        let mut freshness = Freshness::default();
        freshness.succeeded(now(), 0);
        let mut forced =
            |at: Timestamp| (0..1000).filter(|number| freshness.may_force(&format!("kid{number}"), at)).count();
        assert_eq!(forced(now()), 4);
        assert_eq!(forced(later(119)), 0);
        assert_eq!(forced(later(120)), 4);
        let mut freshness = Freshness::default();
        freshness.does_not_know("kid0", now());
        assert!(!freshness.may_force("kid0", later(29)), "the issuer was asked");
        assert!(freshness.may_force("kid1", later(29)));
        assert!(freshness.may_force("kid0", later(30)), "the issuer may have published it since");
        freshness.does_not_know("kid0", later(30));
        freshness.succeeded(later(31), 0);
        assert!(freshness.may_force("kid0", later(31)), "a successful fetch may have added it");
        for number in 0..1000 {
            freshness.does_not_know(&number.to_string(), now());
        }
        assert_eq!(freshness.unknown.len(), MAX_UNKNOWN);
    }

    #[test]
    fn two_rotations_within_thirty_seconds_are_both_followed() {
        let mut freshness = Freshness::default();
        freshness.succeeded(now(), 0);
        for (seconds, kid) in [(1, "second"), (10, "third"), (19, "fourth")] {
            assert!(freshness.may_force(kid, later(seconds)), "{kid}");
            freshness.succeeded(later(seconds), 0);
        }
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_stop_forced_fetches() {
        let mut freshness = Freshness::default();
        for number in 0..4 {
            assert!(freshness.may_force(&number.to_string(), later(3600)));
        }
        freshness.does_not_know("kid", later(3600));
        assert!(freshness.may_force("kid", now()));
    }

    #[test]
    fn a_question_never_shows_the_token_it_is_about() {
        let source = Source::default();
        let question = Question::Token { issuer: user_issuer(), token: "secret".into(), sub: "u".into(), source };
        assert!(!format!("{question:?}").contains("secret"));
    }
}
