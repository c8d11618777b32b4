//! A mounted API key for calls to other services, used while tokens are not available.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gaia_api::sync::lock;
use tokio::time::Instant;

/// A file with an API key. It is re-read, so that removing or emptying it ends the use of the key.
#[derive(Clone)]
pub(crate) struct KeyFile {
    path: Arc<PathBuf>,
    seen: Arc<Mutex<Option<Seen>>>,
}

struct Seen {
    at: Instant,
    key: Option<Arc<str>>,
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyFile").field(&self.path).finish()
    }
}

impl KeyFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path: Arc::new(path), seen: Arc::default() }
    }

    /// Returns the key, read at most one second ago.
    pub(crate) fn key(&self) -> Option<Arc<str>> {
        let mut seen = lock(&self.seen);
        let now = Instant::now();
        if let Some(seen) = seen.as_ref().filter(|seen| now - seen.at < LOOK_AGAIN) {
            return seen.key.clone();
        }
        let before = seen.as_ref().is_some_and(|seen| seen.key.is_some());
        let text = std::fs::read_to_string(&*self.path).unwrap_or_default();
        let key = Some(text.trim()).filter(|key| !key.is_empty()).map(Arc::from);
        if before != key.is_some() {
            let path = self.path.display();
            let credential = if key.is_some() { "API key" } else { "token" };
            tracing::info!(%path, credential, "credential for calls to other services changed");
        }
        *seen = Some(Seen { at: now, key: key.clone() });
        key
    }
}

const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_there_as_long_as_its_file_is_and_says_something() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-key");
        let file = KeyFile::new(path.clone());
        let mut steps: Vec<(Option<&str>, Option<&str>)> = vec![(None, None), (Some("a-key\n"), Some("a-key"))];
        steps.extend([
            (Some("another"), Some("another")),
            (Some(" \n"), None),
            (Some("back"), Some("back")),
            (None, None),
        ]);
        for (content, key) in steps {
            match content {
                Some(content) => std::fs::write(&path, content).unwrap(),
                None => drop(std::fs::remove_file(&path)),
            }
            tokio::time::advance(LOOK_AGAIN).await;
            assert_eq!(file.key().as_deref(), key, "{content:?}");
        }
        assert!(!format!("{file:?}").contains("back"));
    }
}
