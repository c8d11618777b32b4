//! What only the token issuer mounts: the signing key and the grants.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use gaia_api::mount::{self, Grants};
use gaia_api::names::key;
use gaia_auth::issue::Signer;
use gaia_auth::jwt::KeySet;
use gaia_runtime::{Files, ServiceFiles};

use crate::grants::GrantTable;

/// The signing key and the grants in force.
#[derive(Debug, Default)]
pub struct IssuerFiles {
    signer: ArcSwapOption<Signer>,
    grants: ArcSwapOption<GrantTable>,
}

impl IssuerFiles {
    /// The signing key; `None` before the first.
    #[must_use]
    pub fn signer(&self) -> Option<Arc<Signer>> {
        self.signer.load_full()
    }

    /// The grants; `None` before the first.
    #[must_use]
    pub fn grants(&self) -> Option<Arc<GrantTable>> {
        self.grants.load_full()
    }
}

impl ServiceFiles for IssuerFiles {
    fn names(&self) -> &'static [&'static str] {
        &[key::JWT_SIGNING_KEY, key::GRANTS]
    }

    fn take(&self, files: &Files, keys: Option<&KeySet>) -> Vec<(&'static str, Result<(), String>)> {
        let signer = signer(files, keys).map(|signer| {
            if self.signer().is_none_or(|old| old.kid() != signer.kid()) {
                tracing::info!(kid = signer.kid(), algorithm = signer.algorithm().as_str(), "signing key taken");
                self.signer.store(Some(Arc::new(signer)));
            }
        });
        let grants = grants(files).map(|grants| self.grants.store(Some(Arc::new(grants))));
        vec![("signer", signer), ("grants", grants)]
    }
}

/// A key whose public half is not published yet would make tokens that nobody accepts.
fn signer(files: &Files, keys: Option<&KeySet>) -> Result<Signer, String> {
    let signer = Signer::from_pem(files.require(key::JWT_SIGNING_KEY)?).map_err(|error| error.to_string())?;
    match keys {
        Some(keys) if keys.contains(signer.kid()) => Ok(signer),
        _ => Err(format!("its kid {} is not in the mounted {}", signer.kid(), key::JWKS)),
    }
}

fn grants(files: &Files) -> Result<GrantTable, String> {
    let text = files.require(key::GRANTS)?;
    mount::read::<Grants>(key::GRANTS, text).map(GrantTable::from).map_err(|error| error.to_string())
}
