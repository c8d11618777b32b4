//! `gaia local run`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use gaia_operator::directory;

use super::{failure, log, settings};
use crate::cli::Context;
use crate::notify::ServiceManager;
use crate::{Exit, Failure};

/// Options of `gaia local run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Do all due work and exit: 0 done or nothing to do, 1 a rotation waits for instances, 2 something failed.
    #[arg(long)]
    once: bool,
    /// Address for /livez, /readyz and /metrics. They hold no secret, and need no credential.
    #[arg(long, value_name = "ADDRESS", env = "GAIA_ADMIN_ADDRESS", conflicts_with = "once")]
    admin_address: Option<SocketAddr>,
    /// A program that gets each event as one line of JSON on its standard input. It is run without a shell.
    #[arg(long, value_name = "PROGRAM")]
    on_event: Option<PathBuf>,
    /// Where a service listens, in place of spec.endpoints in gaia.yaml: SERVICE=HOST:PORT. May be repeated.
    #[arg(long, value_name = "SERVICE=HOST:PORT", value_parser = endpoint)]
    endpoint: Vec<(String, String)>,
    /// The group that may read the service directories.
    #[arg(long, value_name = "GID")]
    group: Option<u32>,
    /// Log level, or a tracing filter such as info,gaia_operator=debug. Targets other than gaia_* have no effect.
    #[arg(long, env = "GAIA_LOG", default_value = "info")]
    log: String,
}

fn endpoint(text: &str) -> Result<(String, String), String> {
    let (service, endpoint) = text.split_once('=').ok_or("must be SERVICE=HOST:PORT, as gateway=gateway:8443")?;
    let has_port =
        endpoint.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if service.is_empty() || !has_port {
        return Err("must be SERVICE=HOST:PORT, as gateway=gateway:8443".to_owned());
    }
    Ok((service.to_owned(), endpoint.to_owned()))
}

pub(super) async fn run(args: RunArgs, context: &mut Context) -> Result<Exit, Failure> {
    log::start(&args.log)?;
    let mut settings = settings(context);
    settings.group = args.group;
    settings.on_event = args.on_event;
    let mut endpoints: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (service, endpoint) in args.endpoint {
        endpoints.entry(service).or_default().push(endpoint);
    }
    settings.endpoints = endpoints;
    let path = context.dir();
    if !args.once {
        let manager = ServiceManager::of_process();
        let manager = manager.map_err(|error| Failure::usage(format!("NOTIFY_SOCKET: {error}")))?;
        let console = &mut context.console;
        let mut is_first = true;
        let on_beat = |status: &str| {
            let is_start = std::mem::take(&mut is_first);
            if is_start {
                console.progress(&format!("running on {}", path.display()));
            }
            let reported = if is_start { manager.ready(status) } else { manager.status(status) };
            if let Err(error) = reported.and_then(|()| manager.alive()) {
                console.progress(&format!("NOTIFY_SOCKET: {error}"));
            }
        };
        directory::run(&path, settings, args.admin_address, on_beat).await.map_err(|error| failure(&error))?;
        return Ok(Exit::Done);
    }
    let settled = directory::run_once(&path, settings).await.map_err(|error| failure(&error))?;
    for line in settled.failing.iter().chain(&settled.waiting) {
        context.console.print(&format!("{line}\n"))?;
    }
    Ok(match (settled.failing.is_empty(), settled.waiting.is_empty()) {
        (false, _) => Exit::Failing,
        (true, false) => Exit::Warnings,
        (true, true) => Exit::Done,
    })
}
