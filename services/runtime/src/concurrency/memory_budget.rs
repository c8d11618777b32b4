//! Memory budget of requests, shared out over their subjects.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gaia_api::sync::lock;
use gaia_auth::Identity;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::concurrency::shares::Shares;

/// A budget of bytes. A subject may use at most as much of it as it leaves free, so that none uses up what belongs to others.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    shared: Arc<Shared>,
    patience: Duration,
}

#[derive(Debug)]
struct Shared {
    shares: Shares<Identity>,
    /// The turns of the waiting reservations of each subject: the next one, and the next free one.
    turns: Mutex<HashMap<Identity, Vec<u64>>>,
    changed: Notify,
}

/// The budget of one subject.
#[derive(Debug, Clone)]
pub struct SubjectMemory {
    budget: MemoryBudget,
    subject: Identity,
}

/// A reservation. Dropping it releases the bytes.
#[derive(Debug)]
pub struct MemoryReservation {
    memory: SubjectMemory,
    units: usize,
    bytes: usize,
}

/// The share of the subject was exhausted for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the memory budget is exhausted")]
pub struct BudgetExhausted;

impl MemoryBudget {
    /// Creates a budget of so many bytes, in whole KiB. A reservation waits at most `patience`.
    #[must_use]
    pub fn new(bytes: usize, patience: Duration) -> Self {
        let shared = Shared { shares: Shares::new(bytes / UNIT), turns: Mutex::default(), changed: Notify::new() };
        Self { shared: Arc::new(shared), patience }
    }

    /// Returns the budget of one subject.
    #[must_use]
    pub fn of(&self, subject: &Identity) -> SubjectMemory {
        SubjectMemory { budget: self.clone(), subject: subject.clone() }
    }
}

impl SubjectMemory {
    /// Creates an empty reservation.
    #[must_use]
    pub fn reservation(&self) -> MemoryReservation {
        MemoryReservation { memory: self.clone(), units: 0, bytes: 0 }
    }
}

impl MemoryReservation {
    /// Reserves more bytes, in the order of the subject's requests. On [`BudgetExhausted`] the caller should release its
    /// reservation: others may wait for it.
    ///
    /// # Errors
    /// [`BudgetExhausted`] if the share of the subject stays exhausted for the time limit.
    pub async fn grow(&mut self, bytes: usize) -> Result<(), BudgetExhausted> {
        let more = (self.bytes + bytes).div_ceil(UNIT).saturating_sub(self.units);
        if more > 0 {
            self.memory.take(more).await?;
            self.units += more;
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl SubjectMemory {
    async fn take(&self, units: usize) -> Result<(), BudgetExhausted> {
        let Self { budget: MemoryBudget { shared, patience }, subject } = self;
        let turn = Turn::enter(shared, subject);
        let end = Instant::now() + *patience;
        loop {
            let mut changed = std::pin::pin!(shared.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if turn.is_next() && shared.shares.take(subject, units).is_ok() {
                return Ok(());
            }
            timeout_at(end, changed).await.map_err(|_| BudgetExhausted)?;
        }
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        let SubjectMemory { budget: MemoryBudget { shared, .. }, subject } = &self.memory;
        shared.shares.give_back(subject, self.units);
        shared.changed.notify_waiters();
    }
}

/// The turn of a reservation among those of its subject.
struct Turn<'a> {
    shared: &'a Shared,
    subject: &'a Identity,
    number: u64,
}

impl<'a> Turn<'a> {
    fn enter(shared: &'a Shared, subject: &'a Identity) -> Self {
        let mut turns = lock(&shared.turns);
        let waiting = turns.entry(subject.clone()).or_default();
        let number = waiting.last().map_or(0, |last| last + 1);
        waiting.push(number);
        Self { shared, subject, number }
    }

    fn is_next(&self) -> bool {
        lock(&self.shared.turns).get(self.subject).is_some_and(|waiting| waiting.first() == Some(&self.number))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = lock(&self.shared.turns);
        if let Some(waiting) = turns.get_mut(self.subject) {
            waiting.retain(|number| *number != self.number);
            if waiting.is_empty() {
                turns.remove(self.subject);
            } else {
                self.shared.changed.notify_waiters();
            }
        }
    }
}

const UNIT: usize = 1024;

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn subject(id: &str) -> Identity {
        Identity::Key(id.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn reservations_of_a_subject_hold_at_most_its_share_and_release_it() {
        let memory = MemoryBudget::new(8 * UNIT, PATIENCE);
        let ann = memory.of(&subject("ann"));
        let (mut one, mut other) = (ann.reservation(), ann.reservation());
        one.grow(1).await.unwrap();
        one.grow(UNIT - 1).await.unwrap();
        assert_eq!(memory.shared.shares.free(), 7, "bytes are counted together");
        other.grow(3 * UNIT).await.unwrap();
        assert_eq!(other.grow(1).await, Err(BudgetExhausted));
        drop(one);
        other.grow(1).await.unwrap();
        drop(other);
        assert_eq!(memory.shared.shares.free(), 8);
        assert!(lock(&memory.shared.turns).is_empty());
    }

    /// Kind: stalled requests of one subject, or of fifty, use up the memory of another.
    #[tokio::test(start_paused = true)]
    async fn stalled_requests_of_some_subjects_leave_memory_for_another() {
        for attackers in [1, 50] {
            let memory = MemoryBudget::new(1024 * UNIT, Duration::from_millis(1));
            let mut held = Vec::new();
            for n in 0..1100 {
                let mut reservation = memory.of(&subject(&format!("eve-{}", n % attackers))).reservation();
                if reservation.grow(UNIT).await.is_ok() {
                    held.push(reservation);
                }
            }
            let mut other = memory.of(&subject("ann")).reservation();
            assert_eq!(other.grow(1024 * UNIT / (attackers + 2)).await, Ok(()), "{attackers}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn reservations_that_wait_for_each_other_end() {
        let memory = MemoryBudget::new(16 * UNIT, PATIENCE);
        let all = (0..8).map(|_| {
            let mut held = memory.of(&subject("ann")).reservation();
            async move {
                held.grow(UNIT).await?;
                tokio::task::yield_now().await;
                held.grow(UNIT).await
            }
        });
        let began = Instant::now();
        let results = futures::future::join_all(all.map(tokio::spawn)).await;
        assert!(results.iter().any(|result| *result.as_ref().unwrap() == Err(BudgetExhausted)));
        assert!(began.elapsed() < PATIENCE * 2);
        assert_eq!(memory.shared.shares.free(), 16);
    }

    #[tokio::test(start_paused = true)]
    async fn small_reservation_does_not_overtake_a_large_one() {
        let memory = MemoryBudget::new(16 * UNIT, PATIENCE);
        let ann = memory.of(&subject("ann"));
        let (mut first, mut large, mut small) = (ann.reservation(), ann.reservation(), ann.reservation());
        first.grow(6 * UNIT).await.unwrap();
        let waiting = tokio::spawn(async move { large.grow(5 * UNIT).await });
        tokio::task::yield_now().await;
        assert_eq!(timeout(PATIENCE / 2, small.grow(UNIT)).await.ok(), None);
        assert_eq!(memory.of(&subject("bob")).reservation().grow(UNIT).await, Ok(()), "another subject does not wait");
        drop(first);
        assert_eq!(waiting.await.unwrap(), Ok(()));
        small.grow(UNIT).await.unwrap();
    }
}
