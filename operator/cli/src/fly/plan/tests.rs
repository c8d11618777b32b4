use std::collections::{BTreeSet, HashSet};

use proptest::prelude::*;
use rstest::rstest;

use super::*;

const PHASES: [Phase; 2] = [Phase::Publish, Phase::Switch];

/// A platform of which the steps are taken, by the facts of Fly.
#[derive(Debug, Clone)]
struct Model {
    apps: Vec<ModelApp>,
    bundle: BTreeSet<u8>,
    leaf: u8,
}

#[derive(Debug, Clone)]
struct ModelApp {
    machines: Vec<ModelMachine>,
    /// For each phase: the value of the directory is stored.
    sent: [bool; 2],
    fault: Fault,
    old_names: bool,
}

#[derive(Debug, Clone)]
struct ModelMachine {
    bundle: BTreeSet<u8>,
    leaf: u8,
    has: [bool; 2],
    updated: [bool; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The deployment restarts nothing.
    Stuck,
    /// It restarts the first machine only.
    Partial,
    /// Fly reports no state.
    Unknown,
}

impl Model {
    fn new(deployed: (&[u8], u8), directory: (&[u8], u8), apps: usize, machines: usize) -> Self {
        let machine = ModelMachine {
            bundle: deployed.0.iter().copied().collect(),
            leaf: deployed.1,
            has: [false; 2],
            updated: [false; 2],
        };
        let app = ModelApp { machines: vec![machine; machines], sent: [false; 2], fault: Fault::None, old_names: true };
        Self { apps: vec![app; apps], bundle: directory.0.iter().copied().collect(), leaf: directory.1 }
    }

    fn view(&self) -> Vec<App> {
        self.apps.iter().enumerate().map(|(index, app)| self.view_of(index, app)).collect()
    }

    fn view_of(&self, index: usize, app: &ModelApp) -> App {
        let state = |phase: usize| {
            let count = app.machines.iter().filter(|machine| machine.has[phase]).count();
            match (app.sent[phase], app.fault) {
                (false, _) => SecretState::Differs,
                (true, Fault::Unknown) => SecretState::Unknown("Unknown".to_owned()),
                (true, _) if count == app.machines.len() => SecretState::Deployed,
                (true, _) if count == 0 => SecretState::Staged,
                (true, _) => SecretState::Partial,
            }
        };
        let secret = |phase: usize| Secret { name: format!("S{phase}"), phase: PHASES[phase], state: state(phase) };
        let machine = |(number, it): (usize, &ModelMachine)| Machine {
            id: format!("m{number}"),
            is_started: true,
            updated_after: (0..2).filter(|phase| it.updated[*phase]).map(|phase| PHASES[phase]).collect(),
            handshake: Ok(Handshake {
                is_current: it.has[1],
                is_trusted: self.bundle.contains(&it.leaf),
                accepts: it.bundle.contains(&self.leaf),
            }),
        };
        App {
            name: index.to_string(),
            secrets: vec![secret(0), secret(1)],
            machines: app.machines.iter().enumerate().map(machine).collect(),
            old_names: if app.old_names { vec!["CA_CERT".to_owned()] } else { vec![] },
        }
    }

    /// A machine starts with the stored secrets. `is_update`: Fly gives it another instance id.
    fn restart(&mut self, app: usize, machine: usize, is_update: bool) {
        let sent = self.apps[app].sent;
        let it = &mut self.apps[app].machines[machine];
        if sent[0] {
            it.bundle.clone_from(&self.bundle);
        }
        if sent[1] {
            it.leaf = self.leaf;
        }
        it.has = [it.has[0] || sent[0], it.has[1] || sent[1]];
        it.updated = it.updated.map(|before| before || is_update);
        self.assert_trusted();
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Stage(app, phase) => {
                let app = &mut self.apps[app.parse::<usize>().unwrap()];
                let phase = PHASES.iter().position(|other| other == phase).unwrap();
                app.sent[phase] = true;
                app.machines.iter_mut().for_each(|machine| machine.updated[phase] = false);
            }
            Step::Deploy(app, _) => {
                let app: usize = app.parse().unwrap();
                let count = match self.apps[app].fault {
                    Fault::Stuck => 0,
                    Fault::Partial => 1,
                    Fault::None | Fault::Unknown => self.apps[app].machines.len(),
                };
                (0..count).for_each(|machine| self.restart(app, machine, true));
            }
            Step::Unset(app, _) => self.apps[app.parse::<usize>().unwrap()].old_names = false,
        }
    }

    /// Each machine accepts the certificate of each other one.
    fn assert_trusted(&self) {
        let machines: Vec<_> = self.apps.iter().flat_map(|app| &app.machines).collect();
        for server in &machines {
            for client in &machines {
                assert!(server.bundle.contains(&client.leaf), "{self:#?}");
            }
        }
    }

    fn is_complete(&self) -> bool {
        let has_all = |machine: &ModelMachine| machine.leaf == self.leaf && machine.bundle == self.bundle;
        self.apps.iter().all(|app| !app.old_names && app.machines.iter().all(has_all))
    }

    /// One run of the command; `restarts`: machines that restart for another reason before each step.
    fn run(&mut self, restarts: &[(usize, usize, bool)]) -> Result<(), Stop> {
        let mut taken = HashSet::new();
        let mut restarts = restarts.iter();
        while let Some(step) = next(&self.view(), false)? {
            if !taken.insert(step.clone()) {
                let (Step::Stage(app, phase) | Step::Deploy(app, phase)) = &step else { panic!("{step} again") };
                let view = &self.view()[app.parse::<usize>().unwrap()];
                return Err(view.lacks(*phase).unwrap().stop(app));
            }
            self.take(&step);
            if let Some((app, machine, is_update)) = restarts.next() {
                let (app, count) = (app % self.apps.len(), self.apps[0].machines.len());
                self.restart(app, machine % count, *is_update);
            }
        }
        Ok(())
    }
}

/// A bundle and a leaf, by the numbers of their CAs.
type Files = (&'static [u8], u8);

/// The deployed files, and those of the directory.
fn cases() -> impl Strategy<Value = (Files, Files)> {
    prop_oneof![
        // A renewal, a published CA, a switch, both at once, and the removal of a CA with and without the switch before it.
        Just(((&[1_u8][..], 1), (&[1_u8][..], 1))),
        Just(((&[1][..], 1), (&[1, 2][..], 1))),
        Just(((&[1, 2][..], 1), (&[1, 2][..], 2))),
        Just(((&[1][..], 1), (&[1, 2][..], 2))),
        Just(((&[1, 2][..], 2), (&[2][..], 2))),
        Just(((&[1, 2][..], 1), (&[2][..], 2))),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![Just(Fault::None), Just(Fault::Stuck), Just(Fault::Partial), Just(Fault::Unknown)]
}

proptest! {
    /// Whatever fails and whichever machines restart in between, each machine trusts each other one, a run that ends
    /// without a stop is complete, and a run without faults completes.
    #[test]
    fn trust_holds_at_every_moment_and_a_rerun_completes(
        (deployed, directory) in cases(),
        faults in prop::collection::vec(fault(), 1..6),
        machines in 2..4_usize,
        restarts in prop::collection::vec((0..6_usize, 0..4_usize, any::<bool>()), 0..20),
        is_record_lost in any::<bool>(),
    ) {
        let mut model = Model::new(deployed, directory, faults.len(), machines);
        for (app, fault) in model.apps.iter_mut().zip(&faults) {
            app.fault = *fault;
        }
        let first = model.run(&restarts);
        prop_assert_eq!(first.is_ok(), model.is_complete());
        if faults.iter().all(|fault| *fault == Fault::None) {
            prop_assert!(first.is_ok(), "{:?}", first);
        }
        for app in &mut model.apps {
            app.fault = Fault::None;
            if is_record_lost {
                app.sent = [false; 2];
            }
        }
        prop_assert_eq!(model.run(&[]), Ok(()));
        prop_assert!(model.is_complete());
        // A further run has nothing to do.
        prop_assert_eq!(next(&model.view(), false), Ok(None));
    }

    /// The forecast lists the steps that a run without faults takes.
    #[test]
    fn the_forecast_lists_the_steps_of_a_run((deployed, directory) in cases(), apps in 1..5_usize) {
        let mut model = Model::new(deployed, directory, apps, 2);
        let forecast = forecast(&model.view(), false).unwrap();
        let mut taken = vec![];
        while let Some(step) = next(&model.view(), false).unwrap() {
            model.take(&step);
            taken.push(step);
            prop_assert!(taken.len() <= forecast.len(), "{:?}", taken);
        }
        prop_assert_eq!(taken, forecast);
    }
}

#[test]
fn files_to_publish_reach_every_app_before_a_certificate_changes() {
    let model = Model::new((&[1], 1), (&[1, 2], 2), 2, 2);
    let steps: Vec<_> = forecast(&model.view(), false).unwrap().iter().map(ToString::to_string).collect();
    let expected = [
        "0: stage the secrets to publish",
        "1: stage the secrets to publish",
        "0: deploy the secrets to publish",
        "1: deploy the secrets to publish",
        "0: stage the secrets to switch",
        "0: deploy the secrets to switch",
        "1: stage the secrets to switch",
        "1: deploy the secrets to switch",
        "0: unset CA_CERT",
        "1: unset CA_CERT",
    ];
    assert_eq!(steps, expected);
}

#[rstest]
#[case::stuck(Fault::Stuck, Exit::Failing, "app 1: secret S0 stays Staged")]
#[case::partial(Fault::Partial, Exit::Failing, "app 1: secret S0 stays Partial")]
#[case::unknown(Fault::Unknown, Exit::Unknown, "app 1: fly reports the status \"Unknown\" for secret S0")]
fn a_fault_stops_the_run_and_names_the_app(#[case] fault: Fault, #[case] exit: Exit, #[case] cause: &str) {
    let mut model = Model::new((&[1], 1), (&[1, 2], 2), 3, 2);
    model.apps[1].fault = fault;
    let stop = model.run(&[]).unwrap_err();
    assert_eq!((stop.exit, stop.cause.as_str()), (exit, cause));
    assert!(model.apps.iter().flat_map(|app| &app.machines).all(|machine| machine.leaf == 1));
}

#[test]
fn a_machine_outside_the_release_is_named() {
    let mut model = Model::new((&[1], 1), (&[1], 1), 1, 2);
    model.apps[0].machines[1].updated = [false; 2];
    model.apps[0].sent = [true; 2];
    model.restart(0, 0, true);
    model.restart(0, 1, false);
    let lack = model.view()[0].lacks(Phase::Publish).unwrap();
    assert!(lack.stop("0").cause.contains("machine m1 was not updated"));
}

#[test]
fn a_single_machine_is_refused_unless_it_was_asked_for() {
    let model = Model::new((&[1], 1), (&[1], 1), 1, 1);
    let stop = next(&model.view(), false).unwrap_err();
    assert!(stop.cause.contains("1 started machines") && stop.next.contains("--allow-single"), "{stop:?}");
    assert!(next(&model.view(), true).unwrap().is_some());
    let stopped = Model::new((&[1], 1), (&[1], 1), 1, 0);
    assert!(next(&stopped.view(), true).is_err());
}

#[test]
fn a_directory_that_no_machine_can_follow_is_refused_before_any_step() {
    let model = Model::new((&[1], 1), (&[2], 2), 2, 2);
    let stop = next(&model.view(), false).unwrap_err();
    assert_eq!(stop.exit, Exit::Failing);
    assert!(stop.cause.contains("machine m0 of app 0"), "{}", stop.cause);
}
