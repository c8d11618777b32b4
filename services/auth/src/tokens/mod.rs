//! Strict verification of tokens (RFC 9068 access tokens under the rules of RFC 8725).
//!
//! The rules are numbered as in the tests: 1 (one Bearer credential) is in `request::extract_credentials`, 2-4 (shape, closed header,
//! `kid`) in `header`, 5-6 (keys bound to issuer and algorithm) in `keys`, 7, 10-12 (signature, times, repeated names,
//! binding) in `claims`, 8-9 and 14 (`typ`, claims, denylist) in `service_token` and `user_token`, and 13 (scope and
//! caller policy) in [`Rules`](crate::Rules).

pub(crate) mod cache;
mod claims;
pub(crate) mod external_keys;
mod header;
mod held;
mod keys;
mod roca;
pub(crate) mod scope;
mod service_token;
pub(crate) mod strict_json;
mod user_token;

pub use claims::MAX_CLOCK_SKEW_SECONDS;
pub use header::Unverified;
pub(crate) use header::{HeaderRules, Parts};
pub use held::HeldToken;
pub use keys::{Algorithm, KeySet, KeySetError};
pub use service_token::{MAX_DELEGATED_SECONDS, SERVICE_TOKEN_TYPE, ServiceToken, TokenRules};
pub use user_token::{UserToken, UserTokenRules};
