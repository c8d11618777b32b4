//! Queries to issuers that verify their tokens themselves. Any client can cause them, so their number is limited, equal
//! queries are joined, and refusals are cached for [`BELIEVED`].

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gaia_api::Clock;
use gaia_api::mount::UserTokenIssuer;
use gaia_api::sync::lock;
use gaia_auth::issuers::Source;
use gaia_auth::{BoundedMap, Expiring, Reason, sha256};
use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;

use crate::client::external::TOTAL_TIMEOUT;
use crate::concurrency::single_flight::SingleFlight;
use crate::concurrency::turns::Turns;

/// The issuers. A changed configuration creates a new entry without cached answers.
#[derive(Default)]
pub(super) struct Remotes(Mutex<Vec<Arc<Remote>>>);

/// One issuer.
pub(super) struct Remote {
    issuer: UserTokenIssuer,
    turns: Turns<Source>,
    flights: SingleFlight<QuestionHash, Result<(), Reason>>,
    /// Refusals of the last [`BELIEVED`]. When it is full, the source with the most entries loses its oldest ones.
    refused: Mutex<BoundedMap<QuestionHash, Expiring<Timestamp, ()>, Source>>,
}

/// SHA-256 of all inputs of a query except the issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct QuestionHash([u8; 32]);

impl QuestionHash {
    /// Hashes a token, its claimed user, and the API key sent with the query.
    pub(super) fn of(token: &str, sub: &str, api_key: Option<&str>) -> Self {
        let parts = [token, sub, api_key.unwrap_or_default()].map(|part| sha256(part.as_bytes()));
        Self(sha256(parts.as_flattened()))
    }
}

impl Remotes {
    /// Returns the entry for exactly this configuration.
    pub(super) fn of(&self, issuer: &UserTokenIssuer) -> Arc<Remote> {
        let mut remotes = lock(&self.0);
        if let Some(remote) = remotes.iter().find(|remote| remote.issuer == *issuer) {
            return Arc::clone(remote);
        }
        let remote = Arc::new(Remote::of(issuer));
        remotes.push(Arc::clone(&remote));
        remote
    }

    pub(super) fn forget_all_but(&self, issuers: &[UserTokenIssuer]) {
        lock(&self.0).retain(|remote| issuers.contains(&remote.issuer));
    }
}

impl Remote {
    fn of(issuer: &UserTokenIssuer) -> Self {
        let (flights, refused) = (SingleFlight::new(usize::MAX), Mutex::new(BoundedMap::new(MAX_REFUSED, MAX_REFUSED)));
        Self { issuer: issuer.clone(), turns: Turns::new(SLOTS, SLOTS_OF_ONE, MAX_WAITING), flights, refused }
    }

    /// Returns the answer to a query, which `ask` sends. Concurrent equal queries share the answer. If the task that
    /// sends the query is cancelled, the next waiting one sends it.
    pub(super) async fn answer<F>(
        &self,
        question: QuestionHash,
        source: Source,
        clock: &dyn Clock,
        ask: impl FnOnce() -> F,
    ) -> Result<(), Reason>
    where
        F: Future<Output = Result<(), Reason>>,
    {
        let asking = async {
            if lock(&self.refused).get_at(&question, clock.now()).is_some() {
                return Err(Reason::IssuerRefused);
            }
            let Ok(Ok(_slot)) = timeout(MAX_WAIT, self.turns.take(source.clone())).await else {
                tracing::warn!(issuer = self.issuer.name, "too many queries to the issuer are waiting");
                return Err(Reason::IssuerUnavailable);
            };
            let answer = ask().await;
            if answer == Err(Reason::IssuerRefused) {
                let now = clock.now();
                lock(&self.refused).insert_for(source.clone(), question, (), now..now + BELIEVED);
            }
            answer
        };
        self.flights.run(question, Box::pin(asking)).await.unwrap_or(Err(Reason::IssuerUnavailable))
    }

    /// Returns the number of waiting tasks.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.flights.waiting()
    }
}

const SLOTS: usize = 16;
/// Some slots are free for others at once.
const SLOTS_OF_ONE: usize = 12;
/// Of one source.
const MAX_WAITING: usize = 256;
/// After this time a waiting task gets the same result as if the issuer did not respond.
const MAX_WAIT: Duration = TOTAL_TIMEOUT;
const BELIEVED: SignedDuration = SignedDuration::from_secs(10);
const MAX_REFUSED: usize = 1024;

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use gaia_api::ManualClock;
    use gaia_api::mount::UserTokenVerification;

    use super::super::tests::issuer_at;
    use super::*;

    fn issuer() -> UserTokenIssuer {
        issuer_at("https://project.example/auth/v1", UserTokenVerification::Remote)
    }

    fn question(number: usize) -> QuestionHash {
        QuestionHash::of(&format!("a.b.{number}"), "u1", None)
    }

    fn source(number: u8) -> Source {
        Source { address: Some([10, 0, 0, number].into()), ..Source::default() }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_too_many_asking_waits_for_five_seconds_and_no_longer() {
        let (remote, clock) = (Arc::new(Remote::of(&issuer())), Arc::new(ManualClock::new(now())));
        let asking: Vec<_> = (0..16)
            .map(|number| {
                let (remote, clock) = (Arc::clone(&remote), Arc::clone(&clock));
                let source = source(number);
                tokio::spawn(async move { remote.answer(question(number.into()), source, &*clock, pending).await })
            })
            .collect();
        let began = tokio::time::Instant::now();
        tokio::task::yield_now().await;
        let answer = remote.answer(question(16), source(99), &*clock, || ready(Ok(()))).await;
        assert_eq!((answer, began.elapsed()), (Err(Reason::IssuerUnavailable), Duration::from_secs(5)));
        for asking in &asking {
            asking.abort();
        }
        for asking in asking {
            assert!(asking.await.unwrap_err().is_cancelled());
        }
        assert_eq!(
            remote.answer(question(16), source(99), &*clock, || ready(Ok(()))).await,
            Ok(()),
            "it is free again"
        );
        assert_eq!(remote.waiting(), 0);
    }

    fn refused() -> BoundedMap<QuestionHash, Expiring<Timestamp, ()>, Source> {
        Remote::of(&issuer()).refused.into_inner().unwrap()
    }

    #[test]
    fn a_flood_of_refusals_takes_no_more_room() {
        let mut refused = refused();
        for number in 0..5000 {
            refused.insert_for(source(0), question(number), (), now()..now() + BELIEVED);
        }
        let has = |number, at| refused.get_at(&question(number), at).is_some();
        assert_eq!(refused.len(), MAX_REFUSED);
        assert!(has(4999, now()) && has(5000 - MAX_REFUSED, now()));
        assert!(!has(4999 - MAX_REFUSED, now()), "it is asked about again");
        assert!(!has(4999, now() - SignedDuration::from_secs(1)), "the clock was set back");
    }

    #[test]
    fn a_flood_of_refusals_of_one_source_forgets_none_of_another() {
        let mut refused = refused();
        refused.insert_for(source(1), question(9999), (), now()..now() + BELIEVED);
        for number in 0..5000 {
            refused.insert_for(source(0), question(number), (), now()..now() + BELIEVED);
        }
        assert!(refused.get_at(&question(9999), now()).is_some());
        assert!(refused.len() <= MAX_REFUSED);
    }

    #[test]
    fn a_question_is_about_a_token_a_user_and_a_key() {
        let one = QuestionHash::of("a", "b", Some("c"));
        for (token, sub, key) in [("x", "b", "c"), ("a", "x", "c"), ("a", "b", "x"), ("ab", "", "c"), ("a", "bc", "")] {
            assert_ne!(one, QuestionHash::of(token, sub, Some(key)));
        }
        assert_eq!(one, QuestionHash::of("a", "b", Some("c")));
    }
}
