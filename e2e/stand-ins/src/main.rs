//! `gaia-stand-ins`: a login server and a provider of chat completions, for a platform on a laptop and for demos.
//!
//! Neither protects anything: accounts and keys are in memory and on the command line. Every line of output says that
//! these are stand-ins.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use gaia_stand_ins::gotrue::{GoTrue, GoTrueOptions};
use gaia_stand_ins::provider::{self, Provider, ProviderOptions};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Stand-ins for the login server and the provider of chat completions, for development only.
#[derive(Parser)]
#[command(name = "gaia-stand-ins", version)]
struct Arguments {
    /// Address of the login server, which has the protocol of Supabase Auth; port 0: any free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9999")]
    login: SocketAddr,
    /// Do not start the login server
    #[arg(long, conflicts_with = "login")]
    no_login: bool,
    /// Address of the provider, which has the protocol of OpenAI's chat completions; port 0: any free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9998")]
    provider: SocketAddr,
    /// Do not start the provider
    #[arg(long, conflicts_with = "provider")]
    no_provider: bool,
    /// An account of the login server; may be given several times
    #[arg(long = "user", value_name = "EMAIL:PASSWORD", default_value = ACCOUNT)]
    users: Vec<String>,
    /// Require the project's API key, as the API gateway of a Supabase project does; it is printed at start
    #[arg(long)]
    require_api_key: bool,
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
    let Arguments { login, no_login, provider, no_provider, users, require_api_key, on_network } = arguments;
    for (address, flag) in [(login, "--login"), (provider, "--provider")] {
        ensure!(
            on_network || address.ip().is_loopback(),
            "{flag} {address}: a stand-in accepts anyone, so it listens on loopback only; --on-network allows it in a \
             private network of containers"
        );
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut servers = Servers::default();
    if !no_login {
        let options = GoTrueOptions { address: login, requires_key: require_api_key, ..GoTrueOptions::default() };
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
        let server = Provider::start(ProviderOptions { address: provider, ..ProviderOptions::default() }).await?;
        say(format_args!("provider of chat completions (an echo): {}; its key: {}", server.url(), provider::KEY));
        servers.provider = Some(server);
    }
    say(format_args!("ready; they keep everything in memory and protect nothing"));
    tokio::select! {
        ended = servers.serve() => ended,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }
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

/// A line of output. A reader that closed its end stops nothing.
fn say(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "stand-in, for development only: {text}");
}

/// The account that exists unless others are given.
const ACCOUNT: &str = "ada@example.com:analytical-engine";
