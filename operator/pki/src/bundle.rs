//! Trust bundles and the hashes that name things.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;

use crate::x509::certificate::Certificate;

/// The PEM bundle of `roots`: one block each in the given order, a certificate that occurs twice only at its first
/// place, without comments or blank lines (RFC 7468). An empty iterator gives an empty text.
///
/// The caller decides the order (the active root first); the same certificates in the same order give the same bytes.
#[must_use]
pub fn bundle_pem<'a>(roots: impl IntoIterator<Item = &'a Certificate>) -> String {
    let mut seen = BTreeSet::new();
    roots.into_iter().filter(|root| seen.insert(root.der())).map(Certificate::to_pem).collect()
}

/// The SHA-256 of `data` as 64 lowercase hex digits.
#[must_use]
pub fn sha256_hex(data: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, data).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_is_lowercase_hex() {
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn no_roots_make_an_empty_bundle() {
        assert_eq!(bundle_pem([]), "");
    }
}
