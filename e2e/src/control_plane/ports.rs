//! Free ports on loopback.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result};

/// `N` different ports that nobody listens on. Somebody else may take one before its use: whoever starts a server on
/// one must be ready to try again.
///
/// # Errors
/// If the system has no port left.
pub fn free<const N: usize>() -> Result<[u16; N]> {
    // All are held until all are known, so no port comes twice.
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on loopback")?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}
