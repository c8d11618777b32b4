//! `gaia-operator run`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use gaia_api::{Clock, SystemClock};
use kube::{Client, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;

use crate::admin::{self, Health};
use crate::config::{LogFormat, RunArgs, unknown_variables};
use crate::events::Events;
use crate::executor::{Executor, SharedWorld};
use crate::leader::{Election, Pulse};
use crate::metrics::{CountRequests, Metrics};
use crate::pacer::Pacer;
use crate::queue::Queue;
use crate::reconcile::Reconciler;
use crate::signers::Signers;
use crate::store::KubeStore;
use crate::watch::Watches;
use crate::world::{Surroundings, World};

/// Runs until it is told to stop, or loses the lease.
pub(crate) async fn run(args: RunArgs) -> anyhow::Result<()> {
    start_logging(&args)?;
    for name in unknown_variables(std::env::vars().map(|(name, _)| name)) {
        tracing::warn!(name, "this environment variable is not known and has no effect");
    }
    if std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_some() {
        tracing::warn!("OTEL_EXPORTER_OTLP_ENDPOINT has no effect: this version sends no traces");
    }
    let metrics = Metrics::new();
    let client = connect(&metrics).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let namespace = args.cluster.namespace();
    let me = identity();
    let world = new_world(&namespace, &args.cluster.cluster_domain);
    let queue = Arc::new(Queue::new());
    let watches = Watches::new(Arc::clone(&world), Arc::clone(&queue), metrics.clone());
    let pulse = Pulse::new();
    let draining = Arc::new(AtomicBool::new(false));
    let health = Health {
        watches: watches.clone(),
        pulse: pulse.clone(),
        draining: Arc::clone(&draining),
        metrics: metrics.clone(),
    };
    serve_admin(&args, health).await?;
    let mut stop = Stop::new()?;
    watches.start(&client, &namespace, &args.cluster.namespaces());
    tracing::info!(namespace, identity = me, "started");
    let (events, sending) = Events::start(client.clone(), me.clone(), Arc::clone(&clock), metrics.clone());
    let mut election = Election::new(connect(&metrics).await?, &namespace, me, Arc::clone(&clock), pulse);
    let lead = async {
        if args.leader_election {
            election.acquire().await;
        }
        wait_for_lists(&watches).await;
    };
    tokio::select! {
        () = lead => {}
        () = stop.asked() => {
            election.release().await;
            return Ok(());
        }
    }
    metrics.leader.set(1);
    tracing::info!("leading");
    let executor = Executor { store: KubeStore::new(client), world, clock, signers: Signers::default() };
    let pacer = Pacer::new(args.reissue_per_second);
    let reconciler = Arc::new(Reconciler {
        executor,
        queue: Arc::clone(&queue),
        events,
        metrics: metrics.clone(),
        pacer,
        reported: Mutex::new(HashMap::new()),
    });
    let keys = crate::executor::lock(&reconciler.executor.world).all_keys();
    queue.push_all(keys);
    let workers: Vec<JoinHandle<()>> = (0..WORKERS).map(|_| tokio::spawn(Arc::clone(&reconciler).work())).collect();
    let lost = tokio::select! {
        () = hold(&args, &mut election) => true,
        () = stop.asked() => false,
    };
    metrics.leader.set(0);
    draining.store(true, Ordering::Release);
    if lost {
        // Whoever leads now may be writing already: nothing more is done here, not even in good order.
        anyhow::bail!("the lease is lost");
    }
    finish(&queue, workers).await;
    drop(reconciler);
    let _ = tokio::time::timeout(GRACE, sending).await;
    election.release().await;
    tracing::info!("stopped");
    Ok(())
}

async fn hold(args: &RunArgs, election: &mut Election) {
    if args.leader_election { election.hold().await } else { election.idle().await }
}

/// A client whose requests are counted. It tries nothing again by itself: when to try again is decided elsewhere.
pub(crate) async fn connect(metrics: &Metrics) -> anyhow::Result<Client> {
    let mut config = Config::infer().await.context("no kubeconfig (KUBECONFIG) and not in a cluster")?;
    config.default_retry = false;
    let builder = kube::client::ClientBuilder::try_from(config).context("cannot set up the client")?;
    Ok(builder.with_layer(&CountRequests(metrics.clone())).build())
}

pub(crate) fn new_world(operator_namespace: &str, cluster_domain: &str) -> SharedWorld {
    Arc::new(Mutex::new(World::new(Surroundings {
        operator_namespace: operator_namespace.to_owned(),
        cluster_domain: cluster_domain.to_owned(),
    })))
}

pub(crate) async fn wait_for_lists(watches: &Watches) {
    while !watches.are_synced() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Workers end where they are between two keys; what they are doing is done first.
async fn finish(queue: &Queue<crate::store::Key>, workers: Vec<JoinHandle<()>>) {
    queue.close();
    let all = futures::future::join_all(workers);
    if tokio::time::timeout(GRACE, all).await.is_err() {
        tracing::warn!("something was still under way; the next leader goes on from there");
    }
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
    let filter =
        EnvFilter::try_new(&args.log).with_context(|| format!("GAIA_LOG: {:?} is no tracing filter", args.log))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
        LogFormat::Text => subscriber.init(),
    }
    Ok(())
}

/// The pod's name, and something that no earlier process of that name had.
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

const WORKERS: usize = 16;
const GRACE: Duration = Duration::from_secs(10);
