//! Leader election on a Lease, with fencing elsewhere: every write has preconditions, so time decides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use gaia_api::Clock;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::Instant;

/// What is known of the lease, judged by what this process has itself seen change and never by the timestamps in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct View {
    holder: Option<String>,
    resource_version: String,
    /// How long ago it was last seen to change.
    unchanged_for: Duration,
}

/// What to do next.
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

/// One candidate.
pub(crate) struct Election {
    api: Api<Lease>,
    me: String,
    clock: Arc<dyn Clock>,
    known: Option<(Lease, Instant)>,
    renewed: Option<Instant>,
    /// When whoever led before renewed the lease last, by its own clock.
    former: Option<Timestamp>,
    transitions: i32,
    pulse: Pulse,
}

/// Whether the election is alive: seconds since its start at which it last came round.
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

    /// Whether it came round in the last minute.
    pub(crate) fn is_alive(&self) -> bool {
        self.age() - self.last.load(Ordering::Acquire) < 60
    }

    fn age(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_secs()).unwrap_or(i64::MAX)
    }
}

impl Election {
    pub(crate) fn new(client: Client, namespace: &str, me: String, clock: Arc<dyn Clock>, pulse: Pulse) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, me, clock, known: None, renewed: None, former: None, transitions: 0, pulse }
    }

    /// Returns once this process leads, with when somebody was last seen to lead before. Nothing but how long nobody did
    /// is judged by that time.
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

    /// Stands for no election, but says that it is alive. Never ends.
    pub(crate) async fn idle(&self) {
        loop {
            self.pulse.beat();
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }

    /// Gives the lease up, so that another replica need not wait for it to run out.
    pub(crate) async fn release(&mut self) {
        if let (Some(_), Some((lease, _))) = (self.renewed.take(), self.known.take()) {
            let mut lease = lease;
            if let Some(spec) = &mut lease.spec {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
            }
            if let Err(error) = timed(self.api.replace(LEASE, &PostParams::default(), &lease)).await {
                tracing::warn!(error, "the lease could not be released; it runs out by itself");
            }
        }
    }

    async fn come_round(&mut self) {
        self.pulse.beat();
        if self.renewed.is_none() {
            self.look().await;
        }
        let view = self.known.as_ref().map(|(lease, since)| View {
            holder: lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()),
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
        match timed(self.api.get_opt(LEASE)).await {
            Ok(found) => self.see(found),
            Err(error) => tracing::warn!(error, "the lease could not be read"),
        }
    }

    fn see(&mut self, found: Option<Lease>) {
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
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
        let params = PostParams::default();
        let before = self.known.as_ref().and_then(|(lease, _)| lease.spec.as_ref()?.renew_time.as_ref());
        let before = before.map(|time| time.0);
        let lease = self.claimed();
        let claimed = match &self.known {
            Some(_) => timed(self.api.replace(LEASE, &params, &lease)).await,
            None => timed(self.api.create(&params, &lease)).await,
        };
        match claimed {
            Ok(lease) => {
                if self.renewed.is_none() {
                    self.former = before;
                }
                self.known = Some((lease, Instant::now()));
                self.renewed = Some(started);
            }
            Err(error) => {
                tracing::warn!(error, "the lease could not be taken or renewed");
                // Somebody may have taken it: what is known is out of date.
                self.look().await;
            }
        }
    }

    fn claimed(&mut self) -> Lease {
        let now = MicroTime(self.clock.now());
        let mut lease = self.known.as_ref().map(|(lease, _)| lease.clone()).unwrap_or_default();
        lease.metadata = ObjectMeta {
            name: Some(LEASE.to_owned()),
            namespace: lease.metadata.namespace,
            resource_version: lease.metadata.resource_version,
            uid: lease.metadata.uid,
            ..Default::default()
        };
        let before = lease.spec.unwrap_or_default();
        let mine = before.holder_identity.as_deref() == Some(self.me.as_str());
        self.transitions = before.lease_transitions.unwrap_or_default() + i32::from(!mine);
        lease.spec = Some(LeaseSpec {
            acquire_time: if mine { before.acquire_time } else { Some(now.clone()) },
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            lease_transitions: Some(self.transitions),
            renew_time: Some(now),
            ..Default::default()
        });
        lease
    }
}

async fn timed<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match tokio::time::timeout(CALL_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", CALL_TIMEOUT.as_secs())),
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
