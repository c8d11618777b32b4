//! The audit lines of the pages: who tried to sign in, or out, from where.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use gaia_auth::sha256;
use gaia_runtime::client_ip::site;
use gaia_runtime::random;
use gaia_runtime::rate::Limit;
use gaia_runtime::telemetry::AUDIT_TARGET;

use crate::login::LoginError;
use crate::session::Session;
use crate::site::Client;

/// Writes the audit lines. Failures are sampled per source: any stranger causes them, as many as wanted.
pub(crate) struct Audit {
    failures: Limit,
    skipped: AtomicU64,
    /// Keys the names of accounts; another one after a restart.
    key: [u8; 32],
}

impl Default for Audit {
    fn default() -> Self {
        let key = random().unwrap_or_default();
        Self { failures: Limit::new(PER_SECOND, BURST), skipped: AtomicU64::new(0), key }
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
        if result.is_err() && self.failures.check(&source.map(site)).is_err() {
            self.skipped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let skipped = self.skipped.swap(0, Ordering::Relaxed);
        tracing::info!(
            target: AUDIT_TARGET,
            event,
            result = result.err().map_or("ok", LoginError::as_str),
            sub = result.ok(),
            account = email.map(|email| self.name(email)),
            address = source.map(tracing::field::display),
            request_id = client.request_id(),
            skipped = (skipped > 0).then_some(skipped),
        );
    }

    /// The name of an account: a keyed hash, so that a log alone does not say whose account it was.
    fn name(&self, email: &str) -> String {
        let mut text = self.key.to_vec();
        text.extend_from_slice(email.trim().to_lowercase().as_bytes());
        sha256(&text).iter().take(ACCOUNT_BYTES).map(|byte| format!("{byte:02x}")).collect()
    }
}

const ACCOUNT_BYTES: usize = 16;
/// Lines of failures per source: a second, and at once.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(1).unwrap();
const BURST: NonZeroU32 = NonZeroU32::new(20).unwrap();

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use gaia_runtime::telemetry::audit_log;
    use serde_json::Value;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::session::tests::session;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn written(what: impl FnOnce()) -> Vec<Value> {
        let lines = Written::default();
        let subscriber = tracing_subscriber::registry().with(audit_log(lines.clone()));
        tracing::subscriber::with_default(subscriber, what);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn failed_sign_in_leaves_address_account_and_request_id() {
        let (audit, wrong) = (Audit::default(), Err(LoginError::InvalidCredentials));
        let client = Client::new(Some("203.0.113.9".parse().unwrap()), None, Some(7));
        let lines = written(|| {
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

    #[test]
    fn flood_of_one_source_leaves_room_for_lines_of_others() {
        let (audit, wrong) = (Audit::default(), Err(LoginError::InvalidCredentials));
        let from = |address: &str| Client::new(None, Some(address.parse().unwrap()), None);
        let lines = written(|| {
            (0..1000).for_each(|_| audit.sign_in(from("192.0.2.1"), None, &wrong));
            audit.sign_in(from("203.0.113.9"), None, &wrong);
        });
        assert!((20..30).contains(&lines.len()), "{}", lines.len());
        let last = lines.last().unwrap();
        assert_eq!(last["address"], "203.0.113.9");
        assert!(last["skipped"].as_u64().unwrap() > 900, "{last}");
    }
}
