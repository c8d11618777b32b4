//! The commands of `fly` (flyctl).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::Failure;

/// The program `fly`.
pub(crate) struct Fly {
    /// Its path, or its name on `PATH`.
    pub(crate) program: PathBuf,
    /// The time-out of a command.
    pub(crate) time: Duration,
}

/// A secret, as `fly secrets list --json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ListedSecret {
    /// Its name.
    #[serde(alias = "Name")]
    pub(crate) name: String,
    /// An opaque text that changes with the value.
    #[serde(default, alias = "Digest")]
    pub(crate) digest: String,
    /// `Deployed`, `Staged`, `Partial`, `Unknown`; old versions of flyctl report none.
    #[serde(default, alias = "Status")]
    pub(crate) status: Option<String>,
}

/// A machine, as `fly machine list --json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ListedMachine {
    /// Its id.
    pub(crate) id: String,
    /// `started`, `stopped` and others.
    pub(crate) state: String,
    /// The version of its configuration, which each update changes.
    #[serde(default)]
    pub(crate) instance_id: String,
    /// Its address in the private network.
    #[serde(default)]
    pub(crate) private_ip: String,
}

/// A connection through `fly proxy`. Dropping it ends the proxy.
pub(crate) struct Proxy {
    /// The local address.
    pub(crate) address: SocketAddr,
    _child: Child,
}

impl Fly {
    /// The secrets of an app, by name.
    ///
    /// # Errors
    /// Unknown, if `fly` does not answer with a list.
    pub(crate) async fn secrets(&self, app: &str) -> Result<BTreeMap<String, ListedSecret>, Failure> {
        let all: Vec<ListedSecret> = self.list(&["secrets", "list", "--json", "-a", app]).await?;
        Ok(all.into_iter().map(|secret| (secret.name.clone(), secret)).collect())
    }

    /// The machines of an app, by id.
    ///
    /// # Errors
    /// As [`Fly::secrets`].
    pub(crate) async fn machines(&self, app: &str) -> Result<Vec<ListedMachine>, Failure> {
        let mut all: Vec<ListedMachine> = self.list(&["machine", "list", "--json", "-a", app]).await?;
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    /// Stages secrets. `lines` is the input of `fly secrets import`.
    ///
    /// # Errors
    /// If `fly` fails. Its output is left out, as it quotes lines that it cannot parse.
    pub(crate) async fn stage(&self, app: &str, lines: &str) -> Result<(), Failure> {
        let arguments = ["secrets", "import", "--stage", "-a", app];
        let output = self.run(&arguments, lines.as_bytes()).await?;
        if output.status.success() {
            return Ok(());
        }
        let cause = format!("app {app}: `fly secrets import` ended with {}; its output is not shown", output.status);
        Err(Failure::failing(cause).next(format!("fly secrets list -a {app}; then run the command again")))
    }

    /// Restarts the machines of an app with its staged secrets, one after another.
    ///
    /// # Errors
    /// If `fly` fails.
    pub(crate) async fn deploy(&self, app: &str) -> Result<(), Failure> {
        self.change(app, &["secrets", "deploy", "-a", app]).await
    }

    /// Removes secrets of an app, and restarts its machines.
    ///
    /// # Errors
    /// If `fly` fails.
    pub(crate) async fn unset(&self, app: &str, names: &[String]) -> Result<(), Failure> {
        let mut arguments = vec!["secrets", "unset", "-a", app];
        arguments.extend(names.iter().map(String::as_str));
        self.change(app, &arguments).await
    }

    /// Starts a proxy to a port of a machine.
    ///
    /// # Errors
    /// If it does not listen in time.
    pub(crate) async fn proxy(&self, app: &str, machine: &str, port: u16) -> Result<Proxy, String> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        drop(listener);
        let ports = format!("{}:{port}", address.port());
        let host = format!("{machine}.vm.{app}.internal");
        let mut command = Command::new(&self.program);
        command.args(["proxy", &ports, &host, "-a", app]).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", self.program.display()))?;
        for _ in 0..PROXY_TRIES {
            if TcpStream::connect(address).await.is_ok() {
                return Ok(Proxy { address, _child: child });
            }
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("`fly proxy` ended with {status}"));
            }
            sleep(PROXY_PAUSE).await;
        }
        Err("`fly proxy` does not listen".to_owned())
    }

    async fn list<T: serde::de::DeserializeOwned>(&self, arguments: &[&str]) -> Result<Vec<T>, Failure> {
        let output = self.run(arguments, &[]).await?;
        let command = arguments.join(" ");
        if !output.status.success() {
            return Err(Failure::unknown(format!("`fly {command}` ended with {}{}", output.status, said(&output))));
        }
        // An app without secrets or machines is `null` or nothing.
        if output.stdout.trim_ascii().is_empty() || output.stdout.trim_ascii() == b"null" {
            return Ok(vec![]);
        }
        serde_json::from_slice(&output.stdout).map_err(|error| {
            Failure::unknown(format!("`fly {command}` printed no list: {error}")).next("fly version update")
        })
    }

    async fn change(&self, app: &str, arguments: &[&str]) -> Result<(), Failure> {
        let output = self.run(arguments, &[]).await?;
        if output.status.success() {
            return Ok(());
        }
        let command = arguments[..2].join(" ");
        let cause = format!("app {app}: `fly {command}` ended with {}{}", output.status, said(&output));
        Err(Failure::failing(cause).next(format!("fly status -a {app}; then run the command again")))
    }

    async fn run(&self, arguments: &[&str], input: &[u8]) -> Result<Output, Failure> {
        let mut command = Command::new(&self.program);
        command.args(arguments).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let not_run = |error: std::io::Error| {
            Failure::unknown(format!("cannot run {}: {error}", self.program.display()))
                .next("install flyctl and sign in with `fly auth login`, or name the program with --fly PATH")
        };
        let mut child = command.spawn().map_err(not_run)?;
        let input = (child.stdin.take(), input.to_vec());
        let write = async move {
            if let (Some(mut stdin), input) = input {
                let input = zeroize::Zeroizing::new(input);
                // A program that does not read its input ends with an error of its own.
                let _ = stdin.write_all(&input).await;
            }
        };
        let both = async { tokio::join!(write, child.wait_with_output()).1 };
        match timeout(self.time, both).await {
            Ok(output) => output.map_err(not_run),
            Err(_) => Err(Failure::unknown(format!(
                "`fly {}` did not end within {} s",
                arguments[..2].join(" "),
                self.time.as_secs()
            ))),
        }
    }
}

/// The end of the standard error of a command.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    last.map(|line| format!(": {}", crate::output::printable(line))).unwrap_or_default()
}

const PROXY_TRIES: u32 = 100;
const PROXY_PAUSE: Duration = Duration::from_millis(100);
