//! Making instances pick up what was published: pods are nudged, workloads that do not reload are restarted.

use std::collections::BTreeMap;
use std::time::Duration;

use gaia_api::crd::{Laggard, reason};
use jiff::Timestamp;

use super::Currency;
use crate::backoff::saturating_add;
use crate::instance::{Instance, Target};
use crate::trust_domain::Observed;
use crate::{Action, Event};

/// What is to be done to pods and workloads now, and when more is. Each pod is nudged, and each workload restarted, once
/// for what it lacks.
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

/// The annotation says what the pod lacked when it was written, as the time it must be newer than.
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

/// Wave by wave: a wave is restarted when nobody before it is behind any more. Nobody is restarted who only lacks what
/// nothing waits for yet.
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
    // Pods that start before that might still mount what was there before. When one started is told by another clock,
    // in whole seconds: were it restarted at once, it might be said to have started too early, and never be restarted again.
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
                format!("{target} was restarted: its pods do not reload what was published"),
            ),
            value,
        });
    (restarts.collect(), next)
}

/// Who reports reloads by itself; who can be probed and was not yet is asked first.
fn needs_restart(instance: &Instance) -> bool {
    let unasked = instance.can_be_probed && instance.reloads && instance.probe.is_none();
    instance.report().is_none() && !unasked && !instance.restart_targets.is_empty()
}

const A_MOMENT: Duration = Duration::from_secs(1);
