//! `docs/runbooks.md`: its commands are read from the file and executed as written.

use super::external_cas::{corporate, corporate_fleet};
use super::*;
use gaia_api::crd::TrustDomain;
use serde_json::Value;

/// The commands of a section, without comments.
fn section(title: &str) -> Vec<String> {
    let text = include_str!("../../../../../docs/runbooks.md");
    let start = format!("## {title}\n");
    let section = text.split_once(&start).unwrap_or_else(|| panic!("no section {title:?}")).1;
    let section = section.split("\n## ").next().unwrap();
    let (mut commands, mut is_code) = (vec![], false);
    for line in section.lines().map(str::trim) {
        if line.starts_with("```") {
            is_code = line == "```sh";
        } else if is_code {
            commands.push(line.split("  #").next().unwrap().trim().to_owned());
        }
    }
    commands
}

/// The commands of a section, of which each is carried out once.
struct Runbook(Vec<String>);

impl Runbook {
    fn of(title: &str) -> Self {
        Self(section(title))
    }

    /// Carries out the first command that contains `which`, with `<…>` replaced by `values` in their order. Returns what a
    /// query prints.
    #[track_caller]
    fn run(&mut self, world: &mut World, which: &str, values: &[&str]) -> String {
        let found = self.0.iter().position(|command| command.contains(which));
        let mut command = self.0.remove(found.unwrap_or_else(|| panic!("no command with {which:?}: {:?}", self.0)));
        for value in values {
            let (before, rest) = command.split_once('<').unwrap_or_else(|| panic!("no place for {value}: {command}"));
            command = format!("{before}{value}{}", rest.split_once('>').unwrap().1);
        }
        assert!(!command.contains('<'), "a value is missing: {command}");
        let arguments = command.strip_prefix("kubectl ").unwrap_or_else(|| panic!("not of kubectl: {command}"));
        if let Some(arguments) = arguments.strip_prefix("annotate td gaia ") {
            let pair = arguments.strip_prefix("--overwrite ").unwrap_or(arguments);
            let (name, value) = pair.split_once('=').unwrap();
            annotate(world, name, value);
        } else if let Some(patch) = arguments.strip_prefix("patch td gaia --type=merge -p ") {
            let patch: Value = serde_json::from_str(patch.trim_matches('\'')).unwrap();
            world.edit_domain(TD, |found| {
                let mut all = serde_json::to_value(&*found).unwrap();
                merge(&mut all, patch);
                *found = serde_json::from_value::<TrustDomain>(all).unwrap();
            });
            world.settle();
        } else if let Some(path) = arguments.strip_prefix("get td gaia -o jsonpath=") {
            return query(&serde_json::to_value(&world.domains[TD]).unwrap(), path.trim_matches('\''));
        } else {
            panic!("not understood: {command}");
        }
        String::new()
    }
}

/// RFC 7396.
fn merge(target: &mut Value, patch: Value) {
    match patch {
        Value::Object(fields) => {
            for (name, value) in fields {
                merge(&mut target[name], value);
            }
        }
        other => *target = other,
    }
}

/// `{.a.b}` and `{.a[?(@.type=="B")].c}` of kubectl's JSONPath.
fn query(object: &Value, path: &str) -> String {
    let mut found = object.clone();
    let path = path.trim_matches(['{', '}']).replace("[?(@.type==\"", "\u{0}").replace("\")]", "");
    for step in path.split('.').filter(|step| !step.is_empty()) {
        let (field, type_) = step.split_once('\u{0}').map_or((step, None), |(field, type_)| (field, Some(type_)));
        found = found[field].take();
        if let Some(type_) = type_ {
            found = found.as_array().unwrap().iter().find(|entry| entry["type"] == type_).unwrap().clone();
        }
    }
    found.as_str().map_or_else(|| found.to_string(), str::to_owned)
}

#[test]
fn a_rotation_that_waits_goes_on_without_the_instance_that_is_named() {
    let mut runbook = Runbook::of("A rotation waits");
    let mut world = fleet();
    world.start(Pod::of("shop", "asset-service", "deaf").never_reloads());
    wait(&mut world, 60);
    ask_to_rotate(&mut world, true);
    wait(&mut world, 300);
    let message = says(&world, &domain(), "CARotating", "True", "WaitingForInstances");
    assert!(message.contains("shop/deaf: "), "{message}");
    let next = message.split_once("trust CA ").unwrap().1.split(' ').next().unwrap().to_owned();
    runbook.run(&mut world, "advance-without", &[&next]);
    until(&mut world, true, "Removed, Active");
    sound(&world);
}

#[test]
fn a_rotation_by_hand_is_begun_and_aborted() {
    let mut runbook = Runbook::of("Rotate by hand, and abort");
    let mut world = fleet();
    runbook.run(&mut world, "rotationRevision", &[]);
    assert_eq!(world.states(true), "Active, Published");
    let new = ids(&world, true)[1].clone();
    runbook.run(&mut world, "abort", &[&new]);
    until(&mut world, true, "Active, Removed");
    sound(&world);
}

#[test]
fn a_leaked_ca_is_replaced_and_the_exposure_has_an_end() {
    let mut runbook = Runbook::of("A CA leaked");
    let mut world = fleet();
    world.start(Pod::of("shop", "asset-service", "deaf").never_reloads());
    wait(&mut world, 120);
    let leaked = runbook.run(&mut world, "active.fingerprint", &[]);
    runbook.run(&mut world, "distrusted", &[&leaked]);
    wait(&mut world, 60);
    let message = world.reported(&domain()).condition("CARotating").2.to_owned();
    let deadline = message.split_once(" is distrusted and will be removed at ").unwrap().1;
    let deadline = at(deadline.split(' ').next().unwrap());
    until(&mut world, true, "Retiring, Active");
    let message = world.reported(&domain()).condition("CARotating").2.to_owned();
    assert!(message.contains(&format!("will be removed at {deadline} or earlier")), "{message}");
    until(&mut world, true, "Distrusted, Active");
    assert!(world.now <= deadline + jiff::SignedDuration::from_secs(10), "{deadline}");
    wait(&mut world, 60);
    let exposure = runbook.run(&mut world, ".status.exposure", &[]);
    assert!(exposure.contains("shop/deaf: ") && !exposure.contains("until"), "{exposure}");
    world.restart("deaf");
    wait(&mut world, 600);
    let mut again = Runbook::of("A CA leaked");
    let exposure = again.run(&mut world, ".status.exposure", &[]);
    assert!(exposure.contains("\"until\""), "{exposure}");
    sound(&world);
}

/// The message named the new CA as the only one, and refused each order of the steps.
#[rstest]
#[case::another_ca_first(true)]
#[case::distrust_first(false)]
fn a_leaked_bring_your_own_ca_is_replaced_in_either_order(#[case] is_ca_first: bool) {
    let mut runbook = Runbook::of("A CA leaked");
    let (mut world, _) = corporate_fleet();
    let leaked = runbook.run(&mut world, "active.fingerprint", &[]);
    assert!(runbook.0.iter().any(|command| command.contains("create secret tls our-ca")), "{:?}", runbook.0);
    let put = |world: &mut World| {
        corporate(world, "b");
        wait(world, 20);
    };
    if is_ca_first {
        put(&mut world);
    }
    runbook.run(&mut world, "sha256 of the leaked one", &[&leaked]);
    if !is_ca_first {
        put(&mut world);
    }
    says(&world, &domain(), "Stalled", "False", "Settled");
    until(&mut world, true, "Distrusted, Active");
    wait(&mut world, 600);
    let exposure = runbook.run(&mut world, ".status.exposure", &[]);
    assert!(exposure.contains("\"until\""), "{exposure}");
    says(&world, &domain(), "Ready", "True", "Ready");
    sound(&world);
}

#[rstest]
#[case::restored_from_its_copy(true)]
#[case::started_over(false)]
fn a_missing_ring_is_restored_first_and_made_anew_only_by_choice(#[case] is_restored: bool) {
    let mut runbook = Runbook::of("A ring is missing or cannot be read");
    let mut world = fleet();
    ask_to_rotate(&mut world, true);
    until(&mut world, true, "Removed, Active");
    let active = ids(&world, true)[1].clone();
    world.remove(&ObjectKey::secret("gaia-system", "gaia-ca-ring"));
    world.settle();
    let message = runbook.run(&mut world, "Stalled", &[]);
    let (restore, bootstrap) = (message.find("gaia.dev/restore=ca@"), message.find("gaia.dev/bootstrap="));
    assert!(restore.unwrap() < bootstrap.unwrap(), "{message}");
    // What destroys is no command that can be pasted.
    assert!(!message[restore.unwrap() + 20..].contains("kubectl"), "{message}");
    let value = |name: &str| {
        let rest = message.split_once(name).unwrap().1;
        rest.split([';', ' ']).next().unwrap().to_owned()
    };
    if is_restored {
        runbook.run(&mut world, "restore", &[&value("gaia.dev/restore=ca@")]);
        assert_eq!(world.ca_ring(TD).unwrap().active().unwrap().id, active);
    } else {
        let command = runbook.0.iter_mut().find(|command| command.contains("bootstrap")).unwrap();
        // The runbook shows the parts of the value that the condition prints.
        *command = command.replace("<uid>,ca@<epoch>,signing@<epoch>", "<value>");
        runbook.run(&mut world, "bootstrap", &[&value("gaia.dev/bootstrap=")]);
        assert_ne!(world.ca_ring(TD).unwrap().active().unwrap().id, active);
    }
    wait(&mut world, 600);
    says(&world, &domain(), "Ready", "True", "Ready");
    says(&world, &domain(), "Stalled", "False", "Settled");
}

/// Kind: a mistyped kid was accepted silently, and no message had the deadline of the removal.
#[test]
fn a_leaked_signing_key_is_replaced_by_a_deadline_and_a_mistyped_kid_is_named() {
    let mut world = fleet();
    let leaked = world.signing_ring(TD).unwrap().active().unwrap().material.jwk.kid().to_owned();
    let distrust = |world: &mut World, kid: &str| {
        let listed = serde_json::json!({ "spec": { "tokens": { "distrusted": [{ "kid": kid }] } } });
        let mut runbook = Runbook(vec![format!("kubectl patch td gaia --type=merge -p '{listed}'")]);
        runbook.run(world, "patch", &[]);
    };
    let mistyped: String = leaked.chars().rev().collect();
    distrust(&mut world, &mistyped);
    assert_eq!(world.states(false), "Active, Published");
    let message = says(&world, &domain(), "DistrustedUnknown", "True", "DistrustedUnknown");
    assert!(message.contains("spec.tokens.distrusted: ") && message.contains(&leaked), "{message}");
    distrust(&mut world, &leaked);
    assert_eq!(world.reported(&domain()).condition("DistrustedUnknown").0, "");
    let message = world.reported(&domain()).condition("SigningKeysRotating").2.to_owned();
    assert!(message.contains(" is distrusted and will be removed at "), "{message}");
    until(&mut world, false, "Distrusted, Active, Published");
    sound(&world);
}
