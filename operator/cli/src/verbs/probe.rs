//! `gaia probe`: the health check of a container whose image has no shell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cli::Context;
use crate::{Exit, Failure};

/// Arguments of `gaia probe`.
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// Ask whether the program is ready, not only whether it runs.
    #[arg(long)]
    ready: bool,
    /// Address of the admin listener.
    #[arg(long, env = "GAIA_ADMIN_ADDRESS", value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    address: SocketAddr,
}

/// Asks the admin listener of a service, of the operator or of `gaia local run`, and prints its answer.
pub(crate) async fn run(args: &ProbeArgs, context: &mut Context) -> Result<Exit, Failure> {
    let (address, path) = (reachable(args.address), if args.ready { "/readyz" } else { "/livez" });
    let (status, body) = ask(address, path).await?;
    if status == 200 {
        context.console.print(&format!("{}\n", body.trim_end()))?;
        return Ok(Exit::Done);
    }
    Err(Failure::failing(format!("http://{address}{path} answers {status}: {}", body.trim_end())))
}

/// The status and the body of an admin listener's answer.
///
/// # Errors
/// There is no answer, or none in HTTP.
pub(crate) async fn ask(address: SocketAddr, path: &str) -> Result<(u16, String), Failure> {
    let answer = match timeout(TIMEOUT, get(address, path)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(unreachable(address, &error.to_string())),
        Err(_) => return Err(unreachable(address, &format!("no answer in {} s", TIMEOUT.as_secs()))),
    };
    parse(&answer).ok_or_else(|| unreachable(address, "the answer is not HTTP"))
}

async fn get(address: SocketAddr, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// The status and the body of an answer.
fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// The loopback address of a listener on all addresses.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

fn unreachable(address: SocketAddr, cause: &str) -> Failure {
    Failure::unknown(format!("cannot ask the admin listener at {address}: {cause}"))
        .next("compare the address with GAIA_ADMIN_ADDRESS of the program, and read its log")
}

const TIMEOUT: Duration = Duration::from_secs(3);
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_loopback() {
        for (listener, asked) in
            [("0.0.0.0:9090", "127.0.0.1:9090"), ("[::]:9090", "[::1]:9090"), ("10.0.0.7:1", "10.0.0.7:1")]
        {
            assert_eq!(reachable(listener.parse().unwrap()).to_string(), asked);
        }
    }

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        assert_eq!(parse(b"HTTP/1.1 503 x\r\na: b\r\n\r\nnot yet"), Some((503, "not yet".to_owned())));
        for wrong in [&b""[..], b"HTTP/1.1 20", b"SSH-2.0-x\r\n\r\n", b"\x15\x03\x01"] {
            assert_eq!(parse(wrong), None);
        }
    }
}
