//! Audit lines of user sign-in.

use std::net::IpAddr;
use std::sync::Arc;

use gaia_auth::audit::Origin;
use gaia_auth::{Connection, Principal, audit_line};
use gaia_runtime::sign_in_audit::{FailureSample, account_name};

use super::failure::LoginFailure;
use super::limits::{Account, Asker};
use crate::files::IssuerFiles;

/// One sign-in, refresh or sign-out request, as recorded in its audit line.
#[derive(Default)]
pub(super) struct Entry<'a> {
    pub(super) action: &'static str,
    pub(super) caller: Option<(&'a Principal, &'a Connection, &'a Asker)>,
    pub(super) account: Option<Account>,
    pub(super) sub: Option<&'a str>,
    pub(super) request_id: Option<&'a str>,
}

/// Writes the audit lines of user sign-in.
pub(super) struct LoginAudit {
    files: Arc<IssuerFiles>,
    failures: FailureSample,
}

impl LoginAudit {
    pub(super) fn new(files: Arc<IssuerFiles>) -> Self {
        Self { files, failures: FailureSample::default() }
    }

    /// Writes the line of a request with this result.
    pub(super) fn write(&self, entry: &Entry<'_>, failure: Option<LoginFailure>) {
        let wire = entry.caller.and_then(|(_, connection, _)| connection.address);
        let client = entry.caller.and_then(|(_, _, asker)| asker.client.address);
        let source: Option<IpAddr> = client.or(wire);
        let Some(skipped) = self.failures.admit(source, failure.is_some()) else { return };
        audit_line!(
            Origin::new(source, entry.request_id),
            event = "login",
            action = entry.action,
            result = failure.map_or("ok", LoginFailure::code),
            who = entry.caller.map(|(principal, ..)| principal.actor.to_string()),
            serial =
                entry.caller.and_then(|(_, connection, _)| connection.peer.as_ref()).map(|peer| peer.serial.as_ref()),
            via = client.and(wire).map(tracing::field::display),
            sub = entry.sub,
            account = entry.account.and_then(|account| self.name(account)),
            skipped = (skipped > 0).then_some(skipped),
        );
    }

    /// Returns the pseudonym of an account in audit lines. It is the same on all replicas until the signing key
    /// changes.
    fn name(&self, account: Account) -> Option<String> {
        let key = self.files.account_key()?;
        Some(account_name(key.as_bytes(), account.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use gaia_runtime::testing::audit_lines;

    use super::*;
    use gaia_auth::Client;

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
        let lines = audit_lines(|| {
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
