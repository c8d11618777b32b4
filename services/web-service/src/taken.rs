//! The credential that each service accepted last, per session.

use gaia_runtime::Recent;

use crate::session::{Session, SessionKey};

/// A credential accepted by a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Taken {
    /// No call was made, or none was accepted.
    #[default]
    Unknown,
    /// The user's token.
    Token,
    /// The API key.
    ApiKey,
}

/// The credential that one service accepted last, per session: the result for one user does not apply to others.
#[derive(Debug)]
pub(crate) struct LastTaken(Recent<SessionKey, Taken>);

impl Default for LastTaken {
    fn default() -> Self {
        Self(Recent::new(MAX_SESSIONS))
    }
}

impl LastTaken {
    /// Returns the credential accepted in this session's last call.
    #[must_use]
    pub(crate) fn of(&self, session: &Session) -> Taken {
        self.0.get(&session.key()).unwrap_or_default()
    }

    /// Records the credential accepted in this session's call.
    pub(crate) fn note(&self, session: &Session, taken: Taken) {
        self.0.insert(session.key(), taken);
    }
}

const MAX_SESSIONS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::session;

    fn of(user: &str) -> Session {
        Session { sub: user.to_owned(), id: String::new(), ..session("2026-01-01T01:00:00Z") }
    }

    #[test]
    fn each_session_has_its_own_and_keeps_it_when_it_is_refreshed() {
        let taken = LastTaken::default();
        taken.note(&of("ada"), Taken::ApiKey);
        assert_eq!((taken.of(&of("ada")), taken.of(&of("bob"))), (Taken::ApiKey, Taken::Unknown));
        let refreshed = Session { access_token: "next".to_owned(), refresh_token: "next".to_owned(), ..of("ada") };
        assert_eq!(taken.of(&refreshed), Taken::ApiKey);
        let again = Session { since: "2026-01-02T00:00:00Z".parse().unwrap(), ..of("ada") };
        assert_eq!(taken.of(&again), Taken::Unknown, "a new sign-in starts without an entry");
        let elsewhere = Session { id: "another".to_owned(), ..of("ada") };
        assert_eq!(taken.of(&elsewhere), Taken::Unknown, "and so does another browser");
    }
}
