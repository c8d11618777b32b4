//! Sessions of users, stored in encrypted cookies of their browsers only.
//!
//! In: cookies. Out: the session with its access token, refreshed when it is due; or none. Read `session` (contents),
//! `session_keys` and `seal` (encryption, with key rotation), `cookie` (attributes), `refresh` (one request to auth-service per
//! session at a time), `pkce` (sign-in with a provider, RFC 7636), `known_client` (browsers that signed in before) and `accepted`
//! (which credential a service accepted last).

pub(crate) mod accepted;
pub(crate) mod cookie;
pub(crate) mod known_client;
pub(crate) mod pkce;
pub(crate) mod refresh;
pub mod seal;
pub(crate) mod session;
pub(crate) mod session_keys;
