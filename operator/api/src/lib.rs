//! Gaia's API: custom resources, conditions, object names and mounted file schemas.
//!
//! This crate holds every format that two programs of Gaia share: the operator writes the files that [`mount`]
//! describes, services read them. The custom resource types need feature `crd`; the rest is free of Kubernetes crates.

pub mod clock;
#[cfg(feature = "crd")]
pub mod crd;
pub mod duration;
pub mod identity;
pub mod ledger;
pub mod logging;
pub mod mount;
pub mod names;
pub mod process;
pub mod spiffe;
pub mod sync;

pub use clock::{Clock, ManualClock, SystemClock};
pub use duration::Span;
pub use spiffe::SpiffeId;
