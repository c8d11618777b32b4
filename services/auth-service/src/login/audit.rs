//! The audit lines of the login.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gaia_auth::{Connection, Principal, REQUEST_ID_HEADER, sha256};
use gaia_runtime::rate::Limit;
use gaia_runtime::telemetry::AUDIT_TARGET;
use http::HeaderMap;

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

/// The name of a request, if it is one that a log can bear.
pub(super) fn request_id(headers: &HeaderMap) -> Option<&str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let text = headers.get(REQUEST_ID_HEADER)?.to_str().ok()?;
    ((1..=MAX_REQUEST_ID_BYTES).contains(&text.len()) && text.bytes().all(is_plain)).then_some(text)
}

const MAX_REQUEST_ID_BYTES: usize = 128;
const ACCOUNT_BYTES: usize = 16;
/// Lines of failures per source: a second, and at once.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(1).unwrap();
const BURST: NonZeroU32 = NonZeroU32::new(20).unwrap();
