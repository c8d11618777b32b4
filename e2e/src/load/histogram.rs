//! Durations of very many requests in little memory.

use std::time::Duration;

/// Counts of durations, in classes that are about three per cent wide.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub(super) fn add(&mut self, time: Duration) {
        let class = class_of(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        if self.counts.len() <= class {
            self.counts.resize(class + 1, 0);
        }
        self.counts[class] += 1;
        self.total += 1;
    }

    /// The duration that this share of all, in per cent, did not exceed; zero if there are none.
    pub(super) fn percentile(&self, percent: u64) -> Duration {
        let wanted = (self.total * percent).div_ceil(100);
        let mut seen = 0;
        for (class, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return Duration::from_micros(end_of(class));
            }
        }
        Duration::ZERO
    }
}

/// Up to `WIDTH` each value is its own class; from there on each power of two is divided into `WIDTH` classes.
fn class_of(micros: u64) -> usize {
    let octave = (u64::BITS - micros.leading_zeros()).saturating_sub(WIDTH_BITS + 1);
    // The top `WIDTH_BITS + 1` bits, of which the highest is always set beyond the first octave.
    let top = micros >> octave;
    usize::try_from(u64::from(octave) * WIDTH + top).unwrap_or(usize::MAX)
}

/// The largest value of a class.
fn end_of(class: usize) -> u64 {
    let class = class as u64;
    if class < 2 * WIDTH {
        return class;
    }
    let octave = class / WIDTH - 1;
    let top = class - octave * WIDTH;
    ((top + 1) << octave) - 1
}

const WIDTH_BITS: u32 = 5;
const WIDTH: u64 = 1 << WIDTH_BITS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_within_three_per_cent_below_the_end_of_its_class() {
        let mut before = 0;
        for micros in (0..5_000).chain((5_000..30_000_000).step_by(7_919)) {
            let (class, end) = (class_of(micros), end_of(class_of(micros)));
            assert!(class >= before, "classes rise with time: {micros}");
            assert!(end >= micros && end <= micros + micros / 32 + 1, "{micros} is in a class that ends at {end}");
            before = class;
        }
    }

    #[test]
    fn percentiles_are_those_of_all_times_together() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(50), Duration::ZERO);
        for millis in 1..=100 {
            histogram.add(Duration::from_millis(millis));
        }
        for (percent, millis) in [(50, 50.0), (99, 99.0), (100, 100.0)] {
            let found = histogram.percentile(percent).as_secs_f64() * 1000.0;
            assert!((found / millis - 1.0).abs() < 0.04, "p{percent} is {found} ms, not {millis} ms");
        }
    }
}
