//! Rate limits per requester.

use std::fmt;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use axum::response::Response;
use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use http::HeaderMap;
use http::header::RETRY_AFTER;

/// A rate limit for each of many requesters. They share a fixed number of cells by an unpredictable hash: memory is
/// bounded, and two requesters in one cell share its limit.
pub struct Limit<C: Clock = MonotonicClock> {
    limiter: RateLimiter<u16, HashMapStateStore<u16>, C, NoOpMiddleware<C::Instant>>,
    hashes: RandomState,
}

impl<C: Clock> fmt::Debug for Limit<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limit").field("cells", &self.limiter.len()).finish_non_exhaustive()
    }
}

/// Requests per second and burst, written as `50:200`, or `0` for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// No limit.
    Unlimited,
    /// A limit.
    Limited {
        /// Requests per second.
        per_second: NonZeroU32,
        /// Burst.
        burst: NonZeroU32,
    },
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (per_second, burst) = match text.split_once(':') {
            _ if text == "0" => return Ok(Self::Unlimited),
            Some((per_second, burst)) => (per_second.parse(), burst.parse()),
            None => (text.parse(), text.parse()),
        };
        match (per_second, burst) {
            (Ok(per_second), Ok(burst)) => Ok(Self::Limited { per_second, burst }),
            _ => Err("must be 0 for no limit, or requests per second and burst, such as 50:200".to_owned()),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("0"),
            Self::Limited { per_second, burst } => write!(f, "{per_second}:{burst}"),
        }
    }
}

impl Rate {
    /// Returns the limit of this rate; none if it is unlimited.
    #[must_use]
    pub fn limit(self) -> Option<Limit> {
        match self {
            Self::Unlimited => None,
            Self::Limited { per_second, burst } => Some(Limit::new(per_second, burst)),
        }
    }
}

impl Limit {
    /// Creates a limit of requests per second with a burst.
    #[must_use]
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        Self::with(Quota::per_second(per_second).allow_burst(burst), MonotonicClock)
    }

    /// Creates a limit of one request per `period` with a burst.
    #[must_use]
    pub fn every(period: Duration, burst: NonZeroU32) -> Self {
        let quota = Quota::with_period(period).unwrap_or(Quota::per_second(NonZeroU32::MIN));
        Self::with(quota.allow_burst(burst), MonotonicClock)
    }
}

impl<C: Clock> Limit<C> {
    fn with(quota: Quota, clock: C) -> Self {
        let limiter = RateLimiter::new(quota, HashMapStateStore::default(), clock);
        Self { limiter, hashes: RandomState::new() }
    }

    /// Counts a request of `asker`.
    ///
    /// # Errors
    /// The time until the next request is permitted, if the limit is exceeded.
    pub fn check(&self, asker: &impl Hash) -> Result<(), Duration> {
        let cell = self.hashes.hash_one(asker).to_be_bytes();
        let cell = u16::from_be_bytes([cell[0], cell[1]]);
        self.limiter.check_key(&cell).map_err(|early| early.wait_time_from(self.limiter.clock().now()))
    }
}

/// Converts a time to `Retry-After`: whole seconds, at least one.
#[must_use]
pub fn retry_after(wait: Duration) -> u64 {
    wait.as_millis().div_ceil(1000).max(1).try_into().unwrap_or(u64::MAX)
}

/// Adds `Retry-After` to the response, if `seconds` is set.
#[must_use]
pub fn when_to_retry(mut response: Response, seconds: Option<u64>) -> Response {
    if let Some(seconds) = seconds {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// Returns the seconds of `Retry-After`; none if the header is missing or contains a date.
#[must_use]
pub fn retry_after_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn limit(clock: &FakeRelativeClock) -> Limit<FakeRelativeClock> {
        let quota = Quota::per_second(NonZeroU32::new(20).unwrap()).allow_burst(NonZeroU32::new(100).unwrap());
        Limit::with(quota, clock.clone())
    }

    #[test]
    fn after_a_burst_each_asker_goes_on_at_its_own_pace() {
        let clock = FakeRelativeClock::default();
        let limit = limit(&clock);
        let passed = |asker: &str| (0..1000).take_while(|_| limit.check(&asker).is_ok()).count();
        assert_eq!(passed("gateway"), 100);
        assert_eq!(passed("chat"), 100, "one that asks too often takes nothing from another");
        let wait = limit.check(&"gateway").unwrap_err();
        assert!(wait <= Duration::from_millis(50), "{wait:?}");
        assert_eq!(retry_after(wait), 1);
        clock.advance(Duration::from_secs(2));
        assert_eq!(passed("gateway"), 40);
    }

    #[test]
    fn a_flood_of_askers_takes_a_bounded_number_of_cells() {
        let limit = limit(&FakeRelativeClock::default());
        for asker in 0..200_000 {
            let _ = limit.check(&asker);
        }
        assert!(limit.limiter.len() <= 65_536);
        assert_eq!(retry_after(Duration::from_millis(2001)), 3);
    }

    #[test]
    fn when_to_retry_is_said_and_read_in_seconds() {
        let said = |seconds| retry_after_of(when_to_retry(Response::default(), seconds).headers());
        assert_eq!((said(Some(7)), said(None)), (Some(7), None));
        let read = |text: &'static str| {
            retry_after_of(&HeaderMap::from_iter([(RETRY_AFTER, http::HeaderValue::from_static(text))]))
        };
        assert_eq!((read("30"), read("soon"), read("Fri, 15 Jan 2027 09:00:00 GMT")), (Some(30), None, None));
    }

    #[test]
    fn a_rate_reads_back_as_it_was_written() {
        for (text, written) in [("50:200", "50:200"), ("20", "20:20"), ("0", "0")] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), written);
        }
        for bad in ["", "0:5", "5:0", "-1", "fast", "1:2:3", "0.5"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }
}
