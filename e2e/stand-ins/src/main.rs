//! `gaia-stand-ins`: a login server and a provider of chat completions, for a platform on a laptop and for demos.
//!
//! Neither protects anything: accounts and keys are in memory and on the command line. Every line of output says that
//! these are stand-ins.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use gaia_stand_ins::gotrue::{GoTrue, GoTrueOptions};
use gaia_stand_ins::provider::{self, Provider, ProviderOptions};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Stand-ins for the login server and the provider of chat completions, for development only.
#[derive(Parser)]
#[command(name = "gaia-stand-ins", version)]
struct Arguments {
    /// Address of the login server, which has the protocol of Supabase Auth; port 0: any free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9999")]
    login: SocketAddr,
    /// URL of the login server for its clients, and the issuer of its tokens [default: by its address]
    #[arg(long, value_name = "URL")]
    login_url: Option<String>,
    /// Do not start the login server
    #[arg(long, conflicts_with = "login")]
    no_login: bool,
    /// Address of the provider, which has the protocol of OpenAI's chat completions; port 0: any free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9998")]
    provider: SocketAddr,
    /// Do not start the provider
    #[arg(long, conflicts_with = "provider")]
    no_provider: bool,
    /// File with the key that the provider accepts; without it a fixed one, which is printed at start
    #[arg(long, value_name = "FILE")]
    provider_key_file: Option<PathBuf>,
    /// An account of the login server; may be given several times
    #[arg(long = "user", value_name = "EMAIL:PASSWORD", default_value = ACCOUNT)]
    users: Vec<String>,
    /// Require the project's API key, as the API gateway of a Supabase project does; it is printed at start
    #[arg(long)]
    require_api_key: bool,
    /// Start no stand-in, but pass connections on to one in another container: services call login servers over plain
    /// HTTP on loopback only
    #[arg(long, value_name = "ADDRESS=HOST:PORT", value_parser = forward, conflicts_with_all = ["login", "provider", "users"])]
    forward: Option<(SocketAddr, String)>,
    /// Allow addresses other than loopback, for a private network of containers
    #[arg(long)]
    on_network: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = Runtime::new().context("failed to start threads").and_then(|runtime| runtime.block_on(run(arguments)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        ended = start(arguments) => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
}

async fn start(arguments: Arguments) -> Result<()> {
    if let Some((address, target)) = arguments.forward {
        return pass_on(address, target).await;
    }
    let Arguments { require_api_key, login_url, on_network, .. } = arguments;
    let Arguments { login, no_login, provider, no_provider, provider_key_file, users, .. } = arguments;
    for (address, flag) in [(login, "--login"), (provider, "--provider")] {
        ensure!(
            on_network || address.ip().is_loopback(),
            "{flag} {address}: a stand-in accepts anyone, so it listens on loopback only; --on-network allows it in a \
             private network of containers"
        );
    }
    let mut servers = Servers::default();
    if !no_login {
        let requires_key = require_api_key;
        let options = GoTrueOptions { address: login, base_url: login_url, requires_key, ..GoTrueOptions::default() };
        let server = GoTrue::start(options).await?;
        say(format_args!("login server (Supabase Auth): {}; its keys: {}", server.base_url(), server.jwks_url()));
        for user in users {
            let (email, password) = user.split_once(':').context("--user must be EMAIL:PASSWORD")?;
            server.add_user(email, password)?;
            say(format_args!("account: {email}, password {password}"));
        }
        if require_api_key {
            say(format_args!("API key of the project: {}", server.anon_key()));
        }
        servers.login = Some(server);
    }
    if !no_provider {
        let key = provider_key_file.as_deref().map(read_key).transpose()?;
        let shown = if key.is_some() { "in the given file" } else { provider::KEY };
        let key = key.unwrap_or_else(|| provider::KEY.to_owned());
        let options = ProviderOptions { address: provider, key, ..ProviderOptions::default() };
        let server = Provider::start(options).await?;
        say(format_args!("provider of chat completions (an echo): {}; its key: {shown}", server.url()));
        servers.provider = Some(server);
    }
    say(format_args!("ready; they keep everything in memory and protect nothing"));
    servers.serve().await
}

/// Passes each connection on to a stand-in in another container.
async fn pass_on(address: SocketAddr, target: String) -> Result<()> {
    ensure!(address.ip().is_loopback(), "--forward {address}: only connections from this container are passed on");
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    say(format_args!("ready; connections to {address} are passed on to {target}"));
    loop {
        let (mut client, _) = listener.accept().await?;
        let target = target.clone();
        tokio::spawn(async move {
            match TcpStream::connect(&target).await {
                Ok(mut server) => drop(copy_bidirectional(&mut client, &mut server).await),
                Err(error) => say(format_args!("cannot reach {target}: {error}")),
            }
        });
    }
}

fn forward(text: &str) -> Result<(SocketAddr, String), String> {
    let (address, target) = text.split_once('=').ok_or("must be ADDRESS=HOST:PORT")?;
    Ok((address.parse().map_err(|_| "the address must be IP:PORT")?, target.to_owned()))
}

#[derive(Default)]
struct Servers {
    login: Option<GoTrue>,
    provider: Option<Provider>,
}

impl Servers {
    /// Serves until a listener fails.
    async fn serve(self) -> Result<()> {
        let login = async {
            match self.login {
                Some(login) => login.serve().await,
                None => std::future::pending().await,
            }
        };
        let provider = async {
            match self.provider {
                Some(provider) => provider.run().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = login => anyhow::bail!("the login server ended"),
            ended = provider => ended.context("the provider ended"),
        }
    }
}

fn read_key(file: &Path) -> Result<String> {
    let key = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(key.trim().to_owned())
}

/// A line of output. A reader that closed its end stops nothing.
fn say(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "stand-in, for development only: {text}");
}

/// The account that exists unless others are given.
const ACCOUNT: &str = "ada@example.com:analytical-engine";
