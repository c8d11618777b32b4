//! The first steps of a TrustDomain: its names, its first keyrings, and a bring-your-own CA.
//!
//! In: the TrustDomain's spec and what exists already. Out: requests for the first generations, or the reason why there can be
//! none. `names` finds TrustDomains that would write the same objects, `epochs` finds restored copies, `external_ca` checks
//! `spec.ca.existingSecretRef`, and `desired` requests the first CA and the first signing key.

pub(crate) mod desired;
pub(crate) mod epochs;
pub(crate) mod external_ca;
pub(crate) mod names;
