//! Files of the working tree.

use std::path::PathBuf;

/// The CustomResourceDefinitions.
pub fn crds() -> String {
    let dir: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "crds"].iter().collect();
    dir.to_str().unwrap().to_owned()
}
