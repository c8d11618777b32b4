//! The session of a signed-in user, stored in the browser.

use std::fmt;

use gaia_auth::{Client, Identity, sha256, sha256_hex};
use http::HeaderMap;
use http::HeaderValue;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::sessions::cookie::Cookie;
use crate::sessions::seal::SealingKeys;

/// A session with the issuer of user tokens. It is stored only in the user's browser, encrypted.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// The user's token, sent to services that are called for the user.
    pub(crate) access_token: String,
    /// The single-use token for the next refresh.
    pub(crate) refresh_token: String,
    /// Expiry of the access token.
    pub(crate) expires: Timestamp,
    /// The issuer's short name.
    pub(crate) issuer: String,
    /// The user ID at the issuer.
    pub(crate) sub: String,
    /// The email address, if the issuer provides one.
    pub(crate) email: Option<String>,
    /// Time of the sign-in.
    pub(crate) since: Timestamp,
    /// Time at which the access token was issued to this session; none in cookies of earlier versions.
    #[serde(default)]
    pub(crate) obtained: Option<Timestamp>,
    /// The ID of the session, unchanged by refreshes; empty in cookies of earlier versions.
    #[serde(default)]
    pub(crate) id: String,
}

/// Key of a session, unchanged by refreshes.
pub(crate) type SessionKey = [u8; 32];

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expires, issuer, sub, .. } = self;
        f.debug_struct("Session")
            .field("issuer", issuer)
            .field("sub", sub)
            .field("expires", expires)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Returns the user's identity at services.
    #[must_use]
    pub(crate) fn subject(&self) -> Identity {
        Identity::User { issuer: self.issuer.clone(), sub: self.sub.clone() }
    }

    /// Returns the key of the session, derived from its ID, its user, and the time of the sign-in.
    #[must_use]
    pub(crate) fn key(&self) -> SessionKey {
        sha256(format!("{} {} {}", self.id, self.since, self.subject()).as_bytes())
    }

    /// Returns the user as the client that budgets are charged to. The hash reveals no name.
    #[must_use]
    pub(crate) fn client(&self) -> Client {
        Client { address: None, known: Some(sha256_hex(self.subject().to_string().as_bytes())) }
    }

    /// Returns true if the access token should be refreshed: shortly before it expires, so that a call in transit is
    /// not refused. A token that lives shorter than two minutes is refreshed in the second half of its life, not at each page.
    #[must_use]
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        let half = self.obtained.map(|obtained| self.expires.duration_since(obtained) / 2);
        now >= self.expires - half.map_or(REFRESHED_BEFORE, |half| half.min(REFRESHED_BEFORE))
    }

    /// Returns true if the access token has expired.
    #[must_use]
    pub(crate) fn has_ended(&self, now: Timestamp) -> bool {
        now >= self.expires
    }

    /// Reads the session from a request; `None` without a valid cookie.
    #[must_use]
    pub(crate) fn read(keys: &SealingKeys, headers: &HeaderMap) -> Option<Self> {
        let text = keys.open(SESSION.name, &SESSION.read(headers)?)?;
        serde_json::from_slice(&text).ok()
    }

    /// Returns the headers that store the session; `None` if it is too long or the system has no randomness.
    #[must_use]
    pub(crate) fn write(&self, keys: &SealingKeys, sent: &HeaderMap) -> Option<Vec<HeaderValue>> {
        let text = zeroize::Zeroizing::new(serde_json::to_vec(self).ok()?);
        SESSION.write(&keys.seal(SESSION.name, &text).ok()?, sent)
    }
}

/// The session cookie. The issuer limits the session and may end it at any time; the browser deletes the cookie a month
/// after the last refresh.
pub(crate) const SESSION: Cookie = Cookie { name: "__Host-gaia", max_age_seconds: 30 * 24 * 3600 };
const REFRESHED_BEFORE: SignedDuration = SignedDuration::from_secs(60);

#[cfg(test)]
pub(crate) mod tests {
    use http::header::COOKIE;

    use super::*;

    pub(crate) const KEY: &str = "b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkbzE=";

    pub(crate) fn session(expires: &str) -> Session {
        Session {
            access_token: "access-secret".to_owned(),
            refresh_token: "refresh-secret".to_owned(),
            expires: expires.parse().unwrap(),
            issuer: "supabase".to_owned(),
            sub: "0d6a4a5c-2f7b-4d0a-9a38-5f0f3b2f9c11".to_owned(),
            email: Some("ada@example.com".to_owned()),
            since: "2026-01-01T00:00:00Z".parse().unwrap(),
            obtained: None,
            id: "0a1b2c".to_owned(),
        }
    }

    /// Returns the headers of the browser's next request after these were set.
    pub(crate) fn sent(set: &[HeaderValue]) -> HeaderMap {
        let pairs = set.iter().map(|header| header.to_str().unwrap().split(';').next().unwrap());
        HeaderMap::from_iter([(COOKIE, pairs.collect::<Vec<_>>().join("; ").parse().unwrap())])
    }

    #[test]
    fn a_session_comes_back_as_it_was_and_nothing_of_it_can_be_read_on_the_way() {
        let keys = SealingKeys::parse(KEY.as_bytes()).unwrap();
        let session = session("2026-01-01T01:00:00Z");
        let set = session.write(&keys, &HeaderMap::new()).unwrap();
        assert_eq!(Session::read(&keys, &sent(&set)), Some(session.clone()));
        let shown = format!("{set:?} {session:?} {}", set[0].to_str().unwrap());
        assert!(!shown.contains("secret") && !shown.contains("ada"), "{shown}");
    }

    #[test]
    fn what_was_sealed_for_another_cookie_is_no_session() {
        let keys = SealingKeys::parse(KEY.as_bytes()).unwrap();
        let text = serde_json::to_vec(&session("2026-01-01T01:00:00Z")).unwrap();
        let sealed = keys.seal("__Host-gaia-sign-in", &text).unwrap();
        assert_eq!(Session::read(&keys, &sent(&SESSION.write(&sealed, &HeaderMap::new()).unwrap())), None);
    }

    #[test]
    fn a_token_is_replaced_a_minute_before_it_ends() {
        let session = session("2026-01-01T01:00:00Z");
        let at = |time: &str| time.parse().unwrap();
        assert!(!session.is_due(at("2026-01-01T00:58:59Z")));
        let brief = Session { obtained: Some(at("2026-01-01T00:59:20Z")), ..session.clone() };
        assert!(!brief.is_due(at("2026-01-01T00:59:39Z")), "a token of 40 s is fresh for 20 s");
        assert!(brief.is_due(at("2026-01-01T00:59:40Z")));
        assert!(session.is_due(at("2026-01-01T00:59:00Z")) && !session.has_ended(at("2026-01-01T00:59:59Z")));
        assert!(session.has_ended(at("2026-01-01T01:00:00Z")));
    }
}
