//! Distribution: published material in the selected namespaces.
//!
//! In: the keyrings and the namespaces that the TrustDomain selects. Out: the trust bundle, JWK set and grants of each
//! namespace as they should be, and what cannot be written there and why. A namespace whose own rules refuse a write is
//! excluded from a rotation's condition after a deadline, so that it costs no other namespace.
//!
//! Read `projections`, `namespaces`, then `grants`.

pub(crate) mod grants;
pub(crate) mod namespaces;
pub(crate) mod projections;
