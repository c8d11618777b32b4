//! The connection between the program `fly` and the stand-in: one line of JSON in each direction.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::{State, commands};

/// The end of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Its exit code.
    pub code: u8,
    /// Its results.
    pub stdout: String,
    /// Its errors.
    pub stderr: String,
    /// Of `fly proxy`: the address to connect to.
    pub proxy: Option<SocketAddr>,
}

#[derive(Serialize, Deserialize)]
struct Question {
    arguments: Vec<String>,
    input: Vec<u8>,
}

pub(super) async fn start(state: Arc<Mutex<State>>) -> Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let serve = async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, Arc::clone(&state)));
        }
    };
    Ok((address, tokio::spawn(serve)))
}

async fn answer(stream: TcpStream, state: Arc<Mutex<State>>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let Question { arguments, input } = serde_json::from_str(&line)?;
    let answer = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["proxy", ports, host, ..] => proxy(&state, ports, host).await,
        _ => commands::run(&state, &arguments, &input).await,
    };
    stream.write_all(format!("{}\n", serde_json::to_string(&answer)?).as_bytes()).await?;
    Ok(())
}

async fn proxy(state: &Mutex<State>, ports: &str, host: &str) -> Answer {
    let port = ports.split_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or_default();
    match commands::resolve(state, host, port).await {
        Ok(address) => Answer { proxy: Some(address), ..Answer::default() },
        Err(error) => Answer { code: 1, stderr: format!("Error: {error:#}\n"), ..Answer::default() },
    }
}

/// Runs a command at the stand-in with this address, as the program `fly` does. `proxy` runs until the process is stopped.
///
/// # Errors
/// If the stand-in does not answer.
pub async fn call(address: SocketAddr, arguments: Vec<String>) -> Result<Answer> {
    let mut input = vec![];
    if arguments.iter().any(|argument| argument == "import") {
        // A blocking read: this process has no other task.
        std::io::stdin().read_to_end(&mut input)?;
    }
    let local = arguments.get(1).and_then(|ports| ports.split(':').next()?.parse::<u16>().ok());
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    let question = serde_json::to_string(&Question { arguments, input })?;
    stream.write_all(format!("{question}\n").as_bytes()).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let answer: Answer = serde_json::from_str(&line)?;
    let Some(target) = answer.proxy else { return Ok(answer) };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, local.context("no local port")?)).await?;
    loop {
        let (mut near, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut far = TcpStream::connect(target).await?;
            tokio::io::copy_bidirectional(&mut near, &mut far).await
        });
    }
}
