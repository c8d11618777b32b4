//! Leader election on a Lease. Fencing is done elsewhere: every write has preconditions, so its correctness does not
//! depend on time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use gaia_api::Clock;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Client;
use serde::{Deserialize, Deserializer};
use tokio::time::Instant;

use crate::api_server::object::read;
use crate::api_server::{Answer, ApiServer, CallError, Fault, Object, Reading, Resource, within};

/// The observed lease, evaluated by the changes that this process has seen and never by the timestamps in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct View {
    holder: Option<String>,
    resource_version: String,
    /// The time since its last observed change.
    unchanged_for: Duration,
}

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Acquire,
    Renew,
    Wait,
    StandDown,
}

/// Decides, as client-go's leader election does. `renewed_ago` is how long ago this process last held the lease for
/// certain; none if it does not hold it.
fn step(lease: Option<&View>, me: &str, renewed_ago: Option<Duration>) -> Step {
    let holder = lease.and_then(|view| view.holder.as_deref()).filter(|holder| !holder.is_empty());
    match (renewed_ago, holder) {
        (Some(ago), _) if ago >= RENEW_DEADLINE => Step::StandDown,
        (Some(_), Some(other)) if other != me => Step::StandDown,
        (Some(_), _) => Step::Renew,
        (None, None) => Step::Acquire,
        (None, Some(holder)) if holder == me => Step::Acquire,
        (None, Some(_)) if lease.is_some_and(|view| view.unchanged_for >= LEASE_DURATION) => Step::Acquire,
        (None, Some(_)) => Step::Wait,
    }
}

/// The lease as it was read. Its times are taken as absent if they cannot be represented, since any writer of the lease
/// can set them.
#[derive(Debug, Clone, Deserialize)]
struct Found {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: FoundSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FoundSpec {
    holder_identity: Option<String>,
    #[serde(default, deserialize_with = "time_if_readable")]
    acquire_time: Option<MicroTime>,
    #[serde(default, deserialize_with = "time_if_readable")]
    renew_time: Option<MicroTime>,
    lease_transitions: Option<i32>,
}

impl Object for Found {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

fn time_if_readable<'de, D: Deserializer<'de>>(json: D) -> Result<Option<MicroTime>, D::Error> {
    let value = serde_json::Value::deserialize(json)?;
    Ok(serde_json::from_value(value).ok())
}

/// One candidate.
pub(crate) struct Election {
    api: ApiServer,
    namespace: String,
    me: String,
    clock: Arc<dyn Clock>,
    known: Option<(Found, Instant)>,
    renewed: Option<Instant>,
    /// The last renewal by the previous leader, by its own clock.
    former: Option<Timestamp>,
    transitions: i32,
    pulse: Pulse,
}

/// Liveness of the election: seconds since its start at its last iteration.
#[derive(Clone)]
pub(crate) struct Pulse {
    start: Instant,
    last: Arc<AtomicI64>,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), last: Arc::new(AtomicI64::new(0)) }
    }

    fn beat(&self) {
        self.last.store(self.age(), Ordering::Release);
    }

    /// Returns true if it came round in the last minute.
    pub(crate) fn is_alive(&self) -> bool {
        self.age() - self.last.load(Ordering::Acquire) < 60
    }

    fn age(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_secs()).unwrap_or(i64::MAX)
    }
}

impl Election {
    pub(crate) fn new(client: Client, namespace: &str, me: String, clock: Arc<dyn Clock>, pulse: Pulse) -> Self {
        let (api, namespace) = (ApiServer::new(client), namespace.to_owned());
        Self { api, namespace, me, clock, known: None, renewed: None, former: None, transitions: 0, pulse }
    }

    /// Returns once this process leads, with the last time at which another leader was seen. That time is only used for
    /// the length of the gap without a leader.
    pub(crate) async fn acquire(&mut self) -> Option<Timestamp> {
        while self.renewed.is_none() {
            self.come_round().await;
            if self.renewed.is_none() {
                tokio::time::sleep(RETRY_PERIOD).await;
            }
        }
        self.former
    }

    /// Holds the lease; returns once it is lost.
    pub(crate) async fn hold(&mut self) {
        while self.renewed.is_some() {
            tokio::time::sleep(RETRY_PERIOD).await;
            self.come_round().await;
        }
    }

    /// Takes part in no election, but reports liveness. Never ends.
    pub(crate) async fn idle(&self) {
        loop {
            self.pulse.beat();
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }

    /// Gives the lease up, so that another replica need not wait for it to run out.
    pub(crate) async fn release(&mut self) {
        if let (Some(_), Some((lease, _))) = (self.renewed.take(), self.known.take()) {
            let spec = LeaseSpec {
                acquire_time: lease.spec.acquire_time.clone(),
                holder_identity: Some(String::new()),
                lease_duration_seconds: Some(1),
                lease_transitions: lease.spec.lease_transitions,
                renew_time: lease.spec.renew_time.clone(),
                ..Default::default()
            };
            if let Err(error) = self.put(&with_spec(Some(&lease), spec)).await {
                tracing::warn!(%error, "failed to release the lease; it will expire");
            }
        }
    }

    async fn come_round(&mut self) {
        self.pulse.beat();
        if self.renewed.is_none() {
            self.look().await;
        }
        let view = self.known.as_ref().map(|(lease, since)| View {
            holder: lease.spec.holder_identity.clone(),
            resource_version: lease.metadata.resource_version.clone().unwrap_or_default(),
            unchanged_for: since.elapsed(),
        });
        match step(view.as_ref(), &self.me, self.renewed.map(|at| at.elapsed())) {
            Step::Acquire | Step::Renew => self.claim().await,
            Step::Wait => {}
            Step::StandDown => self.renewed = None,
        }
    }

    async fn look(&mut self) {
        let request = self.api.get(Resource::LEASE, Some(&self.namespace), LEASE);
        let found = within(CALL_TIMEOUT, request).await.and_then(|answer| answer.map(lease).transpose());
        match found {
            Ok(found) => self.see(found),
            Err(error) => tracing::warn!(%error, "failed to read the lease"),
        }
    }

    async fn put(&self, lease: &Lease) -> Result<Answer, CallError> {
        within(CALL_TIMEOUT, self.api.replace(Resource::LEASE, Some(&self.namespace), LEASE, lease)).await
    }

    fn see(&mut self, found: Option<Found>) {
        let version = |lease: &Found| lease.metadata.resource_version.clone();
        let same = match (&self.known, &found) {
            (Some((known, _)), Some(found)) => version(known) == version(found),
            _ => false,
        };
        if !same {
            self.known = found.map(|lease| (lease, Instant::now()));
        }
    }

    /// Compare-and-set by the resource version that was seen.
    async fn claim(&mut self) {
        let started = Instant::now();
        let before = self.known.as_ref().and_then(|(lease, _)| lease.spec.renew_time.as_ref());
        let before = before.map(|time| time.0);
        let wanted = self.claimed();
        let claimed = match &self.known {
            Some(_) => self.put(&wanted).await,
            None => within(CALL_TIMEOUT, self.api.create(Resource::LEASE, Some(&self.namespace), &wanted)).await,
        };
        match claimed.and_then(lease) {
            Ok(lease) => {
                if self.renewed.is_none() {
                    self.former = before;
                }
                self.known = Some((lease, Instant::now()));
                self.renewed = Some(started);
            }
            Err(error) => {
                tracing::warn!(%error, "failed to acquire or renew the lease");
                // Another instance may have acquired it: the observed lease is outdated.
                self.look().await;
            }
        }
    }

    fn claimed(&mut self) -> Lease {
        let now = MicroTime(self.clock.now());
        let found = self.known.as_ref().map(|(lease, _)| lease);
        let before = found.map(|lease| lease.spec.clone()).unwrap_or_default();
        let mine = before.holder_identity.as_deref() == Some(self.me.as_str());
        self.transitions = before.lease_transitions.unwrap_or_default().saturating_add(i32::from(!mine));
        let spec = LeaseSpec {
            acquire_time: before.acquire_time.filter(|_| mine).or_else(|| Some(now.clone())),
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            lease_transitions: Some(self.transitions),
            renew_time: Some(now),
            ..Default::default()
        };
        with_spec(found, spec)
    }
}

/// The lease that replaces the one that was read.
fn with_spec(found: Option<&Found>, spec: LeaseSpec) -> Lease {
    let metadata = found.map(|found| &found.metadata);
    let metadata = ObjectMeta {
        name: Some(LEASE.to_owned()),
        namespace: metadata.and_then(|meta| meta.namespace.clone()),
        resource_version: metadata.and_then(|meta| meta.resource_version.clone()),
        uid: metadata.and_then(|meta| meta.uid.clone()),
        ..Default::default()
    };
    Lease { metadata, spec: Some(spec) }
}

fn lease(answer: Answer) -> Result<Found, CallError> {
    let unreadable = |fault: Fault| CallError::Answer(fault.to_string());
    match read(answer).map_err(unreadable)? {
        Reading::Object(lease) => Ok(lease),
        Reading::Unreadable(lease) => Err(unreadable(lease.fault)),
    }
}

const LEASE: &str = "gaia-operator";
const LEASE_DURATION: Duration = Duration::from_secs(15);
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RETRY_PERIOD: Duration = Duration::from_secs(2);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn held(holder: &str, unchanged_for: u64) -> View {
        View {
            holder: Some(holder.to_owned()),
            resource_version: "1".to_owned(),
            unchanged_for: Duration::from_secs(unchanged_for),
        }
    }

    #[test]
    fn a_free_lease_is_taken() {
        assert_eq!(step(None, "me", None), Step::Acquire);
        assert_eq!(step(Some(&held("", 0)), "me", None), Step::Acquire);
    }

    #[test]
    fn anothers_lease_is_taken_only_after_it_was_seen_unchanged_for_its_duration() {
        assert_eq!(step(Some(&held("other", 14)), "me", None), Step::Wait);
        assert_eq!(step(Some(&held("other", 15)), "me", None), Step::Acquire);
    }

    #[test]
    fn a_leader_renews_until_its_deadline_and_then_stands_down() {
        assert_eq!(step(Some(&held("me", 0)), "me", Some(Duration::from_secs(9))), Step::Renew);
        assert_eq!(step(Some(&held("me", 0)), "me", Some(Duration::from_secs(10))), Step::StandDown);
    }

    #[test]
    fn a_leader_that_sees_another_holder_stands_down_at_once() {
        assert_eq!(step(Some(&held("other", 0)), "me", Some(Duration::from_secs(1))), Step::StandDown);
    }
}
