//! Keyrings: the generations of a TrustDomain's CA and of its signing keys, as stored.
//!
//! In: a ring Secret's parsed metadata. Out: the ring, and the transitions that a rotation may make on it. A keyring
//! ("ring" in the API) holds every generation with its state and the times of its steps; private keys are not part of it.
//!
//! Read `ring` (generations and states), `transition` (the only changes that are allowed), `handled` (requests by annotation
//! that were answered), `epoch` (protection against older copies of a ring), then `leaked` (keys that must not sign again).

pub mod epoch;
pub mod handled;
pub mod leaked;
pub mod ring;
pub mod transition;
