//! Wake-ups: which object is planned when.
//!
//! In: dirty keys from watches, probes and executed actions, and the time that a plan asks for. Out: keys for the
//! reconciler, and instances for the prober. `pacer` delays certificates that are re-issued in a rotation to the rate in
//! `spec.maxReissuePerSecond`.

pub(crate) mod pacer;
pub(crate) mod scheduler;
