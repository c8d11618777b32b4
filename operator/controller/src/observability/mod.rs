//! Metrics and events.
//!
//! In: results of plans, executions and probes. Out: Prometheus metrics, and Kubernetes events (events.k8s.io/v1) in a queue of
//! bounded size, shared by namespace. Private keys never reach them: their inputs are texts of `gaia-plan`.

pub(crate) mod events;
pub(crate) mod metrics;
