//! The audit lines of the login.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gaia_auth::{Connection, Principal, sha256};
use gaia_runtime::rate::Limit;
use gaia_runtime::telemetry::AUDIT_TARGET;

use super::failure::LoginFailure;
use super::limits::{Account, Asker};
use crate::files::IssuerFiles;

/// One request to sign in, refresh or sign out, as its audit line describes it.
#[derive(Default)]
pub(super) struct Entry<'a> {
    pub(super) action: &'static str,
    pub(super) caller: Option<(&'a Principal, &'a Connection, &'a Asker)>,
    pub(super) account: Option<Account>,
    pub(super) sub: Option<&'a str>,
    pub(super) request_id: Option<&'a str>,
}

/// Writes the audit lines of the login. Failures are sampled per source: any stranger causes them, as many as wanted.
pub(super) struct LoginAudit {
    files: Arc<IssuerFiles>,
    failures: Limit,
    skipped: AtomicU64,
}

impl LoginAudit {
    pub(super) fn new(files: Arc<IssuerFiles>) -> Self {
        Self { files, failures: Limit::new(PER_SECOND, BURST), skipped: AtomicU64::new(0) }
    }

    /// Writes the line of a request with this outcome.
    pub(super) fn write(&self, entry: &Entry<'_>, failure: Option<LoginFailure>) {
        let wire = entry.caller.and_then(|(_, connection, _)| connection.address);
        let client = entry.caller.and_then(|(_, _, asker)| asker.client.address);
        let source: Option<IpAddr> = client.or(wire);
        if failure.is_some() && self.failures.check(&source.map(gaia_runtime::client_ip::site)).is_err() {
            self.skipped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let skipped = self.skipped.swap(0, Ordering::Relaxed);
        tracing::info!(
            target: AUDIT_TARGET,
            event = "login",
            action = entry.action,
            result = failure.map_or("ok", LoginFailure::code),
            who = entry.caller.map(|(principal, ..)| principal.actor.to_string()),
            serial = entry.caller.and_then(|(_, connection, _)| connection.peer.as_ref()).map(|peer| peer.serial.as_ref()),
            address = source.map(tracing::field::display),
            via = client.and(wire).map(tracing::field::display),
            sub = entry.sub,
            account = entry.account.and_then(|account| self.name(account)),
            request_id = entry.request_id,
            skipped = (skipped > 0).then_some(skipped),
        );
    }

    /// The name of an account in audit lines: a keyed hash, so that a log alone does not say whose account it was. It is
    /// the same at all replicas until the signing key changes.
    fn name(&self, account: Account) -> Option<String> {
        let key = self.files.account_key()?;
        let mut text = Vec::with_capacity(64);
        text.extend_from_slice(key.as_bytes());
        text.extend_from_slice(account.as_bytes());
        Some(sha256(&text).iter().take(ACCOUNT_BYTES).map(|byte| format!("{byte:02x}")).collect())
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
    use crate::login::client::Client;

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
        let files = Arc::new(IssuerFiles::default());
        files.set_account_key(*b"0123456789abcdef0123456789abcdef");
        let audit = LoginAudit::new(files);
        let connection = Connection { address: Some("10.0.0.7".parse().unwrap()), ..Connection::default() };
        let client = Client { address: Some("203.0.113.9".parse().unwrap()), known: None };
        let asker = Asker { service: "web-service".to_owned(), instance: connection.address, client };
        let principal = principal();
        let entry = Entry {
            action: "password",
            caller: Some((&principal, &connection, &asker)),
            account: Some(Account::new("Ada@example.com")),
            request_id: Some("r-1"),
            ..Entry::default()
        };
        let lines = written(|| {
            (0..1000).for_each(|_| audit.write(&entry, Some(LoginFailure::InvalidCredentials)));
            audit.write(&Entry { sub: Some("user-1"), ..entry }, None);
        });
        assert!((21..40).contains(&lines.len()), "sampled: {}", lines.len());
        for (name, value) in [
            ("event", "login"),
            ("action", "password"),
            ("result", "invalid_credentials"),
            ("address", "203.0.113.9"),
            ("via", "10.0.0.7"),
            ("request_id", "r-1"),
        ] {
            assert_eq!(lines[0][name], value, "{}", lines[0]);
        }
        assert_eq!(lines[0]["account"].as_str().map(str::len), Some(32));
        let last = lines.last().unwrap();
        assert_eq!((&last["result"], &last["account"]), (&"ok".into(), &lines[0]["account"]));
        assert!(last["skipped"].as_u64().unwrap() > 900 && !format!("{lines:?}").contains("example.com"), "{last}");
    }

    fn principal() -> Principal {
        let service = gaia_auth::Identity::Key("web".to_owned());
        Principal {
            actor: service.clone(),
            subject: service,
            scopes: gaia_auth::Scopes::All,
            credential: gaia_auth::Credential::ApiKey,
            expires: None,
            is_anonymous: false,
        }
    }
}
