//! Rates and delays: how often and how many.
//!
//! In: failures, requests and the time. Out: the time of the next attempt (`backoff`), the certificates that may be issued now
//! (`budget`, `spec.maxReissuePerSecond`), and each tenant's part of a bounded total (`shares`).

pub mod backoff;
pub mod budget;
pub mod shares;
