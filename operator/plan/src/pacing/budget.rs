//! Rate limit for issuing one certificate: a burst of ten, then one a minute (invariant 10).

use std::time::Duration;

use jiff::Timestamp;

use crate::pacing::backoff::{saturating_add, since};

/// A token bucket that takes the time as an argument. A clock that is set back refills nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IssuanceBudget {
    /// Certificates that may still be issued at `counted`.
    left: u32,
    /// The time up to which refills are counted.
    counted: Timestamp,
}

impl IssuanceBudget {
    /// A full budget.
    #[must_use]
    pub fn full(now: Timestamp) -> Self {
        Self { left: BURST, counted: now }
    }

    /// Returns true if a certificate may be issued now.
    #[must_use]
    pub fn allows(&self, now: Timestamp) -> bool {
        self.refilled(now).left > 0
    }

    /// Returns the time when the next certificate may be issued.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Timestamp {
        let budget = self.refilled(now);
        if budget.left > 0 { now } else { saturating_add(budget.counted, REFILL) }
    }

    /// The budget after one certificate was issued.
    #[must_use]
    pub fn spend(&self, now: Timestamp) -> Self {
        let budget = self.refilled(now);
        Self { left: budget.left.saturating_sub(1), ..budget }
    }

    fn refilled(&self, now: Timestamp) -> Self {
        let whole = u32::try_from(since(now, self.counted).as_secs() / REFILL.as_secs()).unwrap_or(u32::MAX);
        let left = self.left.saturating_add(whole).min(BURST);
        let counted = if left == BURST { self.counted.max(now) } else { saturating_add(self.counted, REFILL * whole) };
        Self { left, counted }
    }
}

const BURST: u32 = 10;
const REFILL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_window_sees_more_than_the_burst_and_one_a_minute(gaps in prop::collection::vec(-30i64..120, 1..200)) {
            let mut now = Timestamp::from_second(1_000_000).unwrap();
            let mut budget = IssuanceBudget::full(now);
            let mut issued: Vec<Timestamp> = vec![];
            for gap in gaps {
                now = Timestamp::from_second(now.as_second() + gap).unwrap();
                if budget.allows(now) {
                    budget = budget.spend(now);
                    issued.push(now);
                }
            }
            let (first, last) = (issued.iter().min().unwrap(), issued.iter().max().unwrap());
            let minutes = usize::try_from(since(*last, *first).as_secs() / 60).unwrap();
            prop_assert!(issued.len() <= 10 + minutes + 1, "{} issues in {minutes} minutes", issued.len());
        }

        #[test]
        fn whoever_waits_for_the_next_time_may_issue(spent in 0u32..30) {
            let now = Timestamp::from_second(1_000_000).unwrap();
            let mut budget = IssuanceBudget::full(now);
            for _ in 0..spent {
                budget = budget.spend(now);
            }
            prop_assert!(budget.allows(budget.next(now)));
        }
    }
}
