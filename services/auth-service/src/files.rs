//! Files that only the token issuer mounts: the signing key and the grants.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use gaia_api::mount::{self, Grants};
use gaia_api::names::key;
use gaia_auth::issue::Signer;
use gaia_auth::sha256;
use gaia_runtime::{Files, LoadedFiles, ServiceFiles};
use zeroize::Zeroizing;

use crate::grants::GrantTable;

/// The loaded signing key and grants.
#[derive(Debug, Default)]
pub struct IssuerFiles {
    signer: ArcSwapOption<Signer>,
    grants: ArcSwapOption<GrantTable>,
    account_key: ArcSwapOption<AccountKey>,
}

/// The key that pseudonymizes accounts in audit lines. It is derived from the signing key, which all replicas share.
pub(crate) struct AccountKey([u8; 32]);

impl std::fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccountKey(..)")
    }
}

impl AccountKey {
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl IssuerFiles {
    /// Returns the signing key; `None` before the first, and while the loaded one may not be used.
    #[must_use]
    pub fn signer(&self) -> Option<Arc<Signer>> {
        self.signer.load_full()
    }

    /// Returns the key that pseudonymizes accounts; `None` before the first signing key.
    pub(crate) fn account_key(&self) -> Option<Arc<AccountKey>> {
        self.account_key.load_full()
    }

    /// Sets the key that pseudonymizes accounts.
    #[cfg(test)]
    pub(crate) fn set_account_key(&self, key: [u8; 32]) {
        self.account_key.store(Some(Arc::new(AccountKey(key))));
    }

    /// Returns the grants; `None` before the first.
    #[must_use]
    pub fn grants(&self) -> Option<Arc<GrantTable>> {
        self.grants.load_full()
    }
}

impl ServiceFiles for IssuerFiles {
    fn names(&self) -> &'static [&'static str] {
        &[key::JWT_SIGNING_KEY, key::GRANTS]
    }

    fn take(&self, files: &Files, in_force: LoadedFiles<'_>) -> Vec<(&'static str, Result<(), String>)> {
        let signer = signer(files, in_force).map(|signer| {
            if self.signer().is_none_or(|old| old.kid() != signer.kid()) {
                tracing::info!(kid = signer.kid(), algorithm = signer.algorithm().as_str(), "JWT signing key loaded");
                self.signer.store(Some(Arc::new(signer)));
                self.account_key.store(account_key(files));
            }
        });
        // The old key stays in use if the new one is rejected, unless it has become unusable itself.
        if let Some(old) = self.signer()
            && let Err(reason) = check_kid(old.kid(), in_force)
        {
            tracing::error!(reason, "JWT signing key unusable; no tokens are issued until a valid one is loaded");
            self.signer.store(None);
        }
        let grants = grants(files).map(|grants| self.grants.store(Some(Arc::new(grants))));
        vec![("signer", signer), ("grants", grants)]
    }

    fn signing_kid(&self) -> Option<String> {
        self.signer().map(|signer| signer.kid().to_owned())
    }
}

fn signer(files: &Files, in_force: LoadedFiles<'_>) -> Result<Signer, String> {
    let signer = Signer::from_pem(files.require(key::JWT_SIGNING_KEY)?).map_err(|error| error.to_string())?;
    check_kid(signer.kid(), in_force)?;
    Ok(signer)
}

fn account_key(files: &Files) -> Option<Arc<AccountKey>> {
    let pem = files.require(key::JWT_SIGNING_KEY).ok()?;
    let mut text = Zeroizing::new(ACCOUNT_KEY_LABEL.to_vec());
    text.extend_from_slice(pem);
    Some(Arc::new(AccountKey(sha256(&text))))
}

/// A key that is unpublished or revoked would sign tokens that no service accepts.
fn check_kid(kid: &str, in_force: LoadedFiles<'_>) -> Result<(), String> {
    if !in_force.keys.is_some_and(|keys| keys.contains(kid)) {
        return Err(format!("kid {kid} is not in the mounted {}", key::JWKS));
    }
    match in_force.denied {
        Some(denied) if denied.check_kid(kid).is_ok() => Ok(()),
        Some(_) => Err(format!("kid {kid} is revoked in the mounted {}", key::DENYLIST)),
        None => Err(format!("no readable {} is loaded, so the key may be revoked", key::DENYLIST)),
    }
}

fn grants(files: &Files) -> Result<GrantTable, String> {
    let text = files.require(key::GRANTS)?;
    mount::read::<Grants>(key::GRANTS, text).map(GrantTable::from).map_err(|error| error.to_string())
}

const ACCOUNT_KEY_LABEL: &[u8] = b"gaia audit account v1 ";
