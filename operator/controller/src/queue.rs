//! What is to be decided about, each thing once, and never by two workers at a time.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    running: HashSet<K>,
    again: HashSet<K>,
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
            running: HashSet::new(),
            again: HashSet::new(),
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
        if inner.running.contains(&key) {
            inner.again.insert(key);
        } else if inner.waiting.insert(key.clone()) {
            inner.ready.push_back(key);
            self.changed.notify_one();
        }
    }

    pub(crate) fn push_all(&self, keys: impl IntoIterator<Item = K>) {
        for key in keys {
            self.push(key);
        }
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
                    inner.running.insert(key.clone());
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
        inner.running.remove(&key);
        if inner.again.remove(&key) {
            if inner.waiting.insert(key.clone()) {
                inner.ready.push_back(key);
            }
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
    fn set_timer(&mut self, key: K, at: Instant) {
        self.cancel_timer(&key);
        self.count += 1;
        self.timers.insert((at, self.count), key.clone());
        self.timer_of.insert(key, (at, self.count));
    }

    fn cancel_timer(&mut self, key: &K) {
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
            if self.waiting.insert(key.clone()) {
                self.ready.push_back(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
