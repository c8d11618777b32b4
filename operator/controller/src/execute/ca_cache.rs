//! Signing CAs, kept for a moment so that a burst of certificates reads the ring once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gaia_pki::Ca;
use tokio::time::Instant;

/// The CAs read last, by TrustDomain. A leader that was paused signs with none older than [`FRESH`]: this clock also
/// advances while a process is stopped.
#[derive(Default)]
pub(crate) struct Signers(Mutex<HashMap<String, Kept>>);

struct Kept {
    ca: Arc<Ca>,
    version: Option<String>,
    read: Instant,
}

impl Signers {
    /// The CA, if it was read within [`FRESH`] and from the known version of the ring.
    pub(crate) fn get(&self, trust_domain: &str, version: Option<&str>) -> Option<Arc<Ca>> {
        let mut kept = self.lock();
        let found = kept.get(trust_domain)?;
        if found.read.elapsed() < FRESH && found.version.as_deref() == version {
            return Some(Arc::clone(&found.ca));
        }
        kept.remove(trust_domain);
        None
    }

    /// Keeps a CA that was just read.
    pub(crate) fn put(&self, trust_domain: &str, version: Option<String>, ca: Arc<Ca>) {
        self.lock().insert(trust_domain.to_owned(), Kept { ca, version, read: Instant::now() });
    }

    pub(crate) fn forget(&self, trust_domain: &str) {
        self.lock().remove(trust_domain);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const FRESH: Duration = Duration::from_secs(5);
