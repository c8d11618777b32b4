//! Slots for work that is shared among its sources: queries to one issuer, and TLS handshakes.
//!
//! Waiting sources are served in turn, and none holds more slots than its share. A source with much work therefore delays
//! only itself.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;

use gaia_api::sync::lock;
use tokio::sync::oneshot;

use crate::concurrency::fair_queue::FairQueue;

/// The slots.
#[derive(Debug)]
pub(crate) struct Turns<S>(Mutex<State<S>>);

#[derive(Debug)]
struct State<S> {
    /// The slots that one source may hold, and the waiters that it may have.
    share: usize,
    max_waiting: usize,
    free: usize,
    held: HashMap<S, usize>,
    waiting: FairQueue<S, oneshot::Sender<()>>,
}

/// A slot, held until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot<'a, S: Eq + Hash + Clone> {
    turns: &'a Turns<S>,
    source: S,
}

/// A source that waits for a slot.
struct Waiter<'a, S: Eq + Hash + Clone> {
    turns: &'a Turns<S>,
    source: S,
    granted: oneshot::Receiver<()>,
}

/// Too many tasks of the source are waiting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct QueueFull;

impl<S: Eq + Hash + Clone> Turns<S> {
    /// So many slots, of which one source holds at most `share` and waits for at most `max_waiting`.
    pub(crate) fn new(slots: usize, share: usize, max_waiting: usize) -> Self {
        let (held, waiting) = (HashMap::new(), FairQueue::default());
        Self(Mutex::new(State { share, max_waiting, free: slots, held, waiting }))
    }

    /// Waits for a slot.
    ///
    /// # Errors
    /// [`QueueFull`], without waiting.
    pub(crate) async fn take(&self, source: S) -> Result<Slot<'_, S>, QueueFull> {
        let Some(granted) = self.enter(&source)? else { return Ok(Slot { turns: self, source }) };
        let mut waiter = Waiter { turns: self, source, granted };
        // The sender is dropped only together with the slots.
        let answer = (&mut waiter.granted).await;
        let source = waiter.source.clone();
        answer.map(|()| Slot { turns: self, source }).map_err(|_| QueueFull)
    }

    /// Takes a free slot (returns none), or joins the queue of the source.
    fn enter(&self, source: &S) -> Result<Option<oneshot::Receiver<()>>, QueueFull> {
        let mut state = lock(&self.0);
        if state.waiting.len_of(source) == 0 && state.free > 0 && state.has_share(source) {
            state.grant(source);
            return Ok(None);
        }
        let max_waiting = state.max_waiting;
        if state.waiting.len_of(source) >= max_waiting {
            state.waiting.retain(source, |waiter| !waiter.is_closed());
        }
        if state.waiting.len_of(source) >= max_waiting {
            return Err(QueueFull);
        }
        let (sender, granted) = oneshot::channel();
        state.waiting.push(source, sender);
        Ok(Some(granted))
    }

    fn release(&self, source: &S) {
        let mut state = lock(&self.0);
        state.free += 1;
        if let Some(held) = state.held.get_mut(source) {
            *held -= 1;
            if *held == 0 {
                state.held.remove(source);
            }
        }
        state.hand_out();
    }
}

impl<S: Eq + Hash + Clone> State<S> {
    fn has_share(&self, source: &S) -> bool {
        self.held.get(source).copied().unwrap_or_default() < self.share
    }

    fn grant(&mut self, source: &S) {
        self.free -= 1;
        *self.held.entry(source.clone()).or_default() += 1;
    }

    /// Gives each free slot to the next source below its share.
    fn hand_out(&mut self) {
        while self.free > 0 {
            let Self { share, held, waiting, .. } = self;
            let has_share = |source: &S| held.get(source).copied().unwrap_or_default() < *share;
            // Cancelled waiters are skipped.
            let Some((source, waiter)) = waiting.pop(has_share, |waiter| !waiter.is_closed()) else { return };
            if waiter.send(()).is_ok() {
                self.grant(&source);
            }
        }
    }
}

impl<S: Eq + Hash + Clone> Drop for Slot<'_, S> {
    fn drop(&mut self) {
        self.turns.release(&self.source);
    }
}

impl<S: Eq + Hash + Clone> Drop for Waiter<'_, S> {
    /// Releases a slot that was granted but not taken.
    fn drop(&mut self) {
        self.granted.close();
        if self.granted.try_recv().is_ok() {
            self.turns.release(&self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    const SLOTS: usize = 16;

    fn turns() -> Arc<Turns<usize>> {
        Arc::new(Turns::new(SLOTS, 12, 256))
    }

    /// Sends `count` queries of each source, each of which takes 100 ms.
    fn flood(turns: &Arc<Turns<usize>>, sources: std::ops::Range<usize>, count: usize) {
        for source in sources {
            for _ in 0..count {
                let turns = Arc::clone(turns);
                tokio::spawn(async move {
                    if let Ok(_slot) = turns.take(source).await {
                        sleep(Duration::from_millis(100)).await;
                    }
                });
            }
        }
    }

    /// Runs all tasks until they wait.
    async fn until_all_wait() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    async fn waited(turns: &Turns<usize>, source: usize) -> Duration {
        let began = Instant::now();
        drop(turns.take(source).await.unwrap());
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_one_source_delays_no_other() {
        let turns = turns();
        flood(&turns, 0..1, 1000);
        until_all_wait().await;
        for source in 1..20 {
            assert_eq!(waited(&turns, source).await, Duration::ZERO, "{source}");
        }
        assert!(turns.take(0).await.is_err(), "its own queue is full");
    }

    #[tokio::test(start_paused = true)]
    async fn of_fifty_sources_that_flood_each_takes_its_turn() {
        let turns = turns();
        flood(&turns, 0..50, 20);
        until_all_wait().await;
        let waited = waited(&turns, 99).await;
        assert!(waited <= Duration::from_millis(500), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn slots_of_questions_that_are_given_up_are_free_again() {
        let turns = turns();
        for round in 0..20 {
            flood(&turns, 0..3, 30);
            let asking: Vec<_> = (0..40)
                .map(|number| {
                    let turns = Arc::clone(&turns);
                    tokio::spawn(async move { turns.take(number % 7).await.map(drop) })
                })
                .collect();
            sleep(Duration::from_millis(30 * round)).await;
            asking.iter().for_each(tokio::task::JoinHandle::abort);
        }
        sleep(Duration::from_secs(60)).await;
        let state = lock(&turns.0);
        assert_eq!((state.free, state.held.len()), (SLOTS, 0));
        assert!(state.waiting.is_empty(), "nothing is kept");
    }
}
