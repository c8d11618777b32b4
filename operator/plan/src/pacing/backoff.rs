//! Retrying what failed: after 1 s, doubling to a cap.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The failed attempts at one object. Kept in memory only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failures {
    /// Attempts since the last success.
    pub attempts: u32,
    /// The time when the last one failed.
    pub last: Timestamp,
    /// The generation of the spec that was tried; another one is tried at once.
    pub generation: Option<i64>,
    /// The reason of the condition.
    pub reason: &'static str,
    /// The cause, without secrets.
    pub message: String,
}

impl Failures {
    /// Returns the time when to try again: 1 s after the first failure, doubling to `cap`.
    #[must_use]
    pub fn retry_at(&self, cap: Duration) -> Timestamp {
        let doubled = Duration::from_secs(1).saturating_mul(1 << self.attempts.saturating_sub(1).min(20));
        saturating_add(self.last, doubled.min(cap.max(Duration::from_secs(1))))
    }

    /// Returns true if the next attempt must wait. A last failure in the future means that the clock was set back;
    /// nothing waits then.
    #[must_use]
    pub fn holds_back(&self, generation: Option<i64>, cap: Duration, now: Timestamp) -> bool {
        self.generation == generation && self.last <= now && now < self.retry_at(cap)
    }
}

/// `time + span`, at most the last timestamp there is.
#[must_use]
pub fn saturating_add(time: Timestamp, span: Duration) -> Timestamp {
    SignedDuration::try_from(span).ok().and_then(|span| time.checked_add(span).ok()).unwrap_or(Timestamp::MAX)
}

/// `time - span`, at least the first timestamp there is.
#[must_use]
pub fn saturating_sub(time: Timestamp, span: Duration) -> Timestamp {
    SignedDuration::try_from(span).ok().and_then(|span| time.checked_sub(span).ok()).unwrap_or(Timestamp::MIN)
}

/// The length from `earlier` to `later`; zero if it is negative.
#[must_use]
pub fn since(later: Timestamp, earlier: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn failures(attempts: u32) -> Failures {
        Failures { attempts, last: at(1000), generation: Some(1), reason: "WriteFailed", message: String::new() }
    }

    #[test]
    fn retries_double_from_one_second_to_the_cap() {
        let cap = Duration::from_secs(600);
        let delays: Vec<i64> = (1..=12).map(|n| failures(n).retry_at(cap).as_second() - 1000).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
    }

    #[test]
    fn a_changed_spec_is_tried_at_once() {
        let cap = Duration::from_secs(600);
        assert!(failures(5).holds_back(Some(1), cap, at(1010)));
        assert!(!failures(5).holds_back(Some(2), cap, at(1010)));
        assert!(!failures(5).holds_back(Some(1), cap, at(1016)));
    }
}
