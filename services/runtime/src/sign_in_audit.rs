//! The parts that audit lines about signing in have in common at auth-service and web-service.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use gaia_auth::{sha256_hex, site};

use crate::rate::Limit;

/// A sample of the lines of failures, per source: any stranger causes them, as many as wanted.
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
    /// Returns the number of lines that were skipped since the last one that was written; none: this line is skipped too.
    /// Successes are always written.
    pub fn admit(&self, source: Option<IpAddr>, is_failure: bool) -> Option<u64> {
        if is_failure && self.limit.check(&source.map(site)).is_err() {
            self.skipped.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.skipped.swap(0, Ordering::Relaxed))
    }
}

/// The name of an account: a keyed hash in hex, so that a log alone does not say whose account it was.
#[must_use]
pub fn account_name(key: &[u8], account: &[u8]) -> String {
    sha256_hex(&[key, account].concat()).chars().take(ACCOUNT_NAME_CHARS).collect()
}

const ACCOUNT_NAME_CHARS: usize = 32;
/// Lines of failures per source: a second, and at once.
const PER_SECOND: NonZeroU32 = NonZeroU32::new(1).unwrap();
const BURST: NonZeroU32 = NonZeroU32::new(20).unwrap();
