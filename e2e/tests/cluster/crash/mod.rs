//! The operator is killed, or its API server misbehaves, in the middle of its work.

mod abort;
mod distrust;
mod restart;
mod rotation;
mod storm;
