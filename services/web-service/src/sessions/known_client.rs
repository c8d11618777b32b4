//! Accounts that a browser has signed in to before.
//!
//! auth-service limits sign-in attempts per client. A browser that has signed in to an account before is identified to
//! it, so that password guessing by others, and other users of the same address, do not use up its attempts.

use gaia_auth::sha256;
use gaia_runtime::random;
use http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::sessions::cookie::Cookie;
use crate::sessions::seal::SealingKeys;

/// The accounts that one browser has signed in to, latest first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Known {
    accounts: Vec<Account>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Account {
    /// The hash of the email address.
    hash: String,
    /// The ID of this browser for this account.
    id: String,
}

impl Known {
    /// Reads the accounts from a browser's cookie; none without a valid cookie.
    pub(crate) fn read(keys: &SealingKeys, sent: &HeaderMap) -> Self {
        let text = KNOWN.read(sent).and_then(|sealed| keys.open(KNOWN.name, &sealed));
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Returns the ID of this browser, if it has signed in to the account with this address.
    pub(crate) fn id(&self, email: &str) -> Option<&str> {
        let hash = hash(email);
        self.accounts.iter().find(|account| account.hash == hash).map(|account| account.id.as_str())
    }

    /// Returns the headers that record a sign-in to this account; `None` if it already is the latest.
    pub(crate) fn signed_in(mut self, email: &str, keys: &SealingKeys, sent: &HeaderMap) -> Option<Vec<HeaderValue>> {
        let hash = hash(email);
        let id = match self.id(email) {
            Some(id) => id.to_owned(),
            None => hex(&random::<16>()?),
        };
        self.accounts.retain(|account| account.hash != hash);
        self.accounts.insert(0, Account { hash, id });
        self.accounts.truncate(MAX_ACCOUNTS);
        KNOWN.write(&keys.seal(KNOWN.name, &serde_json::to_vec(&self).ok()?).ok()?, sent)
    }
}

fn hash(email: &str) -> String {
    hex(&sha256(email.trim().to_lowercase().as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The cookie. It is kept after sign-out, and grants no access.
const KNOWN: Cookie = Cookie { name: "__Host-gaia-known", max_age_seconds: 90 * 24 * 3600 };
const MAX_ACCOUNTS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::session::tests::{KEY, sent};

    #[test]
    fn browser_is_known_for_the_accounts_that_it_signed_in_to() {
        let keys = SealingKeys::parse(KEY.as_bytes()).unwrap();
        let mut kept = HeaderMap::new();
        for email in ["ada@example.com", "bob@example.com"] {
            kept = sent(&Known::read(&keys, &kept).signed_in(email, &keys, &kept).unwrap());
        }
        let known = Known::read(&keys, &kept);
        let (ada, bob) = (known.id(" Ada@Example.com").unwrap(), known.id("bob@example.com").unwrap());
        assert!(ada != bob && known.id("eve@example.com").is_none());
        let again = sent(&Known::read(&keys, &kept).signed_in("ada@example.com", &keys, &kept).unwrap());
        assert_eq!(Known::read(&keys, &again).id("ada@example.com"), Some(ada), "the name stays");
        let text = kept["cookie"].to_str().unwrap();
        assert!(!text.contains("ada") && !text.contains(ada), "{text}");
    }

    #[test]
    fn only_the_last_accounts_are_kept() {
        let keys = SealingKeys::parse(KEY.as_bytes()).unwrap();
        let mut kept = HeaderMap::new();
        for number in 0..6 {
            kept = sent(&Known::read(&keys, &kept).signed_in(&format!("{number}@a"), &keys, &kept).unwrap());
        }
        let known = Known::read(&keys, &kept);
        assert!(known.id("1@a").is_none() && known.id("2@a").is_some() && known.id("5@a").is_some());
    }
}
