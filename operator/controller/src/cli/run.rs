//! `gaia-operator run`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use gaia_api::logging::LogFilter;
use gaia_api::{Clock, SystemClock};
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::{EnvFilter, FilterFn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cli::config::{LogFormat, RunArgs, unknown_variables};
use crate::observability::metrics::{CountRequests, Metrics};
use crate::process::admin::{self, Health};
use crate::process::leader::{Election, Pulse};
use crate::process::operator::{Operator, OperatorConfig, wait_for_lists};

/// Runs until it receives a stop signal, or loses the lease.
pub(crate) async fn run(args: RunArgs) -> anyhow::Result<()> {
    gaia_api::process::forbid_core_dumps().context("cannot forbid core dumps")?;
    // A panic ends the process, so that no state is half changed. Its message can hold texts of other programs.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panic; exiting");
        std::process::abort();
    }));
    start_logging(&args)?;
    for name in unknown_variables(std::env::vars().map(|(name, _)| name)) {
        tracing::warn!(name, "unknown environment variable; it has no effect");
    }
    if std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_some() {
        tracing::warn!("OTEL_EXPORTER_OTLP_ENDPOINT has no effect: this version sends no traces");
    }
    let metrics = Metrics::new();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let config = OperatorConfig {
        client: connect(&metrics).await?,
        clock: Arc::clone(&clock),
        namespace: args.cluster.namespace(),
        watch_namespaces: args.cluster.namespaces(),
        cluster_domain: args.cluster.cluster_domain.clone(),
        identity: identity(),
        reissue_per_second: args.reissue_per_second,
        abilities: args.cluster.abilities(),
    };
    let (namespace, me) = (config.namespace.clone(), config.identity.clone());
    let mut operator = Operator::watch(config, metrics.clone());
    let pulse = Pulse::new();
    let draining = Arc::new(AtomicBool::new(false));
    let health = Health {
        watches: operator.watches().clone(),
        pulse: pulse.clone(),
        draining: Arc::clone(&draining),
        metrics: metrics.clone(),
    };
    serve_admin(&args, health).await?;
    let mut stop = Stop::new()?;
    tracing::info!(namespace, identity = me, "started");
    let mut election = Election::new(connect(&metrics).await?, &namespace, me, clock, pulse);
    let lead = async {
        // The lease is acquired after the lists: with many objects they take so long that a lease acquired first would
        // expire.
        tokio::select! {
            () = wait_for_lists(operator.watches()) => {}
            () = election.idle() => {}
        }
        if args.leader_election { election.acquire().await } else { None }
    };
    let before = tokio::select! {
        before = lead => before,
        () = stop.asked() => {
            election.release().await;
            return Ok(());
        }
    };
    metrics.leader.set(1);
    tracing::info!("leading");
    operator.work(before);
    let lost = tokio::select! {
        () = hold(&args, &mut election) => true,
        () = stop.asked() => false,
    };
    metrics.leader.set(0);
    draining.store(true, Ordering::Release);
    if lost {
        // The new leader may already be writing: this process stops without further work.
        anyhow::bail!("the lease is lost");
    }
    operator.finish().await;
    election.release().await;
    tracing::info!("stopped");
    Ok(())
}

async fn hold(args: &RunArgs, election: &mut Election) {
    if args.leader_election { election.hold().await } else { election.idle().await }
}

/// A client whose requests are counted. It never retries: the work queue does.
pub(crate) async fn connect(metrics: &Metrics) -> anyhow::Result<Client> {
    let mut config = Config::infer().await.context("no kubeconfig (KUBECONFIG) and not in a cluster")?;
    config.default_retry = false;
    let builder = kube::client::ClientBuilder::try_from(config).context("cannot set up the client")?;
    Ok(builder.with_layer(&CountRequests(metrics.clone())).build())
}

async fn serve_admin(args: &RunArgs, health: Health) -> anyhow::Result<()> {
    let address = args.admin_address;
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("GAIA_ADMIN_ADDRESS: cannot listen on {address}"))?;
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, admin::router(health)).await {
            tracing::error!(%error, "the admin listener ended");
        }
    });
    Ok(())
}

fn start_logging(args: &RunArgs) -> anyhow::Result<()> {
    let LogFilter { directives, ignored } = LogFilter::of(&args.log);
    let filter =
        EnvFilter::try_new(directives).with_context(|| format!("GAIA_LOG: {:?} is not a tracing filter", args.log))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match args.log_format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.boxed(),
    };
    // Lines of client libraries can hold private keys. They are not written, whatever the filter is.
    let own = FilterFn::new(|metadata| LogFilter::is_loggable(metadata.target()));
    tracing_subscriber::registry().with(lines.with_filter(filter).with_filter(own)).init();
    for directive in ignored {
        tracing::warn!(directive, "GAIA_LOG: only targets gaia_* can be logged; this directive has no effect");
    }
    Ok(())
}

/// The pod's name with a random suffix that no earlier process of that name had.
fn identity() -> String {
    let host = std::env::var("HOSTNAME").ok().or_else(|| std::fs::read_to_string("/etc/hostname").ok());
    let mut bits = [0; 4];
    #[expect(clippy::disallowed_methods, reason = "an identity is random and nothing is decided by it")]
    let _ = aws_lc_rs::rand::fill(&mut bits);
    format!("{}_{:08x}", host.as_deref().map_or("gaia-operator", str::trim), u32::from_be_bytes(bits))
}

/// SIGTERM or SIGINT.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
