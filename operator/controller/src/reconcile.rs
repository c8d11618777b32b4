//! Observe, plan, execute, report: for one custom resource at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gaia_api::crd::reason;
use gaia_plan::gaia_service::ServicePlan;
use gaia_plan::object::merge::merge_patch;
use gaia_plan::object::{ObjectKey, Version};
use gaia_plan::pacing::backoff::Failures;
use gaia_plan::pacing::budget::IssuanceBudget;
use gaia_plan::trust_domain::{DomainPlan, Rollout};
use gaia_plan::{Action, gaia_service, service_certificate, trust_domain};
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

use crate::cache::{ClusterCache, lock};
use crate::execute::executor::Executor;
use crate::observability::events::{Events, Notice};
use crate::observability::metrics::Metrics;
use crate::schedule::scheduler::Scheduler;
use crate::store::error::{ExecuteError, StoreError};
use crate::store::{ObjectRef, Store};

/// Decides and acts.
pub(crate) struct Reconciler<S> {
    pub(crate) executor: Arc<Executor<S>>,
    pub(crate) scheduler: Scheduler,
    pub(crate) events: Events,
    pub(crate) metrics: Metrics,
    /// The time when a status was last written.
    pub(crate) reported: Mutex<HashMap<ObjectRef, Instant>>,
    /// The number of consecutive failures to read objects that no watch reports.
    pub(crate) unread: Mutex<HashMap<ObjectRef, u32>>,
}

/// A plan for any kind, as far as the execution is concerned.
pub(crate) struct Planned {
    pub(crate) actions: Vec<Action>,
    status: Value,
    reported: Value,
    version: Version,
    generation: Option<i64>,
    next_check: Timestamp,
    rollout: Option<Rollout>,
    /// True if an instance was never probed: the counts are incomplete.
    has_unasked: bool,
    /// True if instances that it reports of, also by its ServiceCertificate, were never probed.
    is_early: bool,
    /// The earliest expiry of the certificates that the instances of a ServiceCertificate serve.
    served_until: Option<Timestamp>,
    /// The number of collected ledger reports when this was planned, if the record of the service holds all of them
    /// once this is done.
    recorded: Option<u64>,
    /// Fields of the status that were cut to what the schema accepts.
    cut: Vec<String>,
}

/// The result of a reconcile.
struct Ended {
    /// The time when to reconcile again.
    next: Option<Instant>,
    /// True if a re-issue waits for its slot, or may still need one.
    keeps_slot: bool,
}

/// The time at which a status is written.
enum Due {
    Now(Value),
    /// At that time, unless something more happens before.
    At(Instant),
    /// Not before something happens.
    Later,
}

impl Planned {
    /// Returns true if it re-issues a certificate at the pace of re-issues.
    fn is_paced(&self) -> bool {
        self.actions.iter().any(|action| matches!(action, Action::IssueLeaf(leaf) if leaf.paced))
    }

    /// Returns the time when to plan again.
    fn next_time(&self, now: Timestamp) -> Instant {
        Instant::now() + gaia_plan::pacing::backoff::since(self.next_check, now).max(MINIMUM_WAIT)
    }
}

impl<S: Store> Reconciler<S> {
    /// Takes keys from the queue until it is closed.
    pub(crate) async fn work(self: Arc<Self>) {
        while let Some(key) = self.scheduler.decisions.next().await {
            let ended = self.reconcile(&key).await;
            if !ended.keeps_slot {
                self.scheduler.pacer.give_back(&key, Instant::now());
            }
            self.scheduler.decisions.done(key, ended.next);
        }
    }

    /// One custom resource.
    async fn reconcile(&self, key: &ObjectRef) -> Ended {
        let done = |next| Ended { next, keeps_slot: false };
        let held = lock(&self.executor.world).held(key);
        if let Some(held) = held {
            return done(self.report_held(key, &held).await);
        }
        if let Err(error) = self.look_around(key).await {
            return Ended { next: self.report_unread(key, &error).await, keeps_slot: true };
        }
        self.forget_unread(key);
        for _ in 0..ROUNDS {
            let now = self.executor.clock.now();
            let (planned, held) = {
                let world = lock(&self.executor.world);
                (plan(&world, key, now), world.held(key))
            };
            if let Some(held) = held {
                return done(self.report_held(key, &held).await);
            }
            let Some(mut planned) = planned else {
                self.forget(key);
                return done(None);
            };
            if let (ObjectRef::TrustDomain(name), Some(rollout)) = (key, planned.rollout.take()) {
                let affected = lock(&self.executor.world).set_rollout(name, rollout);
                self.scheduler.push(&self.executor.world, affected);
            }
            if planned.actions.is_empty() {
                self.forget_recorded(key, &planned);
                return done(Some(self.report(key, &planned, now).await));
            }
            if planned.is_paced() && !self.scheduler.pacer.request(key, Instant::now()) {
                return Ended { next: Some(planned.next_time(now)), keeps_slot: true };
            }
            if let Err(error) = self.act(key, &planned).await {
                self.remember(key, &planned, &error, now);
            }
        }
        tracing::warn!(%key, "did not converge in 8 passes; requeueing");
        done(Some(Instant::now() + RETRY))
    }

    /// Final reports of instances are kept only until the record holds them.
    fn forget_recorded(&self, key: &ObjectRef, planned: &Planned) {
        if let (ObjectRef::Service(namespace, name), Some(heard)) = (key, planned.recorded) {
            lock(&self.executor.world).forget_recorded(&(namespace.clone(), name.clone()), heard);
        }
    }

    fn forget(&self, key: &ObjectRef) {
        self.metrics.forget(key);
        if let ObjectRef::TrustDomain(name) = key {
            self.executor.signers.forget(name);
        }
        self.scheduler.decisions.forget(key);
        lock(&self.executor.world).forget_attempts(key);
        self.reported.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.forget_unread(key);
    }

    fn done(&self, key: &ObjectRef, action: &Action, started: Instant) {
        tracing::info!(%key, %action, "done");
        if matches!(action, Action::IssueLeaf(_)) {
            let now = self.executor.clock.now();
            let mut world = lock(&self.executor.world);
            let budget = world.budgets.get(key).copied().unwrap_or_else(|| IssuanceBudget::full(now));
            world.budgets.insert(key.clone(), budget.spend(now));
            self.metrics.count_issuance("issued", action.event().map_or("", |event| event.reason));
            self.metrics.issuance_seconds.observe(started.elapsed().as_secs_f64());
        }
        if let Action::Transition(transition) = action {
            self.metrics.count_rotation(transition);
        }
        self.publish_events(key, action);
    }

    fn remember(&self, key: &ObjectRef, planned: &Planned, error: &ExecuteError, now: Timestamp) {
        let message = error.to_string();
        tracing::warn!(%key, error = message, class = error.class().as_str(), "reconcile failed; retrying");
        if planned.actions.iter().any(|action| matches!(action, Action::IssueLeaf(_))) {
            self.metrics.count_issuance("failed", error.class().as_str());
        }
        let mut world = lock(&self.executor.world);
        let known = world.failures.get(key);
        let first = known.is_none_or(|known| known.message != message);
        let attempts =
            known.filter(|known| known.generation == planned.generation).map_or(0, |known| known.attempts) + 1;
        let failures = Failures {
            attempts,
            last: now,
            generation: planned.generation,
            reason: reason::WRITE_FAILED,
            message: message.clone(),
        };
        world.failures.insert(key.clone(), failures);
        drop(world);
        if first {
            let about = self.reference(key);
            self.events.tell(Notice { about, warning: true, reason: reason::WRITE_FAILED, message });
        }
    }

    /// Writes the status if it differs, and returns the time of the next check.
    async fn report(&self, key: &ObjectRef, planned: &Planned, now: Timestamp) -> Instant {
        self.measure(key, planned, now);
        let next = planned.next_time(now);
        let patch = match self.due_report(key, planned) {
            Due::Now(patch) => patch,
            Due::At(at) => return next.min(at),
            Due::Later => return next,
        };
        if !planned.cut.is_empty() {
            tracing::warn!(%key, fields = planned.cut.join(", "), "the status exceeds its schema and is cut");
            self.metrics.count_status_cut(key.kind());
        }
        match self.executor.store.patch_status(key, &planned.version, patch).await {
            Ok(object) => {
                self.publish_problems(key, planned);
                self.publish_overdue(key, planned);
                // An early status, before all instances were probed, does not delay a later status with their results.
                if !planned.is_early {
                    self.reported.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), Instant::now());
                }
                let keys = lock(&self.executor.world).take_reported(object);
                self.scheduler.push(&self.executor.world, keys.into_iter().filter(|affected| affected != key));
                next
            }
            Err(StoreError::Conflict { .. } | StoreError::NotFound { .. }) => next.min(self.read_again(key).await),
            Err(error) => {
                tracing::warn!(%key, %error, "failed to report the status");
                next.min(Instant::now() + RETRY)
            }
        }
    }

    /// The patch of the differences. Differences in counts and times alone are written at most once a minute, except
    /// when all instances become current.
    fn due_report(&self, key: &ObjectRef, planned: &Planned) -> Due {
        let (before, after) = (&planned.reported, &planned.status);
        let Some(patch) = merge_patch(before, after) else { return Due::Later };
        if planned.has_unasked && report::is_same_but_for_instances(before, after) {
            return Due::Later;
        }
        if report::is_same_but_for_counts(before, after) && !report::is_whole_now(before, after) {
            let reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
            let next = reported.get(key).map(|at| *at + BETWEEN_COUNTS);
            if let Some(next) = next.filter(|next| *next > Instant::now()) {
                return Due::At(next);
            }
        }
        Due::Now(patch)
    }
}

/// Plans for any kind. None if the object is deleted or being deleted.
pub(crate) fn plan(world: &ClusterCache, key: &ObjectRef, now: Timestamp) -> Option<Planned> {
    let meta = world.metadata(key)?;
    let (namespace, name) = key.names();
    if world.held(key).is_some() {
        return None;
    }
    if meta.deletion_timestamp.is_some() || world.is_terminating(namespace) {
        return None;
    }
    let version = Version {
        uid: meta.uid.clone().unwrap_or_default(),
        resource_version: meta.resource_version.clone().unwrap_or_default(),
    };
    let generation = meta.generation;
    let place = (namespace.to_owned(), name.to_owned());
    let mut rollout = None;
    let mut recorded = None;
    let (actions, mut status, reported, next_check) = match key {
        ObjectRef::TrustDomain(name) => {
            let observed = world.observe_trust_domain(name)?;
            let DomainPlan { plan, rollout: told } = trust_domain::plan(&observed, now);
            rollout = Some(told);
            (plan.actions, value(&plan.status), value(&observed.domain.status), plan.next_check)
        }
        ObjectRef::Certificate(..) => {
            let observed = world.observe_certificate(&place, now)?;
            let plan = service_certificate::plan(&observed, now);
            (plan.actions, value(&plan.status), value(&observed.certificate.status), plan.next_check)
        }
        ObjectRef::Service(..) => {
            let callers = world.callers_of(&place);
            let targets = world.targets_of(&place);
            let observed = world.observe_service(&place, &callers, &targets)?;
            let ServicePlan { plan, is_recorded } = gaia_service::plan(&observed, now);
            recorded = is_recorded.then(|| world.heard());
            (plan.actions, value(&plan.status), value(&observed.service.status), plan.next_check)
        }
    };
    let cut = gaia_api::crd::fit_status(key.kind(), &mut status);
    let mut reported = if reported.is_null() { Value::Object(serde_json::Map::new()) } else { reported };
    world.compare_lags(key, &mut reported, &mut status);
    let served_until = matches!(key, ObjectRef::Certificate(..)).then(|| world.served_until(&place)).flatten();
    let has_unasked = world.has_unasked(key);
    let is_early = match key {
        ObjectRef::Service(namespace, name) => {
            world.has_unasked(&ObjectRef::Certificate(namespace.clone(), name.clone()))
        }
        ObjectRef::TrustDomain(_) | ObjectRef::Certificate(..) => has_unasked,
    };
    Some(Planned {
        actions,
        status,
        reported,
        version,
        generation,
        next_check,
        rollout,
        has_unasked,
        is_early,
        served_until,
        recorded,
        cut,
    })
}

/// Returns true if an action writes the record of API-key usage. The same reports must then not be written twice,
/// because gaps found in them are dated.
fn writes_record(key: &ObjectRef, action: &Action) -> bool {
    match (key, action) {
        (ObjectRef::Service(namespace, name), Action::Write(change)) => {
            change.key == ObjectKey::config_map(namespace, gaia_api::names::ledger(name))
        }
        _ => false,
    }
}

fn value(status: &impl serde::Serialize) -> Value {
    // A status has string keys only, so it always has a JSON form.
    serde_json::to_value(status).unwrap_or(Value::Null)
}

mod act;
mod held;
mod measure;
mod notices;
#[cfg(test)]
mod recorded_tests;
mod report;
mod reread;
#[cfg(test)]
pub(crate) mod scripted;
mod unwatched;

const ROUNDS: usize = 8;
/// The minimum time between two writes of counts.
const BETWEEN_COUNTS: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);
const MINIMUM_WAIT: Duration = Duration::from_millis(100);
