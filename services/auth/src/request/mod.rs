//! A request's credentials, and the response to a request that is refused.
//!
//! In: headers. Out: the extracted credentials, not verified yet; or a [`Refusal`](refusal::Refusal): status, problem
//! document (RFC 9457), `WWW-Authenticate`, and a reason for metrics and the audit log.
//!
//! Read `extract_credentials`, `client` (the user that a peer forwards), `refusal`, then `notice` (deprecation headers of API keys, RFC 9745 and RFC 8594).

pub(crate) mod client;
pub(crate) mod extract_credentials;
pub(crate) mod notice;
pub(crate) mod refusal;
