//! Work queue: each key is queued once, never handled by two workers at a time, and namespaces are served in turn.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::queue::fair::Fair;

/// A key of a queue, and the lane that it waits in.
pub(crate) trait Laned: Clone + Eq + Hash {
    /// The namespace; empty for cluster-scoped objects.
    fn lane(&self) -> &str;
}

/// A queue of keys with delays. Namespaces share its slots by [`Fair`].
pub(crate) struct Queue<K> {
    slots: usize,
    inner: Mutex<Inner<K>>,
    changed: Notify,
}

struct Inner<K> {
    ready: Fair<K>,
    waiting: HashSet<K>,
    running: HashMap<K, Instant>,
    again: HashSet<K>,
    again_soon: HashSet<K>,
    /// The end of the rest period of keys that were pushed with [`Queue::push_soon`].
    rests: HashMap<K, Instant>,
    /// Keys that wait for the end of their rest period.
    resting: HashSet<K>,
    timers: BTreeMap<(Instant, u64), K>,
    timer_of: HashMap<K, (Instant, u64)>,
    count: u64,
    closed: bool,
}

impl<K: Laned> Queue<K> {
    pub(crate) fn new(slots: usize) -> Self {
        let inner = Inner {
            ready: Fair::new(slots),
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
        Self { slots, inner: Mutex::new(inner), changed: Notify::new() }
    }

    /// The number of workers that can be busy at the same time.
    pub(crate) fn workers(&self) -> usize {
        Fair::<K>::most_held(self.slots)
    }

    /// Queues a key now; if it is being handled, once more afterwards.
    pub(crate) fn push(&self, key: K) {
        let mut inner = self.lock();
        inner.cancel_timer(&key);
        if inner.running.contains_key(&key) {
            inner.again.insert(key);
        } else {
            inner.ready(key);
            self.changed.notify_one();
        }
    }

    /// Queues a key now, unless it was handled recently: then after a rest of ten times the handling time, at most a
    /// second. However often this is called, little more than a tenth of the time is spent on one key.
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

    /// Returns true if no key is being handled or queued; keys that are scheduled for a later time do not count.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut inner = self.lock();
        inner.release_due(Instant::now());
        inner.waiting.is_empty() && inner.running.is_empty() && inner.resting.is_empty()
    }

    /// Stops handing out keys.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_waiters();
        self.changed.notify_one();
    }

    /// The next key; the caller must return it with [`Queue::done`]. None once the queue is closed.
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
                if let Some(key) = inner.ready.take() {
                    inner.waiting.remove(&key);
                    inner.running.insert(key.clone(), Instant::now());
                    if inner.ready.can_take() {
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

    /// Marks a key as handled, and requeues it at that time unless it is pushed before.
    pub(crate) fn done(&self, key: K, next: Option<Instant>) {
        let mut inner = self.lock();
        let started = inner.running.remove(&key);
        inner.ready.release(key.lane());
        if let (Some(started), true) = (started, inner.rests.contains_key(&key)) {
            let rest = (started.elapsed() * 10).min(LONGEST_REST);
            inner.rests.insert(key.clone(), Instant::now() + rest);
        }
        let soon = inner.again_soon.remove(&key);
        if inner.again.remove(&key) {
            inner.ready(key);
        } else if soon {
            inner.rest(key);
        } else if let Some(at) = next {
            inner.set_timer(key, at);
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Removes the state of a key whose object is deleted.
    pub(crate) fn forget(&self, key: &K) {
        self.lock().rests.remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Laned> Inner<K> {
    /// Appends a key to its lane unless it waits there.
    fn ready(&mut self, key: K) {
        if self.waiting.insert(key.clone()) {
            let lane = key.lane().to_owned();
            self.ready.push(&lane, key);
        }
    }

    /// Queued at the end of its rest period.
    fn rest(&mut self, key: K) {
        let until = *self.rests.entry(key.clone()).or_insert_with(Instant::now);
        if until > Instant::now() {
            self.set_timer(key.clone(), until);
            self.resting.insert(key);
        } else {
            self.cancel_timer(&key);
            self.ready(key);
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
            self.ready(key);
        }
    }
}

const LONGEST_REST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    impl Laned for &'static str {
        /// The part before the slash.
        fn lane(&self) -> &str {
            self.split_once('/').map_or("", |(lane, _)| lane)
        }
    }

    async fn is_idle(queue: &Queue<&'static str>) -> bool {
        tokio::time::timeout(Duration::from_millis(1), queue.next()).await.is_err()
    }

    impl<K: Laned> Queue<K> {
        /// The number of keys that wait for a slot.
        pub(crate) fn waiting(&self) -> usize {
            self.lock().waiting.len()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_pushed_twice_comes_once() {
        let queue = Queue::new(16);
        queue.push_all(["a", "a", "b"]);
        assert_eq!(queue.next().await, Some("a"));
        assert_eq!(queue.next().await, Some("b"));
        assert!(is_idle(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_pushed_while_it_runs_comes_again_afterwards() {
        let queue = Queue::new(16);
        queue.push("a");
        let running = queue.next().await.unwrap();
        queue.push("a");
        assert!(is_idle(&queue).await);
        queue.done(running, Some(Instant::now() + Duration::from_secs(3600)));
        assert_eq!(queue.next().await, Some("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_is_quiet_when_keys_only_wait_for_their_time() {
        let queue = Queue::new(16);
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
        let queue = Queue::new(16);
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
        let queue = Queue::new(16);
        queue.push_soon("a");
        let running = queue.next().await.unwrap();
        tokio::time::advance(Duration::from_millis(20)).await;
        queue.done(running, None);
        queue.push_soon("a");
        assert!(is_idle(&queue).await);
        queue.push("a");
        assert_eq!(queue.next().await, Some("a"), "only keys that may wait are delayed");
    }

    #[tokio::test(start_paused = true)]
    async fn keys_of_one_namespace_do_not_delay_those_of_another() {
        let queue = Queue::new(4);
        queue.push_all(["busy/1", "busy/2", "busy/3", "busy/4", "busy/5", "busy/6"]);
        for _ in 0..4 {
            assert!(queue.next().await.is_some_and(|key| key.starts_with("busy/")));
        }
        assert!(is_idle(&queue).await, "every slot is held");
        queue.push_all(["shop/1", "domain"]);
        assert_eq!(queue.next().await, Some("shop/1"));
        assert_eq!(queue.next().await, Some("domain"), "cluster-scoped objects have a share of their own");
        queue.done("busy/1", None);
        queue.push("other/1");
        assert_eq!(queue.next().await, Some("other/1"), "a namespace below its share is first");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_of_a_deleted_key() {
        let queue = Queue::new(4);
        queue.push_soon("a");
        let running = queue.next().await.unwrap();
        queue.forget(&running);
        queue.done(running, None);
        assert!(queue.lock().rests.is_empty() && queue.is_quiet());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_comes_back_at_its_time_or_when_pushed() {
        let queue = Queue::new(16);
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
