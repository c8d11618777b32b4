//! Audit lines of sign-in and sign-out on the pages.

use std::net::IpAddr;

use gaia_auth::audit::Origin;
use gaia_auth::audit_line;
use gaia_runtime::random;
use gaia_runtime::sign_in_audit::{FailureSample, account_name};

use crate::sessions::session::Session;
use crate::sign_in::login::LoginError;
use crate::site::Client;

/// Writes the audit lines.
pub(crate) struct Audit {
    failures: FailureSample,
    /// Key for the pseudonyms of accounts; a new one after each restart. Without randomness there is none, and lines have no
    /// account: with a known key, a log alone would identify accounts.
    key: Option<[u8; 32]>,
}

impl Default for Audit {
    fn default() -> Self {
        Self { failures: FailureSample::default(), key: random() }
    }
}

impl Audit {
    /// Writes the line of an attempt to sign in to the account with this address.
    pub(crate) fn sign_in(&self, client: Client, email: Option<&str>, result: &Result<Session, LoginError>) {
        self.write(
            "sign_in",
            client,
            email,
            result.as_ref().map(|session| session.sub.as_str()).map_err(|error| *error),
        );
    }

    /// Writes the line of a sign-out.
    pub(crate) fn sign_out(&self, client: Client, session: &Session, result: &Result<(), LoginError>) {
        self.write("sign_out", client, None, result.as_ref().map(|()| session.sub.as_str()).map_err(|error| *error));
    }

    fn write(&self, event: &'static str, client: Client, email: Option<&str>, result: Result<&str, LoginError>) {
        let source: Option<IpAddr> = client.source();
        let Some(skipped) = self.failures.admit(source, result.is_err()) else { return };
        let request_id = client.request_id();
        audit_line!(
            Origin::new(source, request_id.as_deref()),
            event,
            result = result.err().map_or("ok", LoginError::as_str),
            sub = result.ok(),
            account = email.and_then(|email| self.account(email)),
            skipped = (skipped > 0).then_some(skipped),
        );
    }

    /// Returns the pseudonym of the account with this address.
    fn account(&self, email: &str) -> Option<String> {
        Some(account_name(self.key.as_ref()?, email.trim().to_lowercase().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use gaia_runtime::testing::audit_lines;

    use super::*;
    use crate::sessions::session::tests::session;

    #[test]
    fn failed_sign_in_leaves_address_account_and_request_id() {
        let (audit, wrong) = (Audit::default(), Err(LoginError::InvalidCredentials));
        let client = Client::new(Some("203.0.113.9".parse().unwrap()), None, Some(7));
        let lines = audit_lines(|| {
            audit.sign_in(client, Some("Ada@example.com"), &wrong);
            audit.sign_in(client, Some(" ada@example.com"), &wrong);
            audit.sign_in(client, Some("bob@example.com"), &Ok(session("2026-01-01T00:00:00Z")));
        });
        let [first, second, third] = lines.as_slice() else { panic!("{lines:?}") };
        assert_eq!((&first["event"], &first["result"]), (&"sign_in".into(), &"invalid_credentials".into()));
        assert_eq!((&first["address"], &first["request_id"]), (&"203.0.113.9".into(), &format!("{:032x}", 7).into()));
        assert_eq!(first["account"].as_str().map(str::len), Some(32));
        assert_eq!(first["account"], second["account"], "one account in any spelling");
        assert_ne!(first["account"], third["account"]);
        assert_eq!((&third["result"], &third["sub"]), (&"ok".into(), &session("2026-01-01T00:00:00Z").sub.into()));
        assert!(!format!("{lines:?}").contains("example.com"), "no address of a person");
    }

    /// Kind: a fixed key where the system has no randomness.
    #[test]
    fn without_randomness_the_account_is_left_out() {
        let audit = Audit { key: None, ..Audit::default() };
        let client = Client::new(Some("203.0.113.9".parse().unwrap()), None, None);
        let lines =
            audit_lines(|| audit.sign_in(client, Some("ada@example.com"), &Err(LoginError::InvalidCredentials)));
        assert_eq!((&lines[0]["address"], lines[0].get("account")), (&"203.0.113.9".into(), None));
    }

    #[test]
    fn flood_of_one_source_leaves_room_for_lines_of_others() {
        let (audit, wrong) = (Audit::default(), Err(LoginError::InvalidCredentials));
        let from = |address: &str| Client::new(None, Some(address.parse().unwrap()), None);
        let lines = audit_lines(|| {
            (0..1000).for_each(|_| audit.sign_in(from("192.0.2.1"), None, &wrong));
            audit.sign_in(from("203.0.113.9"), None, &wrong);
        });
        assert!((20..30).contains(&lines.len()), "{}", lines.len());
        let last = lines.last().unwrap();
        assert_eq!(last["address"], "203.0.113.9");
        assert!(last["skipped"].as_u64().unwrap() > 900, "{last}");
    }
}
