//! X.509 certificates (RFC 5280) as Gaia issues and accepts them.
//!
//! In: DER or PEM. Out: [`certificate::Certificate`], parsed once with its extensions, and typed errors that name the field.
//! No network, file or clock.
//!
//! Read `certificate`, `extensions`, `key_usage` and `constraints`, then `path` (verification up to a trust anchor), `name` and
//! `validity` (what may be requested), `serial`, and the encodings `pem` and `der`.

pub(crate) mod certificate;
pub(crate) mod constraints;
pub(crate) mod der;
pub(crate) mod extensions;
pub(crate) mod key_usage;
pub(crate) mod name;
pub(crate) mod path;
pub(crate) mod pem;
pub(crate) mod serial;
pub(crate) mod validity;
