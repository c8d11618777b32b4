//! What services took the last call of each session with.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gaia_auth::sha256;

use crate::session::Session;

/// What a service took a call with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It was not called yet, or took nothing.
    #[default]
    Unknown,
    /// The user's token.
    Token,
    /// The API key.
    ApiKey,
}

/// What one service took the last call of each session with: what it does with one user says nothing of others.
#[derive(Debug, Default)]
pub(crate) struct LastTaken {
    last: Mutex<Last>,
}

/// Of many sessions, those that called nothing for long are forgotten, half of all at a time.
#[derive(Debug, Default)]
struct Last {
    newest: HashMap<Key, Taken>,
    before: HashMap<Key, Taken>,
}

type Key = [u8; 32];

impl LastTaken {
    /// What the last call of this session was taken with.
    #[must_use]
    pub(crate) fn of(&self, session: &Session) -> Taken {
        let (key, last) = (key(session), self.last());
        last.newest.get(&key).or_else(|| last.before.get(&key)).copied().unwrap_or_default()
    }

    /// Notes what this session's call was taken with.
    pub(crate) fn note(&self, session: &Session, taken: Taken) {
        let (key, mut last) = (key(session), self.last());
        if last.newest.len() >= MAX_NEWEST && !last.newest.contains_key(&key) {
            last.before = std::mem::take(&mut last.newest);
        }
        last.newest.insert(key, taken);
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        // Nothing panics while it is held.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a session is known by, however often it is refreshed: its user, and when they signed in.
fn key(session: &Session) -> Key {
    sha256(format!("{} {}", session.since, session.subject()).as_bytes())
}

const MAX_NEWEST: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::session;

    fn of(user: &str) -> Session {
        Session { sub: user.to_owned(), ..session("2026-01-01T01:00:00Z") }
    }

    #[test]
    fn each_session_has_its_own_and_keeps_it_when_it_is_refreshed() {
        let taken = LastTaken::default();
        taken.note(&of("ada"), Taken::ApiKey);
        assert_eq!((taken.of(&of("ada")), taken.of(&of("bob"))), (Taken::ApiKey, Taken::Unknown));
        let refreshed = Session { access_token: "next".to_owned(), refresh_token: "next".to_owned(), ..of("ada") };
        assert_eq!(taken.of(&refreshed), Taken::ApiKey);
        let again = Session { since: "2026-01-02T00:00:00Z".parse().unwrap(), ..of("ada") };
        assert_eq!(taken.of(&again), Taken::Unknown, "who signs in again begins anew");
    }

    #[test]
    fn of_too_many_the_first_are_forgotten_and_the_last_are_not() {
        let taken = LastTaken::default();
        let all = 3 * MAX_NEWEST;
        (0..all).for_each(|number| taken.note(&of(&number.to_string()), Taken::ApiKey));
        let last = taken.last();
        assert!(last.newest.len() + last.before.len() <= 2 * MAX_NEWEST);
        drop(last);
        assert_eq!(taken.of(&of("0")), Taken::Unknown);
        assert_eq!(taken.of(&of(&(all - MAX_NEWEST).to_string())), Taken::ApiKey);
    }
}
