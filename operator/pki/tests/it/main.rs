//! Acceptance of the certificates by peers: by the `openssl` program, and by webpki.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests, which clippy.toml lets do both")]

mod algorithms;
mod brought;
mod jwks;
mod keys;
mod openssl;
mod peers;
mod profile;
mod refused;
mod samples;
