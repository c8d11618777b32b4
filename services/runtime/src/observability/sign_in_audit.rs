//! Shared parts of the sign-in audit lines of auth-service and web-service.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use gaia_auth::{sha256_hex, site};

use crate::observability::rate::Limit;

/// A sample of failure lines per source, because any client can cause them without limit.
#[derive(Debug)]
pub struct FailureSample {
    limit: Limit,
    skipped: AtomicU64,
}

impl Default for FailureSample {
    fn default() -> Self {
        Self { limit: Limit::new(PER_SECOND, BURST), skipped: AtomicU64::new(0) }
    }
}

impl FailureSample {
    /// Returns the number of lines skipped since the last written one; none if this line is skipped too. Successes are
    /// always written.
    pub fn admit(&self, source: Option<IpAddr>, is_failure: bool) -> Option<u64> {
        if is_failure && self.limit.check(&source.map(site)).is_err() {
            self.skipped.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.skipped.swap(0, Ordering::Relaxed))
    }
}

/// Returns the name of an account for logs: a keyed hash in hex, so that a log alone does not reveal the account.
#[must_use]
pub fn account_name(key: &[u8], account: &[u8]) -> String {
    sha256_hex(&[key, account].concat()).chars().take(ACCOUNT_NAME_CHARS).collect()
}

const ACCOUNT_NAME_CHARS: usize = 32;
/// Failure lines per second and source, and burst.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(1).unwrap();
const BURST: NonZeroU32 = NonZeroU32::new(20).unwrap();
