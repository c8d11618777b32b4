//! Delivery of published material to instances: pods are nudged, workloads that do not reload are restarted.

use std::collections::BTreeMap;
use std::time::Duration;

use gaia_api::crd::{Laggard, reason};
use jiff::Timestamp;

use super::Currency;
use crate::instances::instance::{Instance, Target};
use crate::pacing::backoff::saturating_add;
use crate::trust_domain::Observed;
use crate::{Action, Event};

/// The actions on pods and workloads that are due now, and the time of the next one. Each pod is nudged, and each
/// workload restarted, once for each publication.
pub(crate) fn workload_actions(
    observed: &Observed<'_>,
    currency: &Currency,
    waited_for: &[&Laggard],
    now: Timestamp,
) -> (Vec<Action>, Option<Timestamp>) {
    let mut actions = vec![];
    let mut later = None;
    if observed.abilities.nudge {
        actions.extend(observed.instances.iter().filter_map(|instance| nudge(instance, currency)));
    }
    if observed.abilities.restart {
        let (restarts, next) = restarts(observed, currency, waited_for, now);
        actions.extend(restarts);
        later = next;
    }
    (actions, later)
}

/// The annotation holds the publication that the pod lacked when it was written, as the time it must be newer than.
fn nudge(instance: &Instance, currency: &Currency) -> Option<Action> {
    let value = currency.behind.get(&instance.uid)?.to_string();
    let is_pod = !instance.name.contains(':');
    (is_pod && instance.reloads && instance.nudged.as_deref() != Some(&value)).then(|| Action::Nudge {
        namespace: instance.namespace.clone(),
        pod: instance.name.clone(),
        uid: instance.uid.clone(),
        value,
    })
}

/// Wave by wave: a wave is restarted when no instance of an earlier wave lags. An instance is not restarted for a
/// publication that no step waits for yet.
fn restarts(
    observed: &Observed<'_>,
    currency: &Currency,
    waited_for: &[&Laggard],
    now: Timestamp,
) -> (Vec<Action>, Option<Timestamp>) {
    let is_due = |instance: &Instance| {
        currency.unserved.contains(&instance.uid)
            || waited_for.iter().any(|l| l.pod == instance.name && l.namespace == instance.namespace)
    };
    let stuck: Vec<(&Instance, Timestamp)> = observed
        .instances
        .iter()
        .filter_map(|instance| Some((instance, *currency.behind.get(&instance.uid)?)))
        .filter(|(instance, _)| needs_restart(instance) && is_due(instance))
        .collect();
    let Some(wave) = stuck.iter().map(|(instance, _)| instance.wave).min() else { return (vec![], None) };
    let mut targets: BTreeMap<&Target, Timestamp> = BTreeMap::new();
    for (instance, from) in stuck.iter().filter(|(instance, _)| instance.wave == wave) {
        for target in &instance.restart_targets {
            let latest = targets.entry(target).or_insert(*from);
            *latest = (*latest).max(*from);
        }
    }
    // A pod that starts earlier might still mount the previous content. Its start time comes from another clock, in
    // whole seconds: a pod restarted at once might appear to have started too early, and would never be restarted
    // again.
    let margin = observed.domain.spec.propagation.clock_skew.value() + A_MOMENT;
    let due = |from: Timestamp| saturating_add(from, margin);
    let next = targets.values().map(|from| due(*from)).filter(|due| *due > now).min();
    let restarts = targets
        .into_iter()
        .filter(|(_, from)| due(*from) <= now)
        .map(|(target, from)| (target, from.to_string()))
        .filter(|(target, value)| observed.restarted.get(target) != Some(value))
        .map(|(target, value)| Action::RestartWorkload {
            target: target.clone(),
            event: Event::new(
                reason::WORKLOAD_RESTARTED,
                format!("restarted {target}: its pods do not reload changed files"),
            ),
            value,
        });
    (restarts.collect(), next)
}

/// Returns true for an instance that neither reloads nor is about to be probed.
fn needs_restart(instance: &Instance) -> bool {
    let unasked = instance.can_be_probed && instance.reloads && instance.probe.is_none();
    instance.report().is_none() && !unasked && !instance.restart_targets.is_empty()
}

const A_MOMENT: Duration = Duration::from_secs(1);
