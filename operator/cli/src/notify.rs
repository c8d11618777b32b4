//! Messages to the service manager (sd_notify of systemd): ready, a line of status, and the watchdog.
//!
//! Without `NOTIFY_SOCKET` in the environment every message is a no-op, so that callers need no condition.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// A connection to the service manager that started this process.
#[derive(Debug)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The service manager of this process: `NOTIFY_SOCKET`, and the watchdog of `WATCHDOG_USEC` and `WATCHDOG_PID`.
    ///
    /// # Errors
    /// If the socket's address is not one of systemd: neither an absolute path nor an abstract name.
    pub fn of_process() -> io::Result<Self> {
        Self::from_variables(
            |name| std::env::var_os(name).map(std::ffi::OsString::into_encoded_bytes),
            std::process::id(),
        )
    }

    /// As [`ServiceManager::of_process`], from other variables and for another process id.
    ///
    /// # Errors
    /// As [`ServiceManager::of_process`].
    pub fn from_variables(variable: impl Fn(&str) -> Option<Vec<u8>>, pid: u32) -> io::Result<Self> {
        let socket = match variable("NOTIFY_SOCKET").filter(|name| !name.is_empty()) {
            None => None,
            Some(name) => Some((UnixDatagram::unbound()?, address(&name)?)),
        };
        let number = |name| variable(name).and_then(|text| String::from_utf8(text).ok()?.parse::<u64>().ok());
        let is_ours = variable("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(u64::from(pid));
        let watchdog = number("WATCHDOG_USEC").filter(|microseconds| is_ours && *microseconds > 0);
        Ok(Self { socket, watchdog: watchdog.map(Duration::from_micros) })
    }

    /// The interval at which [`ServiceManager::alive`] has to be called: a third of the watchdog's time, so that a late
    /// one does not end the process. None: no watchdog is set.
    #[must_use]
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|time| time / 3)
    }

    /// Reports that the start is complete, with a line of status.
    ///
    /// # Errors
    /// If the service manager does not accept the message.
    pub fn ready(&self, status: &str) -> io::Result<()> {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)))
    }

    /// Reports a line of status, which `systemctl status` shows.
    ///
    /// # Errors
    /// As [`ServiceManager::ready`].
    pub fn status(&self, status: &str) -> io::Result<()> {
        self.send(&format!("STATUS={}", one_line(status)))
    }

    /// Reports to the watchdog that the process works.
    ///
    /// # Errors
    /// As [`ServiceManager::ready`].
    pub fn alive(&self) -> io::Result<()> {
        self.send("WATCHDOG=1")
    }

    /// Reports that the process is about to end.
    ///
    /// # Errors
    /// As [`ServiceManager::ready`].
    pub fn stopping(&self) -> io::Result<()> {
        self.send("STOPPING=1")
    }

    fn send(&self, message: &str) -> io::Result<()> {
        match &self.socket {
            None => Ok(()),
            Some((socket, address)) => socket.send_to_addr(message.as_bytes(), address).map(drop),
        }
    }
}

/// The address in `NOTIFY_SOCKET`: an absolute path, or `@` and a name in the abstract namespace (sd_notify(3)).
fn address(name: &[u8]) -> io::Result<SocketAddr> {
    match name {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
        [b'/', ..] => SocketAddr::from_pathname(OsStr::from_bytes(name)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "NOTIFY_SOCKET is neither a path nor an abstract name")),
    }
}

/// The text without line breaks: a line of a message is an assignment of its own.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(pairs: &[(&str, &str)]) -> io::Result<ServiceManager> {
        let find = |name: &str| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.as_bytes().to_vec());
        ServiceManager::from_variables(find, 7)
    }

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn messages_arrive_at_a_socket_with_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = manager(&[("NOTIFY_SOCKET", path.to_str().unwrap())]).unwrap();
        manager.ready("5 services\nWATCHDOG=trigger").unwrap();
        assert_eq!(received(&socket), "READY=1\nSTATUS=5 services WATCHDOG=trigger");
        manager.status("waiting").unwrap();
        manager.alive().unwrap();
        manager.stopping().unwrap();
        assert_eq!(
            [received(&socket), received(&socket), received(&socket)],
            ["STATUS=waiting", "WATCHDOG=1", "STOPPING=1"]
        );
    }

    #[test]
    fn messages_arrive_at_an_abstract_socket() {
        let name = format!("gaia-notify-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        manager(&[("NOTIFY_SOCKET", &format!("@{name}"))]).unwrap().alive().unwrap();
        assert_eq!(received(&socket), "WATCHDOG=1");
    }

    #[test]
    fn without_a_service_manager_messages_are_no_ops() {
        let manager = manager(&[]).unwrap();
        manager.ready("ready").unwrap();
        assert_eq!(manager.watchdog_interval(), None);
        assert!(self::manager(&[("NOTIFY_SOCKET", "vsock:2:1234")]).is_err());
    }

    #[test]
    fn the_watchdog_of_another_process_is_ignored() {
        let interval =
            |pid| manager(&[("WATCHDOG_USEC", "60000000"), ("WATCHDOG_PID", pid)]).unwrap().watchdog_interval();
        assert_eq!(interval("7"), Some(Duration::from_secs(20)));
        assert_eq!(interval("8"), None);
        assert_eq!(manager(&[("WATCHDOG_USEC", "3000000")]).unwrap().watchdog_interval(), Some(Duration::from_secs(1)));
    }
}
