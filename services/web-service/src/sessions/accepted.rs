//! The credential that each service accepted last, per session.

use gaia_runtime::Recent;

use crate::sessions::session::{Session, SessionKey};

/// A credential accepted by a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum AcceptedCredential {
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
pub(crate) struct LastAccepted(Recent<SessionKey, AcceptedCredential>);

impl Default for LastAccepted {
    fn default() -> Self {
        Self(Recent::new(MAX_SESSIONS))
    }
}

impl LastAccepted {
    /// Returns the credential accepted in this session's last call.
    #[must_use]
    pub(crate) fn of(&self, session: &Session) -> AcceptedCredential {
        self.0.get(&session.key()).unwrap_or_default()
    }

    /// Records the credential accepted in this session's call.
    pub(crate) fn note(&self, session: &Session, accepted: AcceptedCredential) {
        self.0.insert(session.key(), accepted);
    }
}

const MAX_SESSIONS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::session::tests::session;

    fn of(user: &str) -> Session {
        Session { sub: user.to_owned(), id: String::new(), ..session("2026-01-01T01:00:00Z") }
    }

    #[test]
    fn each_session_has_its_own_and_keeps_it_when_it_is_refreshed() {
        let accepted = LastAccepted::default();
        accepted.note(&of("ada"), AcceptedCredential::ApiKey);
        assert_eq!(
            (accepted.of(&of("ada")), accepted.of(&of("bob"))),
            (AcceptedCredential::ApiKey, AcceptedCredential::Unknown)
        );
        let refreshed = Session { access_token: "next".to_owned(), refresh_token: "next".to_owned(), ..of("ada") };
        assert_eq!(accepted.of(&refreshed), AcceptedCredential::ApiKey);
        let again = Session { since: "2026-01-02T00:00:00Z".parse().unwrap(), ..of("ada") };
        assert_eq!(accepted.of(&again), AcceptedCredential::Unknown, "a new sign-in starts without an entry");
        let elsewhere = Session { id: "another".to_owned(), ..of("ada") };
        assert_eq!(accepted.of(&elsewhere), AcceptedCredential::Unknown, "and so does another browser");
    }
}
