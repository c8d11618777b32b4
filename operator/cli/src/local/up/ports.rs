//! The ports of the platform on this machine.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::Failure;

/// A port, with the program that listens on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    /// The program.
    pub(super) program: &'static str,
    /// The kind of its listener.
    pub(super) listener: &'static str,
    /// The loopback address.
    pub(super) address: SocketAddr,
}

impl Port {
    pub(super) fn new(program: &'static str, listener: &'static str, port: u16) -> Self {
        Self { program, listener, address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) }
    }
}

/// Checks that every port is free. Nothing is started before.
///
/// # Errors
/// All ports in use, each with the program that needs it.
pub(super) fn check(ports: &[Port]) -> Result<(), Failure> {
    let busy: Vec<String> = ports.iter().filter_map(fault).collect();
    if busy.is_empty() {
        return Ok(());
    }
    let next = "stop the program that listens there (`ss -ltnp` names it), or use --port-offset";
    Err(Failure::failing(busy.join("\n")).next(next))
}

fn fault(port: &Port) -> Option<String> {
    let Port { program, listener, address } = port;
    let error = TcpListener::bind(address).err()?;
    let cause = match error.kind() {
        ErrorKind::AddrInUse => "it is in use".to_owned(),
        _ => error.to_string(),
    };
    Some(format!("{program} cannot listen on port {} ({listener}): {cause}", address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_use_are_named_with_their_programs() {
        let [first, second, free] = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let number = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let ports = [("gateway", number(&first)), ("web-service", number(&second)), ("chat-service", number(&free))];
        drop(free);
        let ports = ports.map(|(program, port)| Port::new(program, "mesh", port));
        let message = check(&ports).unwrap_err().to_string();
        for port in &ports[..2] {
            assert!(message.contains(&format!("{} cannot listen on port {}", port.program, port.address.port())));
        }
        assert!(!message.contains("chat-service") && message.contains("--port-offset"), "{message}");
        check(&ports[2..]).unwrap();
    }
}
