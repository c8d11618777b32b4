//! The operator itself, apart from the process that it runs in: no flags, no signals, no lease.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gaia_api::Clock;
use gaia_plan::trust_domain::Abilities;
use jiff::Timestamp;
use kube::Client;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use crate::cache::{ClusterCache, SharedCache, Surroundings};
use crate::observability::events::Events;
use crate::observability::metrics::Metrics;
use crate::probe::watch_addresses;
use crate::process::workers::{GRACE, Parts, Workers};
use crate::schedule::scheduler::Scheduler;
use crate::store::KubeStore;
use crate::watch::Watches;

/// Dependencies and settings of an [`Operator`].
#[derive(Clone)]
pub struct OperatorConfig {
    /// The client for the API server, with the operator's rights. It must not retry.
    pub client: Client,
    /// The time source of all decisions.
    pub clock: Arc<dyn Clock>,
    /// The namespace of the rings; it must exist.
    pub namespace: String,
    /// The namespaces to look after; empty: all.
    pub watch_namespaces: Vec<String>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// The name of this instance in Events.
    pub identity: String,
    /// Maximum re-issuance rate per second during a rotation; 0: unlimited.
    pub reissue_per_second: u32,
    /// The operations enabled on pods and workloads. It needs the rights for them.
    pub abilities: Abilities,
}

/// An operator that holds no lease. Two at a time on one cluster do no harm, but the second is of no use.
pub struct Operator {
    config: OperatorConfig,
    metrics: Metrics,
    world: SharedCache,
    scheduler: Scheduler,
    watches: Watches,
    at_work: Option<AtWork>,
}

struct AtWork {
    workers: Workers,
    /// Finishes after the last worker.
    sending: JoinHandle<()>,
    /// Looks up the addresses of the API server.
    looking_up: AbortHandle,
}

impl Operator {
    /// Starts the watches and, once all are synced, the workers.
    pub async fn start(config: OperatorConfig) -> Self {
        let mut operator = Self::watch(config, Metrics::new());
        wait_for_lists(&operator.watches).await;
        operator.work(None);
        operator
    }

    /// Plans every object and probes every instance again, as is necessary after the clock was set: timers do not
    /// notice that.
    pub fn requeue_all(&self) {
        self.scheduler.requeue_all(&self.world);
    }

    /// Returns true if no key is queued and no probe is running. A recent write may still arrive by a watch.
    pub fn is_quiet(&self) -> bool {
        self.scheduler.is_quiet()
    }

    /// Stops it after the running work is done.
    pub async fn stop(mut self) {
        self.finish().await;
    }

    /// Starts the watches; no decision is made yet.
    pub(crate) fn watch(config: OperatorConfig, metrics: Metrics) -> Self {
        let world = new_world(&config.namespace, &config.cluster_domain, &config.watch_namespaces, config.abilities);
        let scheduler = Scheduler::new(config.reissue_per_second);
        let watches = Watches::new(Arc::clone(&world), scheduler.clone(), metrics.clone());
        watches.start(&config.client, &config.namespace, &config.watch_namespaces);
        Self { config, metrics, world, scheduler, watches, at_work: None }
    }

    pub(crate) fn watches(&self) -> &Watches {
        &self.watches
    }

    /// Starts the workers. `before`: the last time at which another operator was seen to work.
    pub(crate) fn work(&mut self, before: Option<Timestamp>) {
        let OperatorConfig { client, clock, identity, .. } = self.config.clone();
        let (events, sending) = Events::start(client.clone(), identity, Arc::clone(&clock), self.metrics.clone());
        let looking_up = watch_addresses(client.clone(), Arc::clone(&self.world), self.scheduler.clone());
        let parts = Parts {
            store: KubeStore::new(client),
            world: Arc::clone(&self.world),
            clock,
            scheduler: self.scheduler.clone(),
            events,
            metrics: self.metrics.clone(),
            probes: true,
            is_watched: true,
        };
        let workers = Workers::start(parts, before);
        let looking_up = tokio::spawn(looking_up).abort_handle();
        self.at_work = Some(AtWork { workers, sending, looking_up });
    }

    /// Workers stop between two keys; then the last events are sent.
    pub(crate) async fn finish(&mut self) {
        self.scheduler.close();
        let Some(AtWork { workers, sending, looking_up }) = self.at_work.take() else { return };
        looking_up.abort();
        workers.finish().await;
        let _ = tokio::time::timeout(GRACE, sending).await;
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.scheduler.close();
        self.watches.stop();
    }
}

pub(crate) fn new_world(
    operator_namespace: &str,
    cluster_domain: &str,
    watch_namespaces: &[String],
    abilities: Abilities,
) -> SharedCache {
    let mut world = ClusterCache::new(Surroundings {
        operator_namespace: operator_namespace.to_owned(),
        cluster_domain: cluster_domain.to_owned(),
        watch_namespaces: watch_namespaces.to_vec(),
    });
    world.abilities = abilities;
    Arc::new(Mutex::new(world))
}

/// Waits for the watches that all decisions need, and a limited time for pods: without pods less is known, but no
/// decision is wrong.
pub(crate) async fn wait_for_lists(watches: &Watches) {
    let patience = Instant::now() + FOR_PODS;
    while !watches.are_synced() || (!watches.are_pods_settled() && Instant::now() < patience) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const FOR_PODS: Duration = Duration::from_secs(5);
