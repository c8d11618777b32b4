//! Signing, which is the one thing here that takes time: on threads of its own, one for each processor, and not where
//! connections are served. While there is more to sign, these threads do not sleep.

use std::fmt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use gaia_auth::issue::{PlatformClaims, Signer};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::denial::Denial;

/// The way to the threads that sign. Clones share them; they end with the last.
#[derive(Clone)]
pub(crate) struct Signing {
    tasks: SyncSender<Task>,
}

type Task = Box<dyn FnOnce() + Send>;

impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signing").finish_non_exhaustive()
    }
}

impl Signing {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the system has none left.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (tasks, waiting) = sync_channel(MAX_WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        // One that does not know how many processors it has has one.
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let waiting = Arc::clone(&waiting);
            drop(thread::Builder::new().name("sign".to_owned()).spawn(move || {
                gaia_runtime::essential_thread();
                work(&waiting);
            })?);
        }
        Ok(Self { tasks })
    }

    /// Signs, in its turn. Gives the claims back with the token, for the record.
    ///
    /// # Errors
    /// [`Denial::Busy`] if its turn does not come soon, [`Denial::SigningFailed`] if the library fails.
    pub(crate) async fn sign<C>(&self, signer: Arc<Signer>, claims: C) -> Result<(String, C), Denial>
    where
        C: PlatformClaims + Send + 'static,
    {
        let (done, signed) = oneshot::channel();
        let task = move || {
            // Nobody waits for it any more: those who do come first.
            if !done.is_closed() {
                let _ = done.send(signer.sign(&claims).map(|token| (token, claims)));
            }
        };
        self.tasks.try_send(Box::new(task)).map_err(|_| Denial::Busy)?;
        let signed = timeout(LONGEST_WAIT, signed).await.map_err(|_| Denial::Busy)?;
        signed.ok().and_then(Result::ok).ok_or(Denial::SigningFailed)
    }
}

/// Does what is waiting until there is nobody left who could ask for more.
fn work(waiting: &Mutex<Receiver<Task>>) {
    loop {
        // Whoever waits for the next task holds it; nothing else is done while it is held.
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(task) = next else { return };
        task();
    }
}

/// As many as two processors sign with RSA before the last of them gives up.
const MAX_WAITING: usize = 4096;
const LONGEST_WAIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use gaia_auth::issue::ServiceClaims;
    use gaia_runtime::testing::Platform;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_told_and_nothing_is_signed_for_them() {
        let signing = Signing::start().unwrap();
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let (busy, go_on): (Vec<_>, Vec<_>) = (0..threads).map(|_| channel::<()>()).unzip();
        for go_on in go_on {
            signing.tasks.send(Box::new(move || go_on.iter().for_each(drop))).unwrap();
        }
        let signer = Arc::new(Platform::new().signer());
        let claims = ServiceClaims {
            iss: "gaia-platform".to_owned(),
            sub: "spiffe://test/ns/a/sa/b".to_owned(),
            client_id: "spiffe://test/ns/a/sa/b".to_owned(),
            service: "b".to_owned(),
            aud: "spiffe://test/ns/a/sa/c".to_owned(),
            jti: "1".to_owned(),
            iat: 0,
            exp: 900,
            scope: None,
        };
        assert_eq!(signing.sign(Arc::clone(&signer), claims.clone()).await.err(), Some(Denial::Busy));
        drop(busy);
        tokio::time::resume();
        assert_eq!(signing.sign(signer, claims.clone()).await.map(|(_, signed)| signed.jti), Ok(claims.jti));
    }
}
