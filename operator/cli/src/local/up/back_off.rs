//! The pause before a program that has ended is started again.

use std::time::Duration;

/// Counts the ends of one program.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BackOff {
    ends: u32,
}

impl BackOff {
    /// The pause after one more end; `ran` is the time since its last start. After a minute
    /// without an end the count is zero again.
    pub(super) fn after(&mut self, ran: Duration) -> Duration {
        if ran >= STABLE {
            self.ends = 0;
        }
        let pause = FIRST.saturating_mul(1 << self.ends.min(10)).min(LONGEST);
        self.ends += 1;
        pause
    }
}

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
const STABLE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_a_limit_and_ends_with_a_stable_minute() {
        let mut back_off = BackOff::default();
        let pauses: Vec<u64> = (0..7).map(|_| back_off.after(Duration::from_secs(1)).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(back_off.after(STABLE).as_secs(), 1);
        let mut back_off = BackOff { ends: u32::MAX - 1 };
        assert_eq!(back_off.after(Duration::ZERO), LONGEST);
    }
}
