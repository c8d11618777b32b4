//! Execution of plans.
//!
//! In: actions of `gaia-plan`. Out: objects on the API server, and the dirty keys that follow. `executor` applies one
//! action with the resourceVersion it was planned on, `issue` generates keys and signs certificates, and `ca_cache` holds the
//! CA keys that are in use, in memory only.

pub(crate) mod ca_cache;
pub(crate) mod executor;
pub(crate) mod issue;
