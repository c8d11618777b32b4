//! The operator's loop: plan, execute, report, and retry what failed.

use gaia_plan::Action;
use gaia_plan::pacing::backoff::Failures;
use gaia_plan::trust_domain::WriteRefusal;

use super::{Planned, Resource, World, WriteError};

impl World {
    /// Plans and executes until there is nothing to do at this time. Returns the number of rounds.
    pub(crate) fn settle(&mut self) -> usize {
        (self.view, self.writes_left) = (None, None);
        self.probe();
        for round in 0..ROUNDS {
            let mut moved = false;
            for resource in self.resources() {
                moved |= self.reconcile(&resource);
            }
            if !moved {
                return round;
            }
        }
        let doing: Vec<String> =
            self.log.iter().rev().take(6).map(|done| format!("{:?}: {}", done.by, done.action)).collect();
        self.violations.push((2, format!("not settled after {ROUNDS} rounds: {doing:#?}")));
        ROUNDS
    }

    /// The same, and through all waiting: retries and budgets.
    pub(crate) fn settle_and_wait(&mut self) {
        for _ in 0..WAITS {
            self.settle();
            let plans: Vec<Planned> = self.resources().iter().map(|resource| self.plan(resource)).collect();
            if !self.is_waiting() {
                return;
            }
            self.now = plans.iter().map(|planned| planned.next_check).min().unwrap_or(self.now);
        }
        self.violations.push((2, format!("still waiting after {WAITS} waits")));
    }

    /// Returns true if there were actions without the recorded failures and the issuance budgets.
    fn is_waiting(&mut self) -> bool {
        let failures = std::mem::take(&mut self.memory.failures);
        let budgets = std::mem::take(&mut self.memory.budgets);
        let refused = std::mem::take(&mut self.memory.refused);
        let waiting = self.resources().iter().any(|resource| !self.plan(resource).actions.is_empty());
        (self.memory.failures, self.memory.budgets, self.memory.refused) = (failures, budgets, refused);
        waiting
    }

    /// One reconcile of one resource. Returns true if anything changed.
    pub(crate) fn reconcile(&mut self, resource: &Resource) -> bool {
        self.alive = self.now;
        let planned = self.plan(resource);
        self.check_plan(resource, &planned);
        let told = self.set_rollout(resource, &planned);
        let acted = if planned.actions.is_empty() {
            self.report(resource, planned.status)
        } else {
            self.run(resource, &planned)
        };
        told || acted
    }

    /// Sets the rollout state; returns true if it differs.
    fn set_rollout(&mut self, resource: &Resource, planned: &Planned) -> bool {
        let (Resource::Domain(name), Some(rollout)) = (resource, &planned.rollout) else { return false };
        let before = self.memory.rollout.insert(name.clone(), rollout.clone());
        let cut = before.as_ref().map(|before| before.cut.clone()).unwrap_or_default();
        before.map_or(0, |before| before.open_wave) != rollout.open_wave || cut != rollout.cut
    }

    /// Executes a plan. A failure does not delay independent actions. Always returns true, as at least the memory
    /// changes.
    pub(crate) fn run(&mut self, resource: &Resource, planned: &Planned) -> bool {
        let mut failure = None;
        for action in &planned.actions {
            match self.execute(resource, action) {
                Ok(()) => {}
                // Another writer was faster in one namespace.
                Err(WriteError::Conflict) if is_projection(resource, action) => {}
                Err(WriteError::Conflict) => break,
                Err(WriteError::Died) => return true,
                Err(error @ (WriteError::Refused(_) | WriteError::RefusedHere(_))) => {
                    let is_local = matches!(error, WriteError::RefusedHere(_));
                    let (WriteError::Refused(message) | WriteError::RefusedHere(message)) = error else { continue };
                    if self.note_refusal(resource, action, &message, is_local) {
                        continue;
                    }
                    failure = failure.or(Some(message));
                    if matches!(action, Action::CreateRing(_) | Action::Transition(_) | Action::Restore(_)) {
                        break;
                    }
                }
            }
        }
        match failure {
            Some(message) => self.remember_failure(resource, message),
            None => drop(self.memory.failures.remove(resource)),
        }
        true
    }

    /// Records that a write was refused. Returns true if no other action of the resource depends on it.
    fn note_refusal(&mut self, resource: &Resource, action: &Action, message: &str, is_local: bool) -> bool {
        let is_projection = is_projection(resource, action);
        let Some(object) = action.object() else { return false };
        if is_projection || matches!(resource, Resource::Certificate(_)) {
            let attempts = self.memory.refused.get(object).map_or(0, |refused| refused.failures.attempts) + 1;
            let message = message.to_owned();
            let failures = Failures { attempts, last: self.now, generation: None, reason: "WriteFailed", message };
            self.memory.refused.insert(object.clone(), WriteRefusal { failures, is_local });
        }
        is_projection
    }

    fn remember_failure(&mut self, resource: &Resource, message: String) {
        let generation = self.generation(resource);
        let known = self.memory.failures.get(resource).filter(|failures| failures.generation == generation);
        let attempts = known.map_or(0, |failures| failures.attempts) + 1;
        let failures = Failures { attempts, last: self.now, generation, reason: "WriteFailed", message };
        self.memory.failures.insert(resource.clone(), failures);
    }
}

/// Returns true if an action writes or deletes one object in one namespace on behalf of a TrustDomain.
fn is_projection(resource: &Resource, action: &Action) -> bool {
    let of_domain = matches!(resource, Resource::Domain(_));
    of_domain && action.object().is_some_and(|object| !object.name.ends_with("-ring"))
}

const ROUNDS: usize = 25;
const WAITS: usize = 40;
