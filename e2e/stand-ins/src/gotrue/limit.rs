//! The limit of requests for tokens per address.

use std::collections::HashMap;
use std::net::IpAddr;

use jiff::Timestamp;

/// The tokens that each address has left in its bucket.
#[derive(Debug, Default)]
pub(super) struct TokenLimit {
    buckets: HashMap<IpAddr, (f64, Timestamp)>,
}

impl TokenLimit {
    /// Takes one token of `address`, whose bucket gets `per_five_minutes` back; false if there is none.
    pub(super) fn take(&mut self, address: IpAddr, per_five_minutes: u32, now: Timestamp) -> bool {
        let (left, since) = self.buckets.entry(address).or_insert((BURST, now));
        let seconds = now.duration_since(*since).as_secs_f64().max(0.0);
        *left = (*left + seconds * f64::from(per_five_minutes) / 300.0).min(BURST);
        *since = now;
        let has_one = *left >= 1.0;
        if has_one {
            *left -= 1.0;
        }
        has_one
    }
}

/// No setting of GoTrue changes it.
const BURST: f64 = 30.0;

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn each_address_has_a_burst_and_a_rate_of_its_own() {
        let (mut limit, now) = (TokenLimit::default(), Timestamp::UNIX_EPOCH);
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        assert_eq!((0..100).filter(|_| limit.take(one, 150, now)).count(), 30);
        assert!(limit.take(other, 150, now));
        let later = now + SignedDuration::from_secs(10);
        assert_eq!((0..100).filter(|_| limit.take(one, 150, later)).count(), 5);
    }
}
