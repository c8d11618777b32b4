//! Signing, which is the one thing here that takes time: not where connections are served, and not more at once than
//! there are processors.

use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use gaia_auth::issue::{PlatformClaims, Signer};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::denial::Denial;

/// Who may sign now. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Signing {
    permits: Arc<Semaphore>,
}

impl Default for Signing {
    fn default() -> Self {
        // One that does not know how many processors it has has one.
        Self { permits: Arc::new(Semaphore::new(available_parallelism().map_or(1, usize::from))) }
    }
}

impl Signing {
    /// Signs, in its turn. Gives the claims back with the token, for the record.
    ///
    /// # Errors
    /// [`Denial::Busy`] if its turn does not come soon, [`Denial::SigningFailed`] if the library fails.
    pub(crate) async fn sign<C>(&self, signer: Arc<Signer>, claims: C) -> Result<(String, C), Denial>
    where
        C: PlatformClaims + Send + 'static,
    {
        let turn = timeout(LONGEST_WAIT, Arc::clone(&self.permits).acquire_owned()).await;
        let permit = turn.map_err(|_| Denial::Busy)?.map_err(|_| Denial::SigningFailed)?;
        let signing = tokio::task::spawn_blocking(move || {
            let token = signer.sign(&claims);
            drop(permit);
            token.map(|token| (token, claims))
        });
        signing.await.ok().and_then(Result::ok).ok_or(Denial::SigningFailed)
    }
}

const LONGEST_WAIT: Duration = Duration::from_secs(2);
