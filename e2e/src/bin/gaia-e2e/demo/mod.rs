//! `gaia-e2e demo`: the demo on a real API server, step by step.

mod api_key;
mod platform;
mod rotation;
mod shell;
mod story;
mod users;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use gaia_e2e::assets;
use gaia_e2e::progress::{say, tell};
use gaia_e2e::supervisor::{Kind, Site};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Leave everything running, until `gaia-e2e cluster down`.
    #[arg(long)]
    keep: bool,
    /// Directory of the demo's files and logs; `run/demo` in the cache directory if not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Run as the process that owns a demo that is kept.
    #[arg(long, hide = true)]
    supervised: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let site = Site::new(Kind::Demo, arguments.dir)?;
    if arguments.supervised {
        site.supervise_with(Box::pin(stay(&site))).await?;
        // At once, without waiting for a running command.
        std::process::exit(0);
    }
    prepare(&site).await?;
    if arguments.keep { show_and_keep(&site).await } else { show_and_stop(&site).await }
}

/// Builds everything that takes long while its progress is visible on the terminal, and prepares the directory.
async fn prepare(site: &Site) -> Result<()> {
    for program in ["curl", "openssl"] {
        let found = assets::on_path(program);
        found.with_context(|| format!("the demo validates Gaia's output with {program}: run `make deps`"))?;
    }
    site.prepare().await?;
    tokio::task::spawn_blocking(assets::helm).await??;
    if site.kubeconfig().is_some() {
        say("stopping the demo that was left running");
        site.down().await?;
    }
    Ok(())
}

async fn show_and_stop(site: &Site) -> Result<ExitCode> {
    let show = async {
        site.clear()?;
        Box::pin(story::show(site.dir())).await
    };
    let shown = site.occupy(Box::pin(show)).await;
    match shown {
        Ok(Some(platform)) => {
            drop(platform);
            site.down().await?;
            tell(format_args!(
                "\nAll of it is stopped and gone; logs are in {}.\nTo look around in it yourself: make demo KEEP=1",
                platform::logs(site.dir()).display()
            ));
            Ok(ExitCode::SUCCESS)
        }
        Ok(None) => {
            site.down().await?;
            end_interrupted()
        }
        Err(error) => {
            // The first error is the one to report.
            let _ = site.down().await;
            Err(error)
        }
    }
}

async fn show_and_keep(site: &Site) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        up = site.up() => up.map(|_| ExitCode::SUCCESS),
        _ = terminate.recv() => stop(site).await,
        _ = interrupt.recv() => stop(site).await,
    }
}

async fn stop(site: &Site) -> Result<ExitCode> {
    site.down().await?;
    end_interrupted()
}

/// At once, as above.
fn end_interrupted() -> ! {
    say("interrupted: all of it is stopped and gone");
    std::process::exit(INTERRUPTED)
}

/// The process that owns a demo that is kept.
async fn stay(site: &Site) -> Result<()> {
    let platform = Box::pin(story::show(site.dir())).await?;
    story::tell_what_to_try(&platform);
    site.announce(platform.kubeconfig())?;
    platform.stay().await
}

/// The exit status of shells for a program that SIGINT has ended.
const INTERRUPTED: i32 = 130;
