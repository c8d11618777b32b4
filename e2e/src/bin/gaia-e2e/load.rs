//! `gaia-e2e load`: traffic on a running platform, with a result for every request.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use gaia_api::{Span, SystemClock};
use gaia_e2e::load::{Caller, CallerOptions, Load, LoadOptions, Traffic};
use gaia_e2e::progress::{say, tell};
use gaia_runtime::{Hosts, stop_signal};
use http::Uri;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The mounted directory of the calling service, like that of its pod.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The name of that service's GaiaService.
    #[arg(long, default_value = "web")]
    service: String,
    /// Address for the operator's probes of the certificates in use: list it in the GaiaService's spec.endpoints.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    mesh_address: SocketAddr,
    /// Token issuer, e.g. https://auth-service.shop.svc:8443.
    #[arg(long)]
    auth_url: Uri,
    /// Called service, e.g. https://asset-service.shop.svc:8443.
    #[arg(long)]
    asset_url: Uri,
    /// Address of a host that DNS does not have; given several times for one name, the addresses take turns.
    #[arg(long, value_name = "NAME=ADDR", value_parser = resolved)]
    resolve: Vec<(String, SocketAddr)>,
    /// A file with the API key to call with.
    #[arg(long, value_name = "FILE", required_if_eq_any = [("kind", "api-key"), ("kind", "both")])]
    api_key_file: Option<PathBuf>,
    /// Callers.
    #[arg(long, value_enum, default_value_t = Traffic::Mtls)]
    kind: Traffic,
    /// Requests a second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Number of concurrent workers.
    #[arg(long, default_value_t = 8)]
    workers: u32,
    /// Duration.
    #[arg(long, default_value = "30s", value_parser = Span::parse)]
    duration: Span,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { dir, service, mesh_address, auth_url, asset_url, resolve, api_key_file, .. } = arguments;
    for url in [&auth_url, &asset_url] {
        ensure!(url.scheme_str() == Some("https"), "{url} must begin with https://: services are called with TLS only");
    }
    let read = |path: PathBuf| -> Result<Arc<str>> {
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.trim().into())
    };
    let hosts: Hosts = resolve.into_iter().collect();
    let clock = Arc::new(SystemClock);
    let caller = Caller::start(CallerOptions { service, dir, mesh_address, hosts, clock }).await?;
    let load = Load::start(LoadOptions {
        caller: Arc::new(caller),
        auth_url,
        asset_url,
        api_key: api_key_file.map(read).transpose()?,
        traffic: arguments.kind,
        rate: arguments.rate,
        workers: arguments.workers,
        duration: arguments.duration.value(),
    })?;
    let report = watch(load).await?;
    tell(&report);
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the progress until the load ends, or is interrupted.
async fn watch(load: Load) -> Result<gaia_e2e::load::Report> {
    let mut interrupted = std::pin::pin!(stop_signal()?);
    let mut signs = tokio::time::interval(EVERY);
    while !load.has_ended() {
        tokio::select! {
            _ = signs.tick() => {
                let counts = load.counts();
                say(format_args!(
                    "{} requests: {} failed, {} wrongly accepted, {} retried",
                    counts.made, counts.failed, counts.wrongly_accepted, counts.retried
                ));
            }
            () = &mut interrupted => break,
        }
    }
    Ok(load.stop().await)
}

fn resolved(text: &str) -> Result<(String, SocketAddr), String> {
    let (name, address) = text.split_once('=').ok_or("must be NAME=ADDR, e.g. auth-service.shop.svc=127.0.0.1:8443")?;
    let address = address.parse().map_err(|_| format!("{address:?} is not an address with a port"))?;
    Ok((name.to_owned(), address))
}

const EVERY: Duration = Duration::from_secs(2);
