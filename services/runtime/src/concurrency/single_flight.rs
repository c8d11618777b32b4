//! Single-flight: concurrent calls with an equal key share one result.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use gaia_api::sync::lock;
use tokio::sync::OnceCell;

/// The calls in progress, by key. Clones share them.
pub struct SingleFlight<K, V> {
    flights: Arc<Mutex<HashMap<K, Arc<OnceCell<V>>>>>,
    max: usize,
}

impl<K: Clone + Eq + Hash, V: Clone> SingleFlight<K, V> {
    /// Permits calls of at most `max` keys at once.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { flights: Arc::default(), max }
    }

    /// Returns the result of the call in progress for `key`, otherwise that of `call`; none if too many are in progress.
    /// If the caller that runs it is cancelled, the next waiting one runs its own. A later caller runs its own too.
    pub async fn run(&self, key: K, call: impl Future<Output = V>) -> Option<V> {
        let flight = self.join(key)?;
        Some(flight.result.get_or_init(|| call).await.clone())
    }

    /// Like [`run`](Self::run), but `call` continues after its caller is cancelled. None also if it panics.
    pub async fn run_to_end(&self, key: K, call: impl Future<Output = V> + Send + 'static) -> Option<V>
    where
        K: Send + Sync + 'static,
        V: Send + Sync + 'static,
    {
        let this = self.clone();
        tokio::spawn(async move { this.run(key, call).await }).await.ok().flatten()
    }

    fn join(&self, key: K) -> Option<Flight<'_, K, V>> {
        let mut flights = lock(&self.flights);
        if flights.len() >= self.max && !flights.contains_key(&key) {
            return None;
        }
        let result = Arc::clone(flights.entry(key.clone()).or_default());
        Some(Flight { all: self, key, result })
    }

    /// Returns the number of waiting callers.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.flights).values().map(|result| Arc::strong_count(result) - 1).sum()
    }
}

impl<K, V> Clone for SingleFlight<K, V> {
    fn clone(&self) -> Self {
        Self { flights: Arc::clone(&self.flights), max: self.max }
    }
}

impl<K, V> fmt::Debug for SingleFlight<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleFlight").field("max", &self.max).finish_non_exhaustive()
    }
}

/// One caller that waits for a result.
struct Flight<'a, K: Clone + Eq + Hash, V: Clone> {
    all: &'a SingleFlight<K, V>,
    key: K,
    result: Arc<OnceCell<V>>,
}

impl<K: Clone + Eq + Hash, V: Clone> Drop for Flight<'_, K, V> {
    /// Removes the entry with the result, or with the last waiting caller.
    fn drop(&mut self) {
        let mut flights = lock(&self.all.flights);
        let is_current = flights.get(&self.key).is_some_and(|result| Arc::ptr_eq(result, &self.result));
        // Referenced only by the table and by this caller: others join only under the lock.
        if is_current && (self.result.initialized() || Arc::strong_count(&self.result) == 2) {
            flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::FutureExt as _;
    use futures::future::join_all;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn concurrent_calls_share_a_result_and_later_ones_call_again() {
        let (flights, calls, go) = (SingleFlight::new(10), AtomicU32::new(0), Notify::new());
        let run = |key: u8| {
            flights.run(key, async {
                let number = calls.fetch_add(1, Ordering::SeqCst);
                go.notified().await;
                number
            })
        };
        let (results, ()) = tokio::join!(join_all((0..20).map(|_| run(1))), async { go.notify_one() });
        assert_eq!(results, [Some(0); 20]);
        go.notify_one();
        assert_eq!(run(1).await, Some(1));
        let other = tokio::join!(run(1), run(2), async { go.notify_waiters() });
        assert_eq!((other.0, other.1), (Some(2), Some(3)), "each key has its own");
        assert_eq!(flights.waiting(), 0);
    }

    #[tokio::test]
    async fn next_waiting_caller_runs_its_call_if_the_first_is_cancelled() {
        let flights = SingleFlight::new(10);
        let mut first = Box::pin(flights.run(1, pending()));
        assert!((&mut first).now_or_never().is_none());
        let mut second = Box::pin(flights.run(1, ready("second")));
        assert!((&mut second).now_or_never().is_none());
        assert_eq!(flights.waiting(), 2);
        drop(first);
        assert_eq!(second.await, Some("second"));
        assert!(flights.run(1, pending()).now_or_never().is_none());
        assert!(lock(&flights.flights).is_empty());
    }

    #[tokio::test]
    async fn call_that_runs_to_its_end_outlives_its_caller() {
        let (flights, go) = (SingleFlight::new(10), Arc::new(Notify::new()));
        let first = {
            let go = Arc::clone(&go);
            flights.run_to_end(1, async move {
                go.notified().await;
                "first"
            })
        };
        assert!(first.now_or_never().is_none(), "the caller is dropped");
        let joined = crate::testing::eventually("both wait", async || flights.waiting() == 2);
        let released = async {
            joined.await;
            go.notify_one();
        };
        let (second, ()) = tokio::join!(flights.run_to_end(1, ready("second")), released);
        assert_eq!(second, Some("first"));
        assert_eq!(flights.run_to_end(2, async { panic!("on purpose") }).await, None);
        assert_eq!(flights.run_to_end(2, ready("after a panic")).await, Some("after a panic"));
        assert!(lock(&flights.flights).is_empty());
    }

    #[tokio::test]
    async fn keys_in_progress_are_bounded_and_can_still_be_joined() {
        let flights = SingleFlight::new(1);
        let mut first = Box::pin(flights.run(1, pending()));
        assert!((&mut first).now_or_never().is_none());
        assert_eq!(flights.run(2, ready("second")).await, None);
        assert!(flights.run(1, ready("first")).now_or_never().is_none(), "it waits");
        drop(first);
        assert_eq!(flights.run(2, ready("second")).await, Some("second"));
    }
}
