//! Primitives for work and results that concurrent requests share.
//!
//! In: a key or a source, and work. Out: a shared result, a slot, or a cached value, each within a bound.
//!
//! Read `single_flight` (one call for equal requests), `fair_queue` (sources served in turn), `turns` (slots handed out by
//! such a queue), `shares`
//! (units of which each holder may use a share), `memory_budget` (bytes, of which each subject waits for its share), then
//! `recent` (a bounded cache).

pub(crate) mod fair_queue;
pub(crate) mod memory_budget;
pub(crate) mod recent;
pub(crate) mod shares;
pub(crate) mod single_flight;
pub(crate) mod turns;
