//! Random bytes.

use anyhow::{Context as _, Result};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};

/// Cryptographically random bytes.
///
/// # Errors
/// If the system has none.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok().context("the system has no entropy")?;
    Ok(bytes)
}
