//! One signed-in person, as their browser keeps it for us.

use std::fmt;

use gaia_auth::{Identity, sha256};
use http::HeaderMap;
use http::HeaderValue;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::cookie::Cookie;
use crate::seal::SealingKeys;

/// A session with the issuer of user tokens. It is kept nowhere but in the person's browser, sealed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// The user's token. It is shown to the services that are called for the user.
    pub(crate) access_token: String,
    /// What the next one is had for, once.
    pub(crate) refresh_token: String,
    /// When the access token ends.
    pub(crate) expires: Timestamp,
    /// The issuer's short name.
    pub(crate) issuer: String,
    /// The user, as the issuer knows them.
    pub(crate) sub: String,
    /// What the user calls themselves, if the issuer says.
    pub(crate) email: Option<String>,
    /// When the user signed in.
    pub(crate) since: Timestamp,
    /// The name of the session, which refreshing keeps; empty in cookies of versions that gave none.
    #[serde(default)]
    pub(crate) id: String,
}

/// What a session is known by, however often it is refreshed.
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
    /// The user, as services know them.
    #[must_use]
    pub(crate) fn subject(&self) -> Identity {
        Identity::User { issuer: self.issuer.clone(), sub: self.sub.clone() }
    }

    /// The key of the session: of its name, its user, and when they signed in.
    #[must_use]
    pub(crate) fn key(&self) -> SessionKey {
        sha256(format!("{} {} {}", self.id, self.since, self.subject()).as_bytes())
    }

    /// Whether it is time for another access token: a little before this one ends, so that a call made with it now is
    /// not refused on its way.
    #[must_use]
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        now >= self.expires - REFRESHED_BEFORE
    }

    /// Whether the access token has ended.
    #[must_use]
    pub(crate) fn has_ended(&self, now: Timestamp) -> bool {
        now >= self.expires
    }

    /// The session that a browser sent; `None` without one that opens.
    #[must_use]
    pub(crate) fn read(keys: &SealingKeys, headers: &HeaderMap) -> Option<Self> {
        let text = keys.open(SESSION.name, &SESSION.read(headers)?)?;
        serde_json::from_slice(&text).ok()
    }

    /// The headers that make a browser keep it; `None` if that cannot be, for its length or for want of randomness.
    #[must_use]
    pub(crate) fn write(&self, keys: &SealingKeys, sent: &HeaderMap) -> Option<Vec<HeaderValue>> {
        let text = zeroize::Zeroizing::new(serde_json::to_vec(self).ok()?);
        SESSION.write(&keys.seal(SESSION.name, &text).ok()?, sent)
    }
}

/// The cookie of a session. What limits it is the issuer, who may end the session at any time; the browser forgets it a
/// month after it was last refreshed.
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
            id: "0a1b2c".to_owned(),
        }
    }

    /// What the browser sends after it was told this.
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
        assert!(session.is_due(at("2026-01-01T00:59:00Z")) && !session.has_ended(at("2026-01-01T00:59:59Z")));
        assert!(session.has_ended(at("2026-01-01T01:00:00Z")));
    }
}
