//! The rate limit of re-issues: slots for certificates that replace a valid one.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::queue::fair::Fair;
use crate::queue::work_queue::{Laned as _, Queue};
use crate::store::ObjectRef;

/// Hands out slots evenly over time and by [`Fair`] over namespaces. A key that waits is planned again when its slot has
/// come, and not before. 0 a second: no pace.
pub(crate) struct Pacer {
    interval: Option<Duration>,
    inner: Mutex<Inner>,
    changed: Notify,
}

struct Inner {
    waiting: Fair<ObjectRef>,
    is_waiting: HashSet<ObjectRef>,
    /// Keys whose slot has come and is not used yet. They hold it in `waiting`.
    granted: HashSet<ObjectRef>,
    /// The time of the next slot.
    next: Option<Instant>,
    closed: bool,
}

/// The next step of a pacer.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Wake(ObjectRef),
    WaitUntil(Instant),
    Idle,
}

impl Pacer {
    pub(crate) fn new(per_second: u32) -> Self {
        let interval = (per_second > 0).then(|| Duration::from_secs(1) / per_second);
        let outstanding = usize::try_from(per_second).unwrap_or(usize::MAX).max(LEAST_OUTSTANDING);
        let inner = Inner {
            waiting: Fair::new(outstanding),
            is_waiting: HashSet::new(),
            granted: HashSet::new(),
            next: None,
            closed: false,
        };
        Self { interval, inner: Mutex::new(inner), changed: Notify::new() }
    }

    /// Uses a slot, if there is one for this key now. Otherwise the key waits, and is pushed when its slot has come.
    pub(crate) fn request(&self, key: &ObjectRef, now: Instant) -> bool {
        let Some(interval) = self.interval else { return true };
        let mut inner = self.lock();
        if inner.granted.remove(key) {
            inner.waiting.release(key.lane());
            self.changed.notify_one();
            return true;
        }
        if inner.is_waiting.contains(key) {
            return false;
        }
        if inner.waiting.waiting() == 0 && inner.next.is_none_or(|next| next <= now) {
            inner.next = Some(now + interval);
            return true;
        }
        inner.is_waiting.insert(key.clone());
        inner.waiting.push(key.lane(), key.clone());
        self.changed.notify_one();
        false
    }

    /// The key was planned and needs no slot: the one it waits for or holds goes to another key.
    pub(crate) fn give_back(&self, key: &ObjectRef, now: Instant) {
        let mut inner = self.lock();
        if inner.granted.remove(key) {
            inner.waiting.release(key.lane());
            inner.next = inner.next.map(|next| next.min(now));
        } else if inner.is_waiting.remove(key) {
            inner.waiting.retain(key.lane(), |waiting| waiting != key);
        } else {
            return;
        }
        self.changed.notify_one();
    }

    /// Returns true if no key waits for a slot.
    pub(crate) fn is_quiet(&self) -> bool {
        self.lock().waiting.waiting() == 0
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Pushes each key when its slot has come, until the pacer is closed.
    pub(crate) async fn run(&self, decisions: &Queue<ObjectRef>) {
        loop {
            let changed = self.changed.notified();
            if self.lock().closed {
                return;
            }
            match self.step(Instant::now()) {
                Step::Wake(key) => decisions.push(key),
                Step::WaitUntil(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                Step::Idle => changed.await,
            }
        }
    }

    fn step(&self, now: Instant) -> Step {
        let mut inner = self.lock();
        let Some(interval) = self.interval.filter(|_| inner.waiting.can_take()) else { return Step::Idle };
        let due = inner.next.unwrap_or(now);
        if due > now {
            return Step::WaitUntil(due);
        }
        let Some(key) = inner.waiting.take() else { return Step::Idle };
        // A timer that is late by less than that does not slow down the pace.
        let is_on_time = now.duration_since(due) < interval.max(TIMER);
        inner.next = Some(if is_on_time { due + interval } else { now + interval });
        inner.is_waiting.remove(&key);
        inner.granted.insert(key.clone());
        Step::Wake(key)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The minimum number of available slots that are not used yet; at a higher rate, as many as become available in a
/// second.
const LEAST_OUTSTANDING: usize = 4;
const TIMER: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn key(namespace: &str, n: usize) -> ObjectRef {
        ObjectRef::Certificate(namespace.to_owned(), format!("c{n}"))
    }

    /// All keys that are woken until then. Each uses its slot at once unless it is one of those that no longer need
    /// any.
    async fn woken(pacer: &Pacer, until: Duration, unneeded: &[ObjectRef]) -> Vec<(u128, ObjectRef)> {
        let start = Instant::now();
        let mut woken = vec![];
        while start.elapsed() <= until {
            match pacer.step(Instant::now()) {
                Step::Wake(key) => {
                    assert!(pacer.lock().granted.contains(&key));
                    if unneeded.contains(&key) {
                        pacer.give_back(&key, Instant::now());
                    } else {
                        assert!(pacer.request(&key, Instant::now()));
                    }
                    woken.push((start.elapsed().as_millis(), key));
                }
                Step::WaitUntil(at) => tokio::time::sleep_until(at).await,
                Step::Idle => break,
            }
        }
        woken
    }

    #[tokio::test(start_paused = true)]
    async fn each_waiting_key_is_woken_once_at_a_time_of_its_own() {
        let pacer = Pacer::new(50);
        let now = Instant::now();
        assert!(pacer.request(&key("a", 0), now));
        for n in 1..=2000 {
            assert!(!pacer.request(&key("a", n), now));
            assert!(!pacer.request(&key("a", n), now), "asking again changes nothing");
        }
        let woken = woken(&pacer, Duration::from_secs(3600), &[]).await;
        let expected: Vec<(u128, ObjectRef)> = (1..=2000).map(|n| (20 * n as u128, key("a", n))).collect();
        assert_eq!(woken, expected);
        assert!(pacer.is_quiet());
    }

    #[tokio::test(start_paused = true)]
    async fn namespaces_take_turns_for_slots() {
        let pacer = Pacer::new(50);
        let now = Instant::now();
        for n in 0..5000 {
            pacer.request(&key("busy", n), now);
        }
        assert!(!pacer.request(&key("shop", 1), now));
        let woken = woken(&pacer, Duration::from_secs(1), &[]).await;
        let of_shop: Vec<u128> = woken.iter().filter(|(_, k)| *k == key("shop", 1)).map(|(at, _)| *at).collect();
        assert_eq!(of_shop, [40]);
        assert_eq!(woken.len(), 50, "the pace is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_that_is_not_needed_goes_to_the_next_key_at_once() {
        let pacer = Pacer::new(50);
        let now = Instant::now();
        for n in 0..=3 {
            pacer.request(&key("a", n), now);
        }
        pacer.give_back(&key("a", 1), now);
        let woken = woken(&pacer, Duration::from_secs(1), &[key("a", 2)]).await;
        assert_eq!(woken, [(20, key("a", 2)), (20, key("a", 3))]);
        assert!(pacer.lock().granted.is_empty() && pacer.lock().is_waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn slots_do_not_pile_up_while_none_is_used() {
        let pacer = Pacer::new(50);
        for n in 0..500 {
            pacer.request(&key("a", n), Instant::now());
        }
        let mut granted = 0;
        for _ in 0..1000 {
            granted += usize::from(matches!(pacer.step(Instant::now()), Step::Wake(_)));
            tokio::time::advance(Duration::from_millis(20)).await;
        }
        assert_eq!(granted, 50, "at most the rate per second");
    }

    #[tokio::test(start_paused = true)]
    async fn no_key_waits_without_a_pace() {
        let pacer = Pacer::new(0);
        let now = Instant::now();
        assert!((0..100).all(|n| pacer.request(&key("a", n), now)));
        assert_eq!(pacer.step(now), Step::Idle);
    }
}
