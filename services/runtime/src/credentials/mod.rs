//! The credential directory: certificates, keys, policy and denylist as mounted, and their reload.
//!
//! In: the files of the mounted Secret and projection. Out: [`snapshot::CredentialsSnapshot`], one immutable set of TLS
//! configurations, verification keys and policy that was loaded as a whole. A file that is missing, invalid or older than
//! the one in use is rejected, reported, and the last valid part stays in use.
//!
//! Read `directory` (atomic read), `watch` (when to read), `parts` (parsing), `reload` (accept or reject), `snapshot` (the
//! result), then `peer`, `presented` and `verifier` (client certificates) and `key_file` (the shared API key).

pub(crate) mod directory;
pub(crate) mod key_file;
pub(crate) mod parts;
pub(crate) mod peer;
pub(crate) mod presented;
pub(crate) mod reload;
pub(crate) mod snapshot;
pub(crate) mod verifier;
pub(crate) mod watch;
