//! Metrics, the audit log and their limits.
//!
//! In: authorization decisions, failed handshakes, signs-ins, loads of credentials, refusals by a limit. Out: Prometheus
//! metrics, and JSON lines in the audit log. Lines that a client can cause at will are sampled per source.
//!
//! Read `metrics`, then `audit_log` (the writer and its queue), `audit_metrics` (decisions to both), `rate` (the sample of a
//! source) and `sign_in_audit` (failed sign-ins, shared by auth-service and web-service).

pub(crate) mod audit_log;
pub(crate) mod audit_metrics;
pub(crate) mod metrics;
pub mod rate;
pub mod sign_in_audit;
