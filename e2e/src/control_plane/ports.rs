//! Free ports on loopback.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::dirs;

/// `N` different free ports, which this function does not return again for a long time: a killed server
/// finds its port free when it restarts.
///
/// # Errors
/// If there is no port left, or nothing can be written in the cache.
pub fn free<const N: usize>() -> Result<[u16; N]> {
    let dir = dirs::cache()?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let path = dir.join("next-port");
    reserve(&path).with_context(|| format!("asking {} for a port", path.display()))
}

fn reserve<const N: usize>(path: &Path) -> Result<[u16; N]> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    // The lock is released when the file is closed.
    file.lock()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let mut next = text.trim().parse().unwrap_or(PORTS.start);
    let mut ports = [0; N];
    for port in &mut ports {
        *port = take(&mut next)?;
    }
    file.rewind()?;
    file.write_all(format!("{next:5}\n").as_bytes())?;
    Ok(ports)
}

fn take(next: &mut u16) -> Result<u16> {
    for _ in PORTS {
        let port = if PORTS.contains(next) { *next } else { PORTS.start };
        *next = port + 1;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port on loopback")
}

/// Outside of the system's ephemeral ports, which are also the client's ends of connections (from 32768), and of
/// Kubernetes' node ports (from 30000).
const PORTS: Range<u16> = 20_000..30_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_comes_twice_nor_one_that_is_in_use() {
        let [first, second] = free().unwrap();
        let [third] = free().unwrap();
        assert!(first != second && second != third && first != third);
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, third)).unwrap();
        assert_ne!(take(&mut third.clone()).unwrap(), third);
        drop(server);
        assert!(PORTS.contains(&take(&mut PORTS.end.clone()).unwrap()), "after the last comes the first");
    }
}
