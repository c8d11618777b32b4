//! State of a sign-in at a provider until the browser returns (RFC 7636).
//!
//! The issuer's code can only be redeemed with the verifier, which is in the sealed cookie of the browser that started
//! the sign-in. A code planted in a link is therefore useless, and no separate `state` parameter is needed.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gaia_auth::sha256;
use gaia_runtime::random;
use http::{HeaderMap, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::sessions::cookie::Cookie;
use crate::sessions::seal::SealingKeys;

/// A started sign-in.
#[derive(Serialize, Deserialize)]
pub(crate) struct Start {
    verifier: String,
    next: String,
    until: Timestamp,
}

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start").field("next", &self.next).field("until", &self.until).finish_non_exhaustive()
    }
}

impl Start {
    /// Generates a verifier; `None` if the system has no randomness.
    pub(crate) fn new(next: &str, now: Timestamp) -> Option<Self> {
        let bits: [u8; 32] = random()?;
        let until = now + SignedDuration::from_secs(i64::from(PKCE.max_age_seconds));
        Some(Self { verifier: URL_SAFE_NO_PAD.encode(bits), next: next.to_owned(), until })
    }

    pub(crate) fn verifier(&self) -> &str {
        &self.verifier
    }

    /// Returns the page to show after sign-in.
    pub(crate) fn next(&self) -> &str {
        &self.next
    }

    /// Returns the PKCE challenge for the issuer.
    pub(crate) fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(sha256(self.verifier.as_bytes()))
    }

    pub(crate) fn write(&self, keys: &SealingKeys, sent: &HeaderMap) -> Option<Vec<HeaderValue>> {
        PKCE.write(&keys.seal(PKCE.name, &serde_json::to_vec(self).ok()?).ok()?, sent)
    }

    /// Reads the state from the browser's cookie; `None` if it is invalid or too old.
    pub(crate) fn read(keys: &SealingKeys, sent: &HeaderMap, now: Timestamp) -> Option<Self> {
        let text = keys.open(PKCE.name, &PKCE.read(sent)?)?;
        serde_json::from_slice(&text).ok().filter(|start: &Self| now < start.until)
    }
}

/// The cookie of a started sign-in.
pub(crate) const PKCE: Cookie = Cookie { name: "__Host-gaia-sign-in", max_age_seconds: 600 };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::session::tests::{KEY, sent};

    #[test]
    fn the_challenge_is_the_verifiers_hash() {
        // RFC 7636, appendix B.
        let start = Start {
            verifier: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".to_owned(),
            next: "/".to_owned(),
            until: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(start.challenge(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
        assert!(!format!("{start:?}").contains("dBjft"));
    }

    #[test]
    fn who_comes_back_within_ten_minutes_goes_on_where_they_wanted_to() {
        let keys = SealingKeys::parse(KEY.as_bytes()).unwrap();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let start = Start::new("/files", now).unwrap();
        let cookies = sent(&start.write(&keys, &HeaderMap::new()).unwrap());
        let back = Start::read(&keys, &cookies, now + SignedDuration::from_secs(599)).unwrap();
        assert_eq!((back.next(), back.verifier()), ("/files", start.verifier()));
        assert_eq!(back.verifier().len(), 43);
        assert!(Start::read(&keys, &cookies, now + SignedDuration::from_secs(600)).is_none());
        assert!(Start::read(&keys, &HeaderMap::new(), now).is_none());
        assert_ne!(Start::new("/", now).unwrap().verifier(), start.verifier());
    }
}
