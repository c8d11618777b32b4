//! Fuzz targets: each takes any bytes and panics on a wrong result.
//!
//! A target compares a parser or the decision with an oracle that was written separately: exactly the inputs that
//! a second, slower implementation of the same rules accepts are accepted. `make fuzz` runs each under libFuzzer; the tests run the
//! committed corpora, `fuzz/corpus/<target>`, so that every target stays usable.
#![cfg(any(test, feature = "libfuzzer"))]

mod claims;
mod decision;
mod files;
/// The gateway's own file: as a dependency, a whole server would be compiled for the one function.
#[path = "../../services/gateway/src/path.rs"]
pub mod gateway_path;
mod oracle;
mod path;
mod presented;
mod scene;
mod token;

/// One target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, also that of its corpus.
    pub name: &'static str,
    /// The function; it panics on a wrong result.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "bearer", run: presented::bearer },
    Target { name: "header", run: token::header },
    Target { name: "claims", run: claims::claims },
    Target { name: "jwks", run: files::jwks },
    Target { name: "certificates", run: files::certificates },
    Target { name: "api-keys", run: files::api_keys },
    Target { name: "policy", run: files::policy },
    Target { name: "decision", run: decision::decision },
    Target { name: "path", run: path::path },
];

/// The target of that name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

#[cfg(test)]
mod tests;
