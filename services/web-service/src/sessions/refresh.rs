//! Session refresh, once per state: a refresh token can be used once, but a browser sends the same cookie with several
//! concurrent requests.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gaia_api::sync::lock;
use gaia_auth::{BoundedMap, Expiring, sha256};
use gaia_runtime::SingleFlight;
use tokio::time::Instant;

use crate::sessions::session::Session;
use crate::sign_in::login::LoginError;

/// Refreshes in progress, and the results of recent ones: a browser that missed the response with the new cookie still
/// sends the old one.
#[derive(Debug, Clone)]
pub(crate) struct Refreshes {
    flights: SingleFlight<Key, Outcome>,
    recent: Arc<Mutex<BoundedMap<Key, Expiring<Instant, Recent>>>>,
}

type Key = [u8; 32];
type Outcome = Result<Arc<Session>, LoginError>;

/// A final result, and its time.
#[derive(Debug, Clone)]
struct Recent {
    outcome: Outcome,
    since: Instant,
}

/// Result of a refresh.
#[derive(Debug, Clone)]
pub(crate) struct Refreshed {
    /// The new session, or the error.
    pub(crate) outcome: Outcome,
    /// Set if the response to this request must set the cookie: one of several concurrent ones.
    pub(crate) is_carrier: bool,
}

impl Default for Refreshes {
    fn default() -> Self {
        let recent = Arc::new(Mutex::new(BoundedMap::newest(MAX_REMEMBERED)));
        Self { flights: SingleFlight::new(usize::MAX), recent }
    }
}

impl Refreshes {
    /// Returns the next state of a session, from `refresh` or from an equal request that is in progress or recent. The
    /// refresh continues if the caller is dropped, because it consumes the old refresh token.
    pub(crate) async fn next<F>(&self, old: &Session, refresh: F) -> Refreshed
    where
        F: Future<Output = Result<Session, LoginError>> + Send + 'static,
    {
        let key = key(&old.refresh_token);
        if let Some(Recent { outcome, since }) = self.recent(&key) {
            // A request long after the result has missed the response that set the cookie.
            return Refreshed { outcome, is_carrier: since.elapsed() >= MISSED_AFTER };
        }
        let is_first = Arc::new(AtomicBool::new(false));
        let (this, first) = (self.clone(), Arc::clone(&is_first));
        let refreshing = async move {
            // An equal request may have ended since the look-up.
            if let Some(recent) = this.recent(&key) {
                return recent.outcome;
            }
            first.store(true, Ordering::Relaxed);
            let outcome = refresh.await.map(Arc::new);
            if outcome.as_ref().map_or_else(|error| error.is_final(), |_| true) {
                let now = Instant::now();
                let recent = Recent { outcome: outcome.clone(), since: now };
                lock(&this.recent).insert_for((), key, recent, now..now + REMEMBERED);
            }
            outcome
        };
        let outcome = self.flights.run_to_end(key, refreshing).await.unwrap_or(Err(LoginError::Unavailable));
        Refreshed { outcome, is_carrier: is_first.load(Ordering::Relaxed) }
    }

    /// Forgets the refreshes that led to this state, because its session was ended by the user.
    pub(crate) fn forget(&self, session: &Session) {
        let leads_there =
            |recent: &Recent| recent.outcome.as_ref().is_ok_and(|next| next.refresh_token == session.refresh_token);
        lock(&self.recent).retain(|recent| !leads_there(recent.value()));
    }

    fn recent(&self, key: &Key) -> Option<Recent> {
        lock(&self.recent).get_at(key, Instant::now()).cloned()
    }
}

/// Returns the hash of a refresh token, so that the table contains no secrets.
fn key(refresh_token: &str) -> Key {
    sha256(refresh_token.as_bytes())
}

/// Longer than a response takes to reach a browser.
const MISSED_AFTER: Duration = Duration::from_secs(5);
/// Time in which a browser that missed the response can still use the old cookie.
const REMEMBERED: Duration = Duration::from_secs(600);
const MAX_REMEMBERED: usize = 2048;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;

    use super::*;
    use crate::sessions::session::tests::session;

    fn next() -> Session {
        Session { refresh_token: "next".to_owned(), ..session("2026-01-01T02:00:00Z") }
    }

    #[tokio::test]
    async fn of_many_that_ask_at_once_one_refreshes_and_one_carries() {
        let (refreshes, asked) = (Refreshes::default(), Arc::new(AtomicUsize::new(0)));
        let gate = Arc::new(tokio::sync::Notify::new());
        let old = session("2026-01-01T01:00:00Z");
        let ask = || {
            refreshes.next(&old, {
                let (asked, gate) = (Arc::clone(&asked), Arc::clone(&gate));
                async move {
                    asked.fetch_add(1, Ordering::Relaxed);
                    gate.notified().await;
                    Ok(next())
                }
            })
        };
        let open = async { gate.notify_one() };
        let (answers, ()) = tokio::join!(join_all((0..20).map(|_| ask())), open);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!(answers.iter().filter(|answer| answer.is_carrier).count(), 1);
        assert!(answers.iter().all(|answer| answer.outcome.as_ref().unwrap().refresh_token == "next"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_browser_that_missed_the_answer_is_told_again_and_the_token_is_not_used_twice() {
        let refreshes = Refreshes::default();
        let old = session("2026-01-01T01:00:00Z");
        // The first caller is dropped before the result.
        let slow = || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(next())
        };
        assert!(tokio::time::timeout(Duration::from_millis(1), refreshes.next(&old, slow())).await.is_err());
        tokio::time::sleep(Duration::from_secs(2)).await;
        let unused = || async { panic!("it was refreshed twice") };
        let soon = refreshes.next(&old, unused()).await;
        assert!(!soon.is_carrier && soon.outcome.is_ok(), "the answer may still be on its way");
        tokio::time::sleep(MISSED_AFTER).await;
        let late = refreshes.next(&old, unused()).await;
        assert!(late.is_carrier && late.outcome.is_ok());
        tokio::time::sleep(REMEMBERED).await;
        assert!(refreshes.next(&old, async { Err(LoginError::SessionEnded) }).await.outcome.is_err());
    }

    #[tokio::test]
    async fn what_failed_for_now_is_tried_again_by_the_next() {
        let refreshes = Refreshes::default();
        let old = session("2026-01-01T01:00:00Z");
        let failed = refreshes.next(&old, async { Err(LoginError::Unavailable) }).await;
        assert_eq!(failed.outcome.unwrap_err(), LoginError::Unavailable);
        tokio::task::yield_now().await;
        assert!(refreshes.next(&old, async { Ok(next()) }).await.outcome.is_ok());
    }

    #[tokio::test]
    async fn a_refresh_that_panicked_does_not_shut_anybody_out() {
        let refreshes = Refreshes::default();
        let old = session("2026-01-01T01:00:00Z");
        let failed = refreshes.next(&old, async { panic!("on purpose") }).await;
        assert_eq!(failed.outcome.unwrap_err(), LoginError::Unavailable);
        assert!(refreshes.next(&old, async { Ok(next()) }).await.outcome.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_the_first_are_forgotten_and_the_last_are_not() {
        let refreshes = Refreshes::default();
        let state =
            |number: usize| Session { refresh_token: format!("old-{number}"), ..session("2026-01-01T01:00:00Z") };
        for number in 0..=MAX_REMEMBERED {
            refreshes.next(&state(number), async { Ok(next()) }).await.outcome.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(lock(&refreshes.recent).len() <= MAX_REMEMBERED);
        for number in [MAX_REMEMBERED / 2, MAX_REMEMBERED - 1, MAX_REMEMBERED] {
            let again = refreshes.next(&state(number), async { panic!("it was refreshed twice") }).await;
            assert!(again.outcome.is_ok(), "{number}");
        }
        let first = refreshes.next(&state(0), async { Err(LoginError::SessionEnded) }).await;
        assert_eq!(first.outcome.unwrap_err(), LoginError::SessionEnded);
    }

    #[tokio::test]
    async fn who_signed_out_is_not_brought_back_by_the_state_before() {
        let refreshes = Refreshes::default();
        let old = session("2026-01-01T01:00:00Z");
        let session = refreshes.next(&old, async { Ok(next()) }).await.outcome.unwrap();
        refreshes.forget(&session);
        let again = refreshes.next(&old, async { Err(LoginError::SessionEnded) }).await;
        assert_eq!(again.outcome.unwrap_err(), LoginError::SessionEnded);
    }
}
