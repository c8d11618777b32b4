//! Calls to other services in the caller's own name or on behalf of a user.
//!
//! In: a request, the target service, and the user's token or API key if there is one. Out: the target's response. `caller`
//! attaches the credentials, `tokens` keeps issued tokens until their renewal is due, `exchange` is the protocol of
//! auth-service (RFC 8693).

pub(crate) mod caller;
pub(crate) mod exchange;
pub(crate) mod tokens;
pub mod wire;
