//! Gaia's API: custom resources, conditions, object names and mounted file schemas.
//!
//! Everything that two programs of Gaia must agree on is here and nowhere else: the operator writes what [`mount`]
//! describes, services read it. The custom resource types need feature `crd`; the rest is free of Kubernetes crates.

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

pub use clock::{Clock, ManualClock, SystemClock};
pub use duration::Span;
pub use spiffe::SpiffeId;
