//! Service tokens: strict verification (RFC 9068 access tokens under the rules of RFC 8725).
//!
//! The rules are numbered here as the design numbers them: 1 (one Bearer credential) is in `presented`, 2-4 (shape,
//! closed header, `kid`) in `header`, 5-6 (keys bound to issuer and algorithm) in `keys`, 7-12 and 14 (signature,
//! `typ`, claims, times, repeated names, binding, denylist) in `service_token`, and 13 (scope and caller policy) in
//! [`Rules`](crate::Rules).

mod header;
mod keys;
mod service_token;

pub use header::Unverified;
pub use keys::{Algorithm, KeySet, KeySetError};
pub use service_token::{MAX_CLOCK_SKEW_SECONDS, SERVICE_TOKEN_TYPE, ServiceToken, TokenRules};
