//! Token signing on dedicated threads, one per processor, because it is the only expensive operation and must not block
//! connections. Waiting peers are served in turn: a peer that requests many tokens delays only its own.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use gaia_api::SpiffeId;
use gaia_api::sync::lock;
use gaia_auth::issue::{PlatformClaims, Signer};
use gaia_runtime::FairQueue;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::denial::Denial;

/// Handle of the signing threads. Clones share them; they end with the last clone.
#[derive(Clone)]
pub(crate) struct Signing(Arc<Handle>);

struct Handle(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// Waiting tasks by peer.
#[derive(Default)]
struct Queue {
    tasks: FairQueue<SpiffeId, Task>,
    waiting: usize,
    is_closed: bool,
}

type Task = Box<dyn FnOnce() + Send>;

impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signing").finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        lock(&self.0.queue).is_closed = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    /// Runs tasks until the last handle is dropped.
    fn work(&self) {
        loop {
            let mut queue = lock(&self.queue);
            let task = loop {
                if let Some(task) = queue.next() {
                    break task;
                }
                if queue.is_closed {
                    return;
                }
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            };
            drop(queue);
            task();
        }
    }
}

impl Queue {
    /// Adds a task of a peer. While other peers wait, it may use at most a quarter of the queue.
    fn add(&mut self, peer: &SpiffeId, task: Task) -> Result<(), Denial> {
        let own = self.tasks.len_of(peer);
        let is_alone = self.waiting == own;
        if self.waiting >= MAX_WAITING || (!is_alone && own >= MAX_WAITING / 4) {
            return Err(Denial::Busy);
        }
        self.tasks.push(peer, task);
        self.waiting += 1;
        Ok(())
    }

    fn next(&mut self) -> Option<Task> {
        let (_, task) = self.tasks.pop(|_| true, |_| true)?;
        self.waiting -= 1;
        Some(task)
    }
}

impl Signing {
    /// Starts the threads.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub(crate) fn start() -> std::io::Result<Self> {
        let handle = Handle(Arc::default());
        // One thread if the number of processors is unknown.
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let shared = Arc::clone(&handle.0);
            drop(thread::Builder::new().name("sign".to_owned()).spawn(move || shared.work())?);
        }
        Ok(Self(Arc::new(handle)))
    }

    /// Signs for a peer in its turn. Returns the claims together with the token, for the audit log.
    ///
    /// # Errors
    /// [`Denial::Busy`] if its turn does not come within the time limit, [`Denial::SigningFailed`] if the library
    /// fails.
    pub(crate) async fn sign<C>(&self, peer: &SpiffeId, signer: Arc<Signer>, claims: C) -> Result<(String, C), Denial>
    where
        C: PlatformClaims + Send + 'static,
    {
        let (done, signed) = oneshot::channel();
        let task = move || {
            // Tasks of cancelled requests are skipped.
            if !done.is_closed() {
                let _ = done.send(signer.sign(&claims).map(|token| (token, claims)));
            }
        };
        self.add(peer, Box::new(task))?;
        let signed = timeout(LONGEST_WAIT, signed).await.map_err(|_| Denial::Busy)?;
        signed.ok().and_then(Result::ok).ok_or(Denial::SigningFailed)
    }

    fn add(&self, peer: &SpiffeId, task: Task) -> Result<(), Denial> {
        let Self(handle) = self;
        lock(&handle.0.queue).add(peer, task)?;
        handle.0.changed.notify_one();
        Ok(())
    }
}

/// As many as two processors sign with RSA within the time limit.
const MAX_WAITING: usize = 4096;
const LONGEST_WAIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use gaia_auth::issue::ServiceClaims;
    use gaia_runtime::testing::Platform;

    use super::*;

    fn peer(name: &str) -> SpiffeId {
        SpiffeId::workload("test", "a", name)
    }

    #[test]
    fn peers_take_turns_and_none_takes_the_room_of_all() {
        let (mut queue, done) = (Queue::default(), Arc::new(Mutex::new(String::new())));
        let task = |name: &'static str| -> Task {
            let done = Arc::clone(&done);
            Box::new(move || done.lock().unwrap().push_str(name))
        };
        for _ in 0..MAX_WAITING - 1 {
            queue.add(&peer("gateway"), task("g")).unwrap();
        }
        queue.add(&peer("web"), task("w")).unwrap();
        assert_eq!(queue.add(&peer("chat"), task("c")).err(), Some(Denial::Busy), "the whole is full");
        assert_eq!(queue.add(&peer("gateway"), task("g")).err(), Some(Denial::Busy));
        for _ in 0..4 {
            queue.next().unwrap()();
        }
        assert_eq!(*done.lock().unwrap(), "gwgg", "web is next, however many gateway has");
        queue.add(&peer("chat"), task("c")).unwrap();
        assert_eq!(queue.add(&peer("gateway"), task("g")).err(), Some(Denial::Busy), "others wait");
        queue.add(&peer("chat"), task("c")).unwrap();
        while let Some(task) = queue.next() {
            task();
        }
        assert_eq!((queue.waiting, queue.tasks.is_empty()), (0, true));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_told_and_nothing_is_signed_for_them() {
        let signing = Signing::start().unwrap();
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let (busy, go_on): (Vec<_>, Vec<_>) = (0..threads).map(|_| channel::<()>()).unzip();
        for go_on in go_on {
            signing.add(&peer("a"), Box::new(move || go_on.iter().for_each(drop))).unwrap();
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
        assert_eq!(signing.sign(&peer("a"), Arc::clone(&signer), claims.clone()).await.err(), Some(Denial::Busy));
        drop(busy);
        tokio::time::resume();
        assert_eq!(
            signing.sign(&peer("a"), signer, claims.clone()).await.map(|(_, signed)| signed.jti),
            Ok(claims.jti)
        );
    }
}
