//! What is to be decided about, each thing once, and never by two workers at a time.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// A queue of keys with delays.
pub(crate) struct Queue<K> {
    inner: Mutex<Inner<K>>,
    changed: Notify,
}

struct Inner<K> {
    ready: VecDeque<K>,
    waiting: HashSet<K>,
    running: HashMap<K, Instant>,
    again: HashSet<K>,
    again_soon: HashSet<K>,
    /// Until when keys rest that were ever pushed with [`Queue::push_soon`].
    rests: HashMap<K, Instant>,
    /// Keys that wait for the end of their rest.
    resting: HashSet<K>,
    timers: BTreeMap<(Instant, u64), K>,
    timer_of: HashMap<K, (Instant, u64)>,
    count: u64,
    closed: bool,
}

impl<K: Clone + Eq + Hash> Queue<K> {
    pub(crate) fn new() -> Self {
        let inner = Inner {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            running: HashMap::new(),
            again: HashSet::new(),
            again_soon: HashSet::new(),
            rests: HashMap::new(),
            resting: HashSet::new(),
            timers: BTreeMap::new(),
            timer_of: HashMap::new(),
            count: 0,
            closed: false,
        };
        Self { inner: Mutex::new(inner), changed: Notify::new() }
    }

    /// Decide about it now; if that is going on already, once more afterwards.
    pub(crate) fn push(&self, key: K) {
        let mut inner = self.lock();
        inner.cancel_timer(&key);
        if inner.running.contains_key(&key) {
            inner.again.insert(key);
        } else if inner.waiting.insert(key.clone()) {
            inner.ready.push_back(key);
            self.changed.notify_one();
        }
    }

    /// Decide about it now, unless that was done a moment ago: then once it has rested ten times as long as it took, at
    /// most a second. However often this is called, not much more than a tenth of the time goes into one key.
    pub(crate) fn push_soon(&self, key: K) {
        let mut inner = self.lock();
        if inner.running.contains_key(&key) {
            inner.rests.entry(key.clone()).or_insert_with(Instant::now);
            inner.again_soon.insert(key);
        } else if !inner.waiting.contains(&key) {
            inner.rest(key);
            drop(inner);
            self.changed.notify_one();
        }
    }

    pub(crate) fn push_all(&self, keys: impl IntoIterator<Item = K>) {
        for key in keys {
            self.push(key);
        }
    }

    /// Whether nothing is being decided about and nothing waits for it; keys that wait for
    /// their time do not count.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut inner = self.lock();
        inner.release_due(Instant::now());
        inner.waiting.is_empty() && inner.running.is_empty() && inner.resting.is_empty()
    }

    /// Nothing is given out any more.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_waiters();
        self.changed.notify_one();
    }

    /// The next key; whoever takes it must give it back with [`Queue::done`]. None once the queue is closed.
    pub(crate) async fn next(&self) -> Option<K> {
        loop {
            let notified = self.changed.notified();
            let wake = {
                let mut inner = self.lock();
                if inner.closed {
                    self.changed.notify_one();
                    return None;
                }
                inner.release_due(Instant::now());
                if let Some(key) = inner.ready.pop_front() {
                    inner.waiting.remove(&key);
                    inner.running.insert(key.clone(), Instant::now());
                    if !inner.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return Some(key);
                }
                inner.timers.keys().next().map(|(at, _)| *at)
            };
            match wake {
                Some(at) => tokio::select! {
                    () = notified => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => notified.await,
            }
        }
    }

    /// The decision is made; look again at that time unless something happens before.
    pub(crate) fn done(&self, key: K, next: Option<Instant>) {
        let mut inner = self.lock();
        let started = inner.running.remove(&key);
        if let (Some(started), true) = (started, inner.rests.contains_key(&key)) {
            let rest = (started.elapsed() * 10).min(LONGEST_REST);
            inner.rests.insert(key.clone(), Instant::now() + rest);
        }
        let soon = inner.again_soon.remove(&key);
        if inner.again.remove(&key) {
            if inner.waiting.insert(key.clone()) {
                inner.ready.push_back(key);
            }
        } else if soon {
            inner.rest(key);
        } else if let Some(at) = next {
            inner.set_timer(key, at);
        }
        drop(inner);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> Inner<K> {
    /// Ready at the end of its rest.
    fn rest(&mut self, key: K) {
        let until = *self.rests.entry(key.clone()).or_insert_with(Instant::now);
        if until > Instant::now() {
            self.set_timer(key.clone(), until);
            self.resting.insert(key);
        } else {
            self.cancel_timer(&key);
            if self.waiting.insert(key.clone()) {
                self.ready.push_back(key);
            }
        }
    }

    fn set_timer(&mut self, key: K, at: Instant) {
        self.cancel_timer(&key);
        self.count += 1;
        self.timers.insert((at, self.count), key.clone());
        self.timer_of.insert(key, (at, self.count));
    }

    fn cancel_timer(&mut self, key: &K) {
        self.resting.remove(key);
        if let Some(slot) = self.timer_of.remove(key) {
            self.timers.remove(&slot);
        }
    }

    fn release_due(&mut self, now: Instant) {
        while let Some(((at, count), _)) = self.timers.first_key_value() {
            if *at > now {
                return;
            }
            let slot = (*at, *count);
            let Some(key) = self.timers.remove(&slot) else { return };
            self.timer_of.remove(&key);
            self.resting.remove(&key);
            if self.waiting.insert(key.clone()) {
                self.ready.push_back(key);
            }
        }
    }
}

const LONGEST_REST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_idle(queue: &Queue<&'static str>) -> bool {
        tokio::time::timeout(Duration::from_millis(1), queue.next()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_pushed_twice_comes_once() {
        let queue = Queue::new();
        queue.push_all(["a", "a", "b"]);
        assert_eq!(queue.next().await, Some("a"));
        assert_eq!(queue.next().await, Some("b"));
        assert!(is_idle(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_pushed_while_it_runs_comes_again_afterwards() {
        let queue = Queue::new();
        queue.push("a");
        let running = queue.next().await.unwrap();
        queue.push("a");
        assert!(is_idle(&queue).await);
        queue.done(running, Some(Instant::now() + Duration::from_secs(3600)));
        assert_eq!(queue.next().await, Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_is_quiet_when_keys_only_wait_for_their_time() {
        let queue = Queue::new();
        assert!(queue.is_quiet());
        queue.push("a");
        assert!(!queue.is_quiet());
        let running = queue.next().await.unwrap();
        assert!(!queue.is_quiet());
        queue.done(running, Some(Instant::now() + Duration::from_secs(60)));
        assert!(queue.is_quiet());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(!queue.is_quiet());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_pushed_soon_rests_ten_times_as_long_as_it_took() {
        let queue = Queue::new();
        for (took, rest) in [(Duration::from_millis(20), 200), (Duration::from_secs(9), 1000)] {
            queue.push("a");
            let running = queue.next().await.unwrap();
            queue.push_soon("a");
            tokio::time::advance(took).await;
            queue.done(running, Some(Instant::now() + Duration::from_secs(3600)));
            queue.push_soon("a");
            assert!(!queue.is_quiet(), "it is still to be decided about");
            let done = Instant::now();
            let running = queue.next().await.unwrap();
            assert_eq!(done.elapsed().as_millis() / 10, rest / 10);
            queue.done(running, None);
            assert!(is_idle(&queue).await);
            tokio::time::advance(Duration::from_secs(2)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_has_rested_comes_at_once() {
        let queue = Queue::new();
        queue.push_soon("a");
        let running = queue.next().await.unwrap();
        tokio::time::advance(Duration::from_millis(20)).await;
        queue.done(running, None);
        queue.push_soon("a");
        assert!(is_idle(&queue).await);
        queue.push("a");
        assert_eq!(queue.next().await, Some("a"), "whoever cannot wait does not");
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_comes_back_at_its_time_or_when_pushed() {
        let queue = Queue::new();
        for wait in [Duration::from_secs(60), Duration::ZERO] {
            queue.push("a");
            let running = queue.next().await.unwrap();
            let start = Instant::now();
            queue.done(running, Some(start + Duration::from_secs(60)));
            assert!(is_idle(&queue).await);
            if wait.is_zero() {
                queue.push("a");
            }
            let key = queue.next().await.unwrap();
            assert!(start.elapsed() >= wait);
            queue.done(key, None);
        }
        assert!(is_idle(&queue).await);
    }
}
