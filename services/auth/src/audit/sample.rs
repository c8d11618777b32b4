//! Sampling of audit lines that unauthenticated clients can cause: a limited number per source, so that a flood from
//! one source does not hide others.

use std::collections::HashMap;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use crate::site;

/// Windows of the lines from unauthenticated sources: ten lines of each in ten seconds.
#[derive(Debug, Default)]
pub struct Sample {
    sources: HashMap<Option<IpAddr>, Window>,
    /// Shared window of all sources beyond [`MAX_SOURCES`].
    others: Window,
}

/// The lines of one source within [`LENGTH`].
#[derive(Debug, Default)]
struct Window {
    start: Timestamp,
    written: u64,
    /// Number of lines skipped since the last written one.
    skipped: u64,
}

impl Sample {
    /// Returns the number of lines skipped since the last one of this source, or `None` if this line is skipped too.
    pub fn admit(&mut self, source: Option<IpAddr>, time: Timestamp) -> Option<u64> {
        let source = source.map(|address| site(address.to_canonical()));
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            self.sources.retain(|_, window| window.holds(time));
        }
        let window = if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            &mut self.others
        } else {
            self.sources.entry(source).or_default()
        };
        window.admit(time)
    }
}

impl Window {
    fn holds(&self, time: Timestamp) -> bool {
        // A clock that is set back starts a new window.
        (SignedDuration::ZERO..LENGTH).contains(&time.duration_since(self.start))
    }

    fn admit(&mut self, time: Timestamp) -> Option<u64> {
        if !self.holds(time) {
            (self.start, self.written) = (time, 0);
        }
        if self.written < LINES {
            self.written += 1;
            Some(std::mem::take(&mut self.skipped))
        } else {
            self.skipped += 1;
            None
        }
    }
}

const LINES: u64 = 10;
const LENGTH: SignedDuration = SignedDuration::from_secs(10);
const MAX_SOURCES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: usize) -> Option<IpAddr> {
        Some(std::net::Ipv4Addr::from(u32::try_from(number).unwrap()).into())
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    /// Kind: a flood from one source, and from fifty, next to another source.
    #[test]
    fn a_flood_of_some_sources_hides_no_other_source() {
        let mut sample = Sample::default();
        for flooding in 0..50 {
            let written = (0..1000).filter(|_| sample.admit(source(flooding), now()).is_some()).count();
            assert_eq!(written, 10);
        }
        assert_eq!(sample.admit(source(99), now()), Some(0));
        assert_eq!(sample.admit(source(0), now() + LENGTH), Some(990), "skipped lines are counted");
        assert_eq!(sample.admit(None, now()), Some(0), "and a source that is not known is one of its own");
    }

    #[test]
    fn memory_is_bounded_and_addresses_of_one_host_are_one_source() {
        let mut sample = Sample::default();
        for number in 0..2 * MAX_SOURCES {
            sample.admit(source(number), now());
        }
        assert_eq!(sample.sources.len(), MAX_SOURCES);
        assert!(sample.admit(source(usize::from(u16::MAX)), now() + LENGTH).is_some(), "those of before are forgotten");
        assert_eq!(sample.sources.len(), 1);
        let host = |last: u16| Some(IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]));
        let written = (0..100).filter(|last| sample.admit(host(*last), now()).is_some()).count();
        assert_eq!(written, 10);
    }
}
