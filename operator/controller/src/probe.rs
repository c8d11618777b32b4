//! Probes: lagging instances every 10 s, instances with API keys every minute for their ledger, all others hourly, and
//! new ones at once.

mod api_server;
mod dial;
mod endpoint;
#[cfg(test)]
mod fairness_tests;
mod identity;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gaia_plan::instances::endpoint::{Exclusion, Host};
use gaia_plan::instances::instance::Probe;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub(crate) use self::api_server::watch_addresses;
use self::dial::Failure;
use self::endpoint::{EndpointDialer, Outcome, SystemResolver};
use self::identity::Identities;
use crate::cache::{InstanceKey, lock};
use crate::execute::executor::Executor;
use crate::observability::metrics::Metrics;
use crate::schedule::scheduler::Scheduler;
use crate::store::Store;

/// Probes instances, a bounded number at a time, and each by one probe at a time.
pub(crate) struct Prober<S> {
    executor: Arc<Executor<S>>,
    scheduler: Scheduler,
    metrics: Metrics,
    identities: Identities,
    endpoints: EndpointDialer,
}

impl<S: Store> Prober<S> {
    /// Probes until the agenda is closed.
    pub(crate) fn start(executor: Arc<Executor<S>>, scheduler: Scheduler, metrics: Metrics) -> Vec<JoinHandle<()>> {
        let world = Arc::clone(&executor.world);
        let endpoints = EndpointDialer::new(Arc::new(SystemResolver));
        let prober = Arc::new(Self { executor, scheduler, metrics, identities: Identities::default(), endpoints });
        let tasks = (0..prober.scheduler.probes.workers()).map(|_| tokio::spawn(Arc::clone(&prober).work())).collect();
        prober.scheduler.begin_probing(&world);
        tasks
    }

    async fn work(self: Arc<Self>) {
        while let Some(key) = self.scheduler.probes.next().await {
            self.probe(&key).await;
            let next = self.interval(&key).map(|wait| Instant::now() + wait);
            self.scheduler.probes.done(key, next);
        }
    }

    async fn probe(&self, key: &InstanceKey) {
        let Some(subject) = lock(&self.executor.world).subject(key) else { return };
        let client = self.identities.client(&self.executor, &subject).await;
        let clock = self.executor.clock.as_ref();
        let now = || self.executor.clock.now();
        let mut changed = BTreeSet::new();
        let look = match (&subject.rules, &subject.address.host) {
            (Some(rules), _) => match self.endpoints.look(&subject, rules, &client, clock).await {
                Outcome::Looked { look, answer, is_vacant } => {
                    let mut world = lock(&self.executor.world);
                    changed.extend(world.take_answer(key, &answer));
                    changed.extend(world.take_vacancy(key, is_vacant, now()));
                    *look
                }
                Outcome::Resolved(answer) => {
                    let keys = lock(&self.executor.world).take_answer(key, &answer);
                    return self.scheduler.push(&self.executor.world, keys);
                }
                Outcome::Refused => {
                    self.metrics.count_probe_failure(Failure::Endpoint.as_str());
                    let keys = lock(&self.executor.world).exclude_endpoint(key, Exclusion::Address);
                    return self.scheduler.push(&self.executor.world, keys);
                }
            },
            (None, Host::Address(ip)) => {
                let address = SocketAddr::new(*ip, subject.address.port);
                dial::look(&subject, address, &client, clock).await
            }
            // A pod has an address.
            (None, Host::Name(_)) => return,
        };
        if let Some(failure) = look.failure {
            self.metrics.count_probe_failure(failure.as_str());
        }
        let now = now();
        let probe = Probe { at: now, seen: look.seen };
        let mut world = lock(&self.executor.world);
        let mut keys = world.take_probe(key, probe, look.not_after);
        if let Some(reading) = look.ledger {
            keys.extend(world.take_ledger(key, reading, now));
        }
        drop(world);
        keys.extend(changed);
        self.scheduler.push(&self.executor.world, keys);
    }

    /// The time until the next probe; none: the instance has terminated.
    fn interval(&self, key: &InstanceKey) -> Option<Duration> {
        let world = lock(&self.executor.world);
        let wait = if world.is_behind(key)? {
            let min_delay =
                world.trust_domain(&key.trust_domain).map(|domain| domain.spec.propagation.min_delay.value());
            min_delay.unwrap_or_default().clamp(SHORTEST, LONGEST_BEHIND)
        } else {
            let at_rest = if world.is_endpoint(key) { ENDPOINT_AT_REST } else { AT_REST };
            at_rest.mul_f64(spread(key))
        };
        Some(wait.min(world.ledger_interval(key).unwrap_or(AT_REST)))
    }
}

/// A factor between three quarters and one, constant for an instance, so that probes are spread over time.
fn spread(key: &InstanceKey) -> f64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let [byte, ..] = hasher.finish().to_be_bytes();
    0.75 + f64::from(byte) / 1024.0
}

impl Failure {
    /// The metric label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timeout",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::NotVerified => "not_verified",
            Self::NoReport => "no_report",
            Self::Endpoint => "endpoint",
        }
    }
}

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST_BEHIND: Duration = Duration::from_secs(10);
const AT_REST: Duration = Duration::from_secs(3600);
/// No watch reports that an endpoint was started again or has another address.
const ENDPOINT_AT_REST: Duration = Duration::from_secs(300);
