//! The operator itself, apart from the process that it runs in: no flags, no signals, no lease.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gaia_api::Clock;
use gaia_plan::trust_domain::Abilities;
use jiff::Timestamp;
use kube::Client;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use crate::agenda::Agenda;
use crate::events::Events;
use crate::executor::{Executor, SharedWorld, lock};
use crate::metrics::Metrics;
use crate::probe::{Prober, watch_addresses};
use crate::reconcile::Reconciler;
use crate::signers::Signers;
use crate::store::KubeStore;
use crate::watch::Watches;
use crate::world::{Surroundings, World};

/// What an [`Operator`] works on, and with.
#[derive(Clone)]
pub struct OperatorConfig {
    /// The API server, under the operator's rights. It should try nothing again by itself.
    pub client: Client,
    /// What every decision takes the time from.
    pub clock: Arc<dyn Clock>,
    /// Where the rings are kept; it must exist.
    pub namespace: String,
    /// The namespaces to look after; empty: all.
    pub watch_namespaces: Vec<String>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// What events call this instance.
    pub identity: String,
    /// How many certificates that replace others are issued a second; 0: as fast as it goes.
    pub reissue_per_second: u32,
    /// What it may do to pods and workloads. It needs the rights for it.
    pub abilities: Abilities,
}

/// An operator that holds no lease. Two at a time on one cluster do no harm, but the second is of no use.
pub struct Operator {
    config: OperatorConfig,
    metrics: Metrics,
    world: SharedWorld,
    agenda: Agenda,
    watches: Watches,
    at_work: Option<AtWork>,
}

struct AtWork {
    workers: Vec<JoinHandle<()>>,
    /// Ends when the last worker has.
    sending: JoinHandle<()>,
    /// Looks up what was created and is reported by no watch.
    confirming: AbortHandle,
    /// Looks up the addresses of the API server.
    looking_up: AbortHandle,
}

impl Operator {
    /// Watches and, as soon as everything is known, works.
    pub async fn start(config: OperatorConfig) -> Self {
        let mut operator = Self::watch(config, Metrics::new());
        wait_for_lists(&operator.watches).await;
        operator.work(None);
        operator
    }

    /// Looks at every object and probes every instance again, as when the clock was moved: timers know nothing of that.
    pub fn look_again(&self) {
        self.agenda.look_again(&self.world);
    }

    /// Returns true if there is nothing to decide and nobody is probed just now. What was written a moment ago may
    /// still come back by a watch.
    pub fn is_quiet(&self) -> bool {
        self.agenda.is_quiet()
    }

    /// Ends it: what is being done is done first.
    pub async fn stop(mut self) {
        self.finish().await;
    }

    /// Begins to watch; nothing is decided yet.
    pub(crate) fn watch(config: OperatorConfig, metrics: Metrics) -> Self {
        let world = new_world(&config.namespace, &config.cluster_domain, &config.watch_namespaces, config.abilities);
        let agenda = Agenda::new(config.reissue_per_second);
        let watches = Watches::new(Arc::clone(&world), agenda.clone(), metrics.clone());
        watches.start(&config.client, &config.namespace, &config.watch_namespaces);
        Self { config, metrics, world, agenda, watches, at_work: None }
    }

    pub(crate) fn watches(&self) -> &Watches {
        &self.watches
    }

    /// Begins to decide and to write. `before`: when another operator was last seen to do so.
    pub(crate) fn work(&mut self, before: Option<Timestamp>) {
        let OperatorConfig { client, clock, identity, .. } = self.config.clone();
        let (events, sending) = Events::start(client.clone(), identity, Arc::clone(&clock), self.metrics.clone());
        let executor = Arc::new(Executor {
            store: KubeStore::new(client.clone()),
            world: Arc::clone(&self.world),
            clock,
            signers: Signers::default(),
        });
        let reconciler = Arc::new(Reconciler {
            executor: Arc::clone(&executor),
            agenda: self.agenda.clone(),
            events,
            metrics: self.metrics.clone(),
            reported: Mutex::new(HashMap::new()),
            unread: Mutex::default(),
        });
        lock(&self.world).begin_reading(executor.clock.now(), before);
        self.look_again();
        let mut workers = Prober::start(executor, self.agenda.clone(), self.metrics.clone());
        let reconcilers = self.agenda.decisions.workers();
        workers.extend((0..reconcilers).map(|_| tokio::spawn(Arc::clone(&reconciler).work())));
        let lookups = self.agenda.lookups.workers();
        workers.extend((0..lookups).map(|_| tokio::spawn(Arc::clone(&reconciler).look_up_secrets())));
        let confirming = tokio::spawn(async move { reconciler.confirm_created().await }).abort_handle();
        let agenda = self.agenda.clone();
        let looking_up = watch_addresses(client, Arc::clone(&self.world), self.agenda.clone());
        let looking_up = tokio::spawn(looking_up).abort_handle();
        workers.push(tokio::spawn(async move { agenda.pacer.run(&agenda.decisions).await }));
        self.at_work = Some(AtWork { workers, sending, confirming, looking_up });
    }

    /// Workers end where they are between two keys; then the last events are sent.
    pub(crate) async fn finish(&mut self) {
        self.agenda.close();
        let Some(AtWork { workers, sending, confirming, looking_up }) = self.at_work.take() else { return };
        confirming.abort();
        looking_up.abort();
        if tokio::time::timeout(GRACE, futures::future::join_all(workers)).await.is_err() {
            tracing::warn!("something was still under way; the next leader goes on from there");
        }
        let _ = tokio::time::timeout(GRACE, sending).await;
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.agenda.close();
        self.watches.stop();
        if let Some(work) = &self.at_work {
            work.confirming.abort();
        }
    }
}

pub(crate) fn new_world(
    operator_namespace: &str,
    cluster_domain: &str,
    watch_namespaces: &[String],
    abilities: Abilities,
) -> SharedWorld {
    let mut world = World::new(Surroundings {
        operator_namespace: operator_namespace.to_owned(),
        cluster_domain: cluster_domain.to_owned(),
        watch_namespaces: watch_namespaces.to_vec(),
    });
    world.abilities = abilities;
    Arc::new(Mutex::new(world))
}

/// Waits for what everything depends on, and a moment for pods: without them less is known, but nothing is wrong.
pub(crate) async fn wait_for_lists(watches: &Watches) {
    let patience = Instant::now() + FOR_PODS;
    while !watches.are_synced() || (!watches.are_pods_settled() && Instant::now() < patience) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const FOR_PODS: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(10);
