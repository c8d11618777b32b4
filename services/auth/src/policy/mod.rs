//! Policy: which caller may do what, under which authentication mode.
//!
//! In: `policy.json`, `api-keys.json` and `denylist.json` as loaded, and a request's verified credentials. Out: the principal
//! with its scopes, or the reason for a refusal. No I/O; the time is an argument.
//!
//! Read `mode` (APIKeyOnly, Permissive, Strict, JWTOnly: one table), `rules` (all parts together), `callers` (service
//! callers and their scopes), and `api_key` (keys by hash).

pub(crate) mod api_key;
pub(crate) mod callers;
pub(crate) mod mode;
pub(crate) mod rules;
