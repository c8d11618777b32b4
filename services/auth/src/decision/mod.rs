//! One decision per request, as a tower layer.
//!
//! In: a request with its connection, and the route's [`Access`](access::Access). Out: the request with its principal,
//! or the response that refuses it; and one [`Decision`](authenticator::Decision) for metrics, audit log and usage report.
//!
//! Read `authenticator` (the order of the checks), `layer` (the tower layer), and `extractor` (the principal as an argument of
//! a handler).

pub(crate) mod access;
pub(crate) mod authenticator;
pub(crate) mod extractor;
pub(crate) mod layer;
