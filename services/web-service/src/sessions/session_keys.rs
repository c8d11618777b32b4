//! Files that only this service mounts: the session keys.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use gaia_runtime::{Files, LoadedFiles, ServiceFiles};

use crate::sessions::seal::SealingKeys;

/// The loaded keys. An invalid file is rejected, and the previous keys stay in use.
pub(crate) struct SessionKeys(ArcSwap<SealingKeys>);

impl fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionKeys").field(&self.0.load()).finish()
    }
}

impl SessionKeys {
    pub(crate) fn new(keys: SealingKeys) -> Self {
        Self(ArcSwap::from_pointee(keys))
    }

    pub(crate) fn newest(&self) -> Arc<SealingKeys> {
        self.0.load_full()
    }
}

impl ServiceFiles for SessionKeys {
    fn names(&self) -> &'static [&'static str] {
        &[SESSION_KEYS]
    }

    fn take(&self, files: &Files, _: LoadedFiles<'_>) -> Vec<(&'static str, Result<(), String>)> {
        let accepted = files.require(SESSION_KEYS).and_then(|text| {
            let keys = SealingKeys::parse(text).map_err(|error| error.to_string())?;
            self.0.store(Arc::new(keys));
            Ok(())
        });
        vec![("session_keys", accepted)]
    }
}

/// Name of the file in the credential directory; its path is configured separately.
pub(crate) const SESSION_KEYS: &str = "session-keys";
