//! `gaia-e2e`: clusters, images and related programs, for tests, demo and benchmarks.

mod bench;
mod cluster;
mod demo;
mod fly;
mod gotrue;
mod image;
mod kubectl;
mod load;
mod migrate;
mod provider;
mod rehearse;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use gaia_e2e::{assets, node, progress};

/// Real Kubernetes clusters for Gaia's tests, its demo and its benchmarks.
///
/// Results go to standard output, progress to standard error. Builds are kept in GAIA_CACHE_DIR (default
/// ~/.cache/gaia), clusters are in `run/loopback`, `run/node` and `run/demo` there.
#[derive(Parser)]
#[command(name = "gaia-e2e", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start and stop clusters.
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Run the demo on a real API server, step by step.
    Demo(demo::Arguments),
    /// Measure the operator against a bare client, as ratios within one run.
    Bench(bench::Arguments),
    /// Call a platform's services as its callers do, count every request, and fail if one failed.
    Load(Box<load::Arguments>),
    /// Migrate a platform from one shared API key to mutual TLS and tokens, and back, under load.
    Migrate(migrate::Arguments),
    /// Run a login server with Supabase Auth's (GoTrue's) protocol, until it is stopped.
    Gotrue(gotrue::Arguments),
    /// Rehearse years of rotations in minutes, under load and with a check of each transition.
    Rehearse(rehearse::Arguments),
    /// Run a provider of chat completions with OpenAI's protocol, which echoes, and injects faults on request.
    Provider(provider::Arguments),
    /// Run a command at a stand-in for Fly.io, as its program `fly`.
    #[command(hide = true)]
    Fly(fly::Arguments),
    /// Run kubectl as the administrator of a cluster that is up.
    Kubectl(kubectl::Arguments),
    /// Write Gaia's container image as a docker-archive tar, without a daemon or a registry, and print its path.
    Image(image::Arguments),
    /// Print the path of the control-plane binary; it is built first if it is not in the cache.
    Controlplane,
    /// Run as process 1 of a node.
    #[command(hide = true)]
    NodeInit {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        controlplane: PathBuf,
    },
    /// Print the path of helm; it is installed into the cache first if it is missing.
    Helm,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            progress::say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Cluster(command) => return cluster::run(command).await,
        Command::Demo(arguments) => return demo::run(arguments).await,
        Command::Bench(arguments) => return bench::run(arguments).await,
        Command::Load(arguments) => return load::run(*arguments).await,
        Command::Gotrue(arguments) => return gotrue::run(arguments).await,
        Command::Migrate(arguments) => return migrate::run(arguments).await,
        Command::Rehearse(arguments) => return rehearse::run(arguments).await,
        Command::Fly(arguments) => return fly::run(arguments).await,
        Command::Kubectl(arguments) => return kubectl::run(arguments),
        Command::Provider(arguments) => provider::run(arguments).await?,
        Command::Image(arguments) => image::run(arguments)?,
        Command::Controlplane => print_path(&assets::controlplane()?.controlplane),
        Command::NodeInit { dir, controlplane } => node::run_init(&dir, &controlplane).await?,
        Command::Helm => print_path(&assets::helm()?),
    }
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "the result of a command")]
fn print_path(path: &std::path::Path) {
    println!("{}", path.display());
}
