//! Faults between the operator and its API server: a proxy that injects them, and a clock that the test sets.

pub mod fake_time;
pub mod fault;
pub mod proxy;
