//! The decision of a deployment: the next step from the observed state, without I/O.
//!
//! While a step runs, any machine may restart and get the staged secrets. So a step stages only files that every other machine
//! already accepts: the files of [`Phase::Publish`] before those of [`Phase::Switch`], and the next phase once each
//! started machine of each app has the previous one.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Exit;

/// The files that change together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Phase {
    /// The files that a service verifies others by: the trust bundle, the key set, the policy and the like.
    Publish,
    /// The files that a service proves itself with: its certificate and key, and the token issuer's signing key.
    Switch,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish",
            Self::Switch => "switch",
        })
    }
}

/// The state of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecretState {
    /// Its value is missing, or is not known to be that of the directory.
    Differs,
    /// Its value is that of the directory, and no machine is known to have it.
    Staged,
    /// Some machines have it.
    Partial,
    /// All machines have it, as Fly reports.
    Deployed,
    /// Fly does not report a state, or one that is not known here.
    Unknown(String),
}

/// A secret of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Secret {
    /// Its name.
    pub(crate) name: String,
    /// The phase in which it changes.
    pub(crate) phase: Phase,
    /// Its state.
    pub(crate) state: SecretState,
}

/// The result of a handshake with a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Handshake {
    /// It presents the certificate of the directory.
    pub(crate) is_current: bool,
    /// The bundle of the directory trusts the certificate that it presents.
    pub(crate) is_trusted: bool,
    /// It accepts a client with the certificate of the directory.
    pub(crate) accepts: bool,
}

/// A machine of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Its id.
    pub(crate) id: String,
    /// False: it is updated, but runs nothing.
    pub(crate) is_started: bool,
    /// The phases whose secrets were staged before it was created or updated last.
    pub(crate) updated_after: Vec<Phase>,
    /// The handshake with it; the cause if there was none.
    pub(crate) handshake: Result<Handshake, String>,
}

/// An app, as observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct App {
    /// Its name.
    pub(crate) name: String,
    /// The secrets that the directory has files for.
    pub(crate) secrets: Vec<Secret>,
    /// Its machines.
    pub(crate) machines: Vec<Machine>,
    /// Secrets of the old scripts that it still has.
    pub(crate) old_names: Vec<String>,
}

/// A step of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// Stage the secrets of a phase.
    Stage(String, Phase),
    /// Restart the machines with the staged secrets.
    Deploy(String, Phase),
    /// Remove the secrets of the old scripts.
    Unset(String, Vec<String>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stage(app, phase) => write!(f, "{app}: stage the secrets to {phase}"),
            Self::Deploy(app, phase) => write!(f, "{app}: deploy the secrets to {phase}"),
            Self::Unset(app, names) => write!(f, "{app}: unset {}", names.join(", ")),
        }
    }
}

/// The reason why no step is safe. Every certificate in use is still trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stop {
    /// The exit code.
    pub(crate) exit: Exit,
    /// The app, the cause and the observation.
    pub(crate) cause: String,
    /// The next step of the user.
    pub(crate) next: String,
}

impl App {
    /// The machines that serve requests.
    pub(crate) fn started(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|machine| machine.is_started)
    }

    /// The first reason why a phase is not complete; none: each started machine has its files, and the handshake shows it.
    pub(crate) fn lacks(&self, phase: Phase) -> Option<Lack> {
        for secret in self.secrets.iter().filter(|secret| secret.phase == phase) {
            match &secret.state {
                SecretState::Deployed => {}
                SecretState::Differs => return Some(Lack::NotSent(secret.name.clone())),
                SecretState::Staged => return Some(Lack::Status(secret.name.clone(), "Staged")),
                SecretState::Partial => return Some(Lack::Status(secret.name.clone(), "Partial")),
                SecretState::Unknown(status) => return Some(Lack::Unknown(secret.name.clone(), status.clone())),
            }
        }
        for machine in self.started() {
            let id = machine.id.clone();
            match &machine.handshake {
                Err(cause) => return Some(Lack::Unreachable(id, cause.clone())),
                _ if !machine.updated_after.contains(&phase) => return Some(Lack::NotUpdated(id)),
                Ok(shown) if phase == Phase::Switch && !shown.is_current => return Some(Lack::OtherLeaf(id)),
                Ok(shown) if !shown.accepts => return Some(Lack::Refuses(id)),
                Ok(_) => {}
            }
        }
        None
    }
}

/// A reason why a phase is not complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Lack {
    /// A secret does not have the value of the directory.
    NotSent(String),
    /// A secret has a status other than `Deployed`.
    Status(String, &'static str),
    /// The status of a secret is not known.
    Unknown(String, String),
    /// There is no handshake with a machine.
    Unreachable(String, String),
    /// A machine was not updated since the secrets were staged.
    NotUpdated(String),
    /// A machine presents another certificate.
    OtherLeaf(String),
    /// A machine refuses the certificate of the directory.
    Refuses(String),
}

impl Lack {
    /// The end of a deployment for this reason.
    pub(crate) fn stop(&self, app: &str) -> Stop {
        let again = "run the command again".to_owned();
        let (exit, cause, next) = match self {
            Self::NotSent(name) => (Exit::Failing, format!("secret {name} was changed by another writer"), again),
            Self::Status(name, status) => (
                Exit::Failing,
                format!("secret {name} stays {status}"),
                format!("fly status -a {app}; then run the command again"),
            ),
            Self::Unknown(name, status) => (
                Exit::Unknown,
                format!("fly reports the status {status:?} for secret {name}"),
                format!("fly secrets sync -a {app}; then run the command again"),
            ),
            Self::Unreachable(id, cause) => (
                Exit::Unknown,
                format!("no handshake with machine {id}: {cause}"),
                format!("fly machine status {id} -a {app}; then run the command again"),
            ),
            Self::NotUpdated(id) => (
                Exit::Failing,
                format!("machine {id} was not updated: it is not part of the app's release"),
                format!("fly machine update {id} -a {app}, or destroy it; then run the command again"),
            ),
            Self::OtherLeaf(id) => (
                Exit::Failing,
                format!("machine {id} presents another certificate than that of the directory"),
                format!(
                    "fly deploy -a {app} with the [[files]] of `gaia export fly --files`; then run the command again"
                ),
            ),
            Self::Refuses(id) => (
                Exit::Failing,
                format!("machine {id} does not accept the certificate of the directory"),
                format!(
                    "fly deploy -a {app} with the [[files]] of `gaia export fly --files`; then run the command again"
                ),
            ),
        };
        Stop { exit, cause: format!("app {app}: {cause}"), next }
    }
}

/// The order of the phases. A bundle from which a CA was removed is published last, when no machine presents a certificate of
/// that CA.
fn order(apps: &[App]) -> [Phase; 2] {
    let shown = apps.iter().flat_map(App::started).filter_map(|machine| machine.handshake.as_ref().ok());
    let trusts_all = shown.into_iter().all(|shown| shown.is_trusted);
    if trusts_all { [Phase::Publish, Phase::Switch] } else { [Phase::Switch, Phase::Publish] }
}

/// Checks what must hold before any step. `may_be_single`: apps with one started machine are accepted.
///
/// # Errors
/// The first violation.
pub(crate) fn check(apps: &[App], may_be_single: bool) -> Result<(), Stop> {
    for app in apps {
        let name = &app.name;
        let started = app.started().count();
        if started == 0 || (started == 1 && !may_be_single) {
            return Err(Stop {
                exit: Exit::Failing,
                cause: format!("app {name} has {started} started machines: a restart would interrupt it"),
                next: format!("fly scale count 2 -a {name}; or accept the interruption with --allow-single"),
            });
        }
        for secret in &app.secrets {
            if let SecretState::Unknown(status) = &secret.state {
                return Err(Lack::Unknown(secret.name.clone(), status.clone()).stop(name));
            }
        }
        for machine in app.started() {
            if let Err(cause) = &machine.handshake {
                return Err(Lack::Unreachable(machine.id.clone(), cause.clone()).stop(name));
            }
        }
    }
    if order(apps)[0] == Phase::Publish {
        return Ok(());
    }
    // The new certificates come first, so every machine must accept them with the bundle that it has.
    for app in apps {
        let refuses = |machine: &&Machine| machine.handshake.as_ref().is_ok_and(|shown| !shown.accepts);
        if let Some(machine) = app.started().find(refuses) {
            return Err(Stop {
                exit: Exit::Failing,
                cause: format!(
                    "the bundle of the directory no longer has the CA of a certificate in use, and machine {} of app {} \
                     does not accept the new ones: no order of steps is without refused requests",
                    machine.id, app.name
                ),
                next: "restore a backup of the directory from before the removal of the CA".to_owned(),
            });
        }
    }
    Ok(())
}

/// The next step; none: the deployment is complete.
///
/// # Errors
/// [`check`].
pub(crate) fn next(apps: &[App], may_be_single: bool) -> Result<Option<Step>, Stop> {
    check(apps, may_be_single)?;
    for phase in order(apps) {
        let differs = |app: &&App| matches!(app.lacks(phase), Some(Lack::NotSent(_)));
        // Published files are safe for every machine at any time; certificates change app by app.
        if phase == Phase::Publish
            && let Some(app) = apps.iter().find(differs)
        {
            return Ok(Some(Step::Stage(app.name.clone(), phase)));
        }
        for app in apps {
            match app.lacks(phase) {
                None => {}
                Some(Lack::NotSent(_)) => return Ok(Some(Step::Stage(app.name.clone(), phase))),
                Some(_) => return Ok(Some(Step::Deploy(app.name.clone(), phase))),
            }
        }
    }
    let old = apps.iter().find(|app| !app.old_names.is_empty());
    Ok(old.map(|app| Step::Unset(app.name.clone(), app.old_names.clone())))
}

/// All steps, if each one succeeds.
///
/// # Errors
/// [`check`].
pub(crate) fn forecast(apps: &[App], may_be_single: bool) -> Result<Vec<Step>, Stop> {
    let mut apps = apps.to_vec();
    let mut steps = vec![];
    while let Some(step) = next(&apps, may_be_single)? {
        for app in &mut apps {
            succeed(app, &step);
        }
        // Each step is taken once; another result is a fault of this module, and the list ends there.
        if steps.contains(&step) {
            break;
        }
        steps.push(step);
    }
    Ok(steps)
}

fn succeed(app: &mut App, step: &Step) {
    match step {
        Step::Stage(name, phase) if *name == app.name => {
            let of_phase = app.secrets.iter_mut().filter(|secret| secret.phase == *phase);
            of_phase.for_each(|secret| secret.state = SecretState::Staged);
            app.machines.iter_mut().for_each(|machine| machine.updated_after.retain(|other| other != phase));
        }
        Step::Deploy(name, _) if *name == app.name => {
            let staged = app.secrets.iter_mut().filter(|secret| secret.state != SecretState::Differs);
            staged.for_each(|secret| secret.state = SecretState::Deployed);
            let is_sent = |phase| app.secrets.iter().all(|it| it.phase != phase || it.state == SecretState::Deployed);
            let sent: Vec<Phase> =
                [Phase::Publish, Phase::Switch].into_iter().filter(|phase| is_sent(*phase)).collect();
            for machine in &mut app.machines {
                if let Ok(shown) = &mut machine.handshake {
                    shown.accepts |= sent.contains(&Phase::Publish);
                    shown.is_current |= sent.contains(&Phase::Switch);
                    shown.is_trusted |= shown.is_current;
                }
                machine.updated_after.clone_from(&sent);
            }
        }
        Step::Unset(name, _) if *name == app.name => app.old_names.clear(),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
