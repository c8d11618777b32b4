//! The workers that decide and act on any store: reconciles, probes, look-ups and the pace of re-issues.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gaia_api::Clock;
use jiff::Timestamp;
use tokio::task::{AbortHandle, JoinHandle};

use crate::cache::{SharedCache, lock};
use crate::execute::ca_cache::Signers;
use crate::execute::executor::Executor;
use crate::observability::events::Events;
use crate::observability::metrics::Metrics;
use crate::probe::Prober;
use crate::reconcile::Reconciler;
use crate::schedule::scheduler::Scheduler;
use crate::store::Store;

/// Dependencies of the workers.
pub(crate) struct Parts<S> {
    pub(crate) store: S,
    pub(crate) world: SharedCache,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) scheduler: Scheduler,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
    /// False: no instance is probed.
    pub(crate) probes: bool,
    /// True: objects that no watch reports are looked up.
    pub(crate) is_watched: bool,
}

/// The running workers.
pub(crate) struct Workers {
    scheduler: Scheduler,
    running: Vec<JoinHandle<()>>,
    /// Looks up created objects that no watch reports.
    confirming: Option<AbortHandle>,
}

impl Workers {
    /// `before`: the last time at which another process was seen to work on the same objects.
    pub(crate) fn start<S: Store>(parts: Parts<S>, before: Option<Timestamp>) -> Self {
        let Parts { store, world, clock, scheduler, events, metrics, probes, is_watched } = parts;
        let executor = Arc::new(Executor { store, world: Arc::clone(&world), clock, signers: Signers::default() });
        let reconciler = Arc::new(Reconciler {
            executor: Arc::clone(&executor),
            scheduler: scheduler.clone(),
            events,
            metrics: metrics.clone(),
            reported: Mutex::new(HashMap::new()),
            unread: Mutex::default(),
        });
        lock(&world).begin_reading(executor.clock.now(), before);
        scheduler.requeue_all(&world);
        let mut running = if probes { Prober::start(executor, scheduler.clone(), metrics) } else { vec![] };
        let reconcilers = scheduler.decisions.workers();
        running.extend((0..reconcilers).map(|_| tokio::spawn(Arc::clone(&reconciler).work())));
        let lookups = scheduler.lookups.workers();
        running.extend((0..lookups).map(|_| tokio::spawn(Arc::clone(&reconciler).look_up_secrets())));
        let confirming =
            is_watched.then(|| tokio::spawn(async move { reconciler.confirm_created().await }).abort_handle());
        let pacing = scheduler.clone();
        running.push(tokio::spawn(async move { pacing.pacer.run(&pacing.decisions).await }));
        Self { scheduler, running, confirming }
    }

    /// Workers stop between two keys.
    pub(crate) async fn finish(mut self) {
        self.scheduler.close();
        self.stop_confirming();
        let running = std::mem::take(&mut self.running);
        if tokio::time::timeout(GRACE, futures::future::join_all(running)).await.is_err() {
            tracing::warn!("stopped with work in progress; the next process continues it");
        }
    }

    fn stop_confirming(&mut self) {
        if let Some(confirming) = self.confirming.take() {
            confirming.abort();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.scheduler.close();
        self.stop_confirming();
    }
}

pub(crate) const GRACE: Duration = Duration::from_secs(10);
