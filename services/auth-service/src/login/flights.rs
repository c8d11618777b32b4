//! Single-flight: concurrent requests for the same session share one response.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};

use super::failure::LoginFailure;
use super::gotrue::Session;

type Outcome = Result<Arc<Session>, LoginFailure>;
type Key = [u8; 32];

/// The requests in progress. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Flights {
    table: Table,
}

type Table = Arc<Mutex<HashMap<Key, Shared<BoxFuture<'static, Outcome>>>>>;

impl Flights {
    /// Waits for the request in progress under `key`, or starts `asking`. It continues after its first caller is
    /// dropped: the login server may already have consumed a single-use token.
    pub(super) async fn join(&self, key: Key, asking: impl Future<Output = Outcome> + Send + 'static) -> Outcome {
        let flight = {
            let mut table = lock(&self.table);
            match table.get(&key) {
                Some(flight) => flight.clone(),
                None if table.len() >= MAX_FLIGHTS => return Err(LoginFailure::Unavailable),
                None => {
                    let landing = Landing { table: Arc::clone(&self.table), key };
                    let task = tokio::spawn(async move {
                        let outcome = asking.await;
                        drop(landing);
                        outcome
                    });
                    let flight = task.map(|ended| ended.unwrap_or(Err(LoginFailure::Unavailable))).boxed().shared();
                    table.insert(key, flight.clone());
                    flight
                }
            }
        };
        flight.await
    }
}

/// Removes an entry from the table when it is dropped.
struct Landing {
    table: Table,
    key: Key,
}

impl Drop for Landing {
    fn drop(&mut self) {
        lock(&self.table).remove(&self.key);
    }
}

fn lock(table: &Table) -> MutexGuard<'_, HashMap<Key, Shared<BoxFuture<'static, Outcome>>>> {
    // Every change is one insertion or removal, so the table is consistent after a panic.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

const MAX_FLIGHTS: usize = 1024;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde_json::json;
    use tokio::sync::Notify;

    use super::*;

    fn session(refresh_token: &str) -> Arc<Session> {
        let session = json!({
            "access_token": "a", "token_type": "bearer", "expires_in": 1, "refresh_token": refresh_token, "user": {},
        });
        Arc::new(serde_json::from_value(session).unwrap())
    }

    #[tokio::test]
    async fn those_who_ask_at_once_get_one_answer_and_who_comes_later_another() {
        let (flights, asked, go) = (Flights::default(), Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let ask = |key: u8| {
            let (asked, go) = (Arc::clone(&asked), Arc::clone(&go));
            flights.join([key; 32], async move {
                let number = asked.fetch_add(1, Ordering::SeqCst);
                go.notified().await;
                Ok(session(&number.to_string()))
            })
        };
        let both = futures::future::join(ask(1), ask(1));
        go.notify_one();
        let (one, two) = both.await;
        assert!(Arc::ptr_eq(&one.ok().unwrap(), &two.ok().unwrap()));
        go.notify_one();
        assert_eq!(ask(1).await.ok().unwrap().refresh_token, "1");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn it_goes_on_without_who_began_it_and_one_that_fails_badly_is_forgotten() {
        let (flights, go) = (Flights::default(), Arc::new(Notify::new()));
        let gone = {
            let go = Arc::clone(&go);
            flights.join([1; 32], async move {
                go.notified().await;
                Ok(session("kept"))
            })
        };
        assert!(gone.now_or_never().is_none(), "who began it waits no longer");
        let second = flights.join([1; 32], async { Err(LoginFailure::Unavailable) });
        go.notify_one();
        assert_eq!(second.await.ok().unwrap().refresh_token, "kept");
        let broken = flights.join([2; 32], async { panic!("a bug") }).await;
        assert_eq!(broken.err(), Some(LoginFailure::Unavailable));
        assert!(lock(&flights.table).is_empty());
    }
}
