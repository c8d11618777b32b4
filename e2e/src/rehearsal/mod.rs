//! Years of rotations on a real API server, in minutes: the operator and the services on a clock that is set, under load,
//! with a check of every transition that does not depend on the operator's own status.
//!
//! The clock goes in steps: long ones at rest, short ones during a rotation. After each step the
//! operator reconciles everything, its writes are propagated as by kubelets, and so on until nothing changes
//! at that time. The private keys of all generations are taken out of the rings as soon as they exist, and tried
//! on every instance: see [`crate::load::Negative`].

mod fixture;
mod observer;
mod record;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use gaia_api::{Clock as _, ManualClock, SystemClock};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use serde_json::{Value, json};
use tokio::time::Instant;

pub use observer::{Ring, Transition};
pub use record::Record;

use fixture::Fixture;
use observer::{Observer, Seen, is_gone};

use crate::ControlPlane;
use crate::load::{Load, Negative, Verdict};
use crate::platform::OPERATOR_NAMESPACE;
use crate::services::ASSET_SERVICE;

/// Options of a rehearsal.
#[derive(Clone, Debug)]
pub struct RehearsalOptions {
    /// The namespace of the services, and the name of the TrustDomain.
    pub name: String,
    /// Merged into the TrustDomain's spec.
    pub domain: Value,
    /// The simulated duration.
    pub length: SignedDuration,
    /// Requests a second during the rehearsal.
    pub rate: u32,
}

impl Default for RehearsalOptions {
    /// Two years, in which both rings rotate quarterly.
    fn default() -> Self {
        Self {
            name: "shop".to_owned(),
            domain: json!({ "ca": { "rotationPeriod": "2160h" } }),
            length: SignedDuration::from_hours(2 * 365 * 24),
            rate: 40,
        }
    }
}

/// A running rehearsal.
pub struct Rehearsal {
    name: String,
    client: Client,
    fixture: Fixture,
    observer: Observer,
    /// Private keys of all generations so far.
    stolen: BTreeMap<(Ring, String), Negative>,
    /// The time from which every instance accepts the signatures of a generation.
    accepted: BTreeMap<(Ring, String), Timestamp>,
    record: Record,
}

impl Rehearsal {
    /// Rehearses until the end, and prints each transition when it is seen.
    ///
    /// # Errors
    /// On the first violation: a generation that signs before it is trusted everywhere, or is trusted
    /// after its removal; a repeated kid or serial number; a state that does not come to rest.
    pub async fn run(
        plane: &ControlPlane,
        options: RehearsalOptions,
        mut tell: impl FnMut(&Transition),
    ) -> Result<Record> {
        let started = Instant::now();
        let RehearsalOptions { name, domain, length, rate } = options;
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let end = clock.now() + length;
        let fixture = Fixture::assemble(plane, Arc::clone(&clock), &name, &domain).await?;
        let load = Load::start(fixture.load(rate, &name)?)?;
        let client = plane.admin().await?;
        let observer = Observer::new(client.clone(), &name);
        let (stolen, accepted, record) = (BTreeMap::new(), BTreeMap::new(), Record::default());
        let mut rehearsal = Self { name, client, fixture, observer, stolen, accepted, record };
        let mut was_changed = true;
        while clock.now() < end {
            let began = SystemClock.now();
            let seen = rehearsal.settle(&mut tell).await.with_context(|| format!("at {:.0}", clock.now()))?;
            let is_resting = !seen.changed && !rehearsal.observer.is_rotating();
            rehearsal.record.step(clock.now(), is_resting.then_some((began, SystemClock.now())));
            if rehearsal.record.begins_a_year() {
                let sizes = rehearsal.observer.take_sizes();
                rehearsal.record.sizes.push(sizes);
            }
            let step = if is_resting && !was_changed { REST } else { BUSY };
            was_changed = seen.changed;
            clock.set((clock.now() + step).min(end));
        }
        let Self { fixture, mut observer, mut record, client, .. } = rehearsal;
        record.sizes.push(observer.take_sizes());
        record.load = Some(load.stop().await);
        fixture.operator.stop().await;
        plane.audit().settle(&client).await?;
        record.count_writes(&plane.audit())?;
        (record.generations, record.leaves) = observer.totals();
        record.took = started.elapsed();
        Ok(record)
    }

    /// Reconciles everything until nothing changes at this time.
    async fn settle(&mut self, tell: &mut impl FnMut(&Transition)) -> Result<Seen> {
        let mut all = Seen::default();
        for _ in 0..ROUNDS {
            self.fixture.operator.requeue_all();
            self.wait_until_quiet().await?;
            let mut seen = self.observer.look(self.fixture.clock.now()).await?;
            // Files change only with the objects that they come from.
            let propagated = seen.changed && self.fixture.propagate().await?;
            self.steal(&seen.transitions).await?;
            self.try_what_comes().await?;
            for transition in &mut seen.transitions {
                transition.proof = self.prove(transition).await?;
                tell(transition);
            }
            let is_still = !seen.changed && !propagated;
            all.changed |= seen.changed;
            self.record.transitions.append(&mut seen.transitions);
            if is_still {
                return Ok(all);
            }
        }
        bail!("something changes all the time")
    }

    /// The queue is empty, and stays so for as long as a watch may take to deliver a write.
    async fn wait_until_quiet(&self) -> Result<()> {
        let deadline = Instant::now() + LONGEST_WORK;
        let mut quiet = Instant::now();
        while quiet.elapsed() < QUIET {
            ensure!(Instant::now() < deadline, "the operator is still at work after {} s", LONGEST_WORK.as_secs());
            tokio::time::sleep(QUIET / 5).await;
            if !self.fixture.operator.is_quiet() {
                quiet = Instant::now();
            }
        }
        Ok(())
    }

    /// Takes the private keys of new generations.
    async fn steal(&mut self, transitions: &[Transition]) -> Result<()> {
        for Transition { ring, id, .. } in transitions.iter().filter(|transition| transition.from.is_none()) {
            let (client, caller) = (&self.client, Arc::clone(&self.fixture.caller));
            let stolen = match ring {
                Ring::Ca => Negative::with_ca(client, OPERATOR_NAMESPACE, &self.name, Some(id), caller).await?,
                Ring::SigningKeys => {
                    Negative::with_signing_key(client, OPERATOR_NAMESPACE, &self.name, Some(id), caller).await?
                }
            };
            self.stolen.insert((*ring, id.clone()), stolen);
        }
        Ok(())
    }

    /// Records which generations are trusted everywhere by now.
    async fn try_what_comes(&mut self) -> Result<()> {
        for which in self.observer.coming() {
            if !self.accepted.contains_key(&which) && self.not_as(&which, &Verdict::Accepted).await?.is_empty() {
                self.accepted.insert(which, self.fixture.clock.now());
            }
        }
        Ok(())
    }

    /// The evidence that a transition was right.
    async fn prove(&self, transition: &Transition) -> Result<Vec<String>> {
        let Transition { at, ring, id, from, to, .. } = transition;
        let which = (*ring, id.clone());
        let count = self.judges(*ring).len();
        let mut proof = Vec::new();
        if to == "Active" && from.is_some() {
            let since = self.accepted.get(&which);
            let since = since.with_context(|| format!("the {ring} {id} signs and was not seen trusted everywhere"))?;
            let before = at.duration_since(*since);
            proof.push(format!("accepted by {count} of {count} instances for {} s before", before.as_secs()));
        }
        if is_gone(to) {
            let others = self.not_refused(&which).await?;
            ensure!(others.is_empty(), "the {ring} {id} is {to}, and yet: {}", others.join("; "));
            proof.push(format!("refused by {count} of {count} instances"));
        } else if to != "Staged" && from.is_some() {
            let others = self.not_as(&which, &Verdict::Accepted).await?;
            ensure!(others.is_empty(), "the {ring} {id} is {to}, and yet: {}", others.join("; "));
            proof.push(format!("accepted by {count} of {count} instances"));
        }
        Ok(proof)
    }

    /// The verifiers of a generation's signatures.
    fn judges(&self, ring: Ring) -> Vec<(String, SocketAddr)> {
        let mut instances = self.fixture.instances();
        instances.retain(|(name, _)| ring == Ring::Ca || name.starts_with(ASSET_SERVICE));
        instances
    }

    /// The instances whose result differs from `verdict`.
    async fn not_as(&self, which: &(Ring, String), verdict: &Verdict) -> Result<Vec<String>> {
        self.ask(which, |found| found == verdict).await
    }

    async fn not_refused(&self, which: &(Ring, String)) -> Result<Vec<String>> {
        self.ask(which, |found| matches!(found, Verdict::Refused(_))).await
    }

    async fn ask(&self, which: &(Ring, String), is_right: impl Fn(&Verdict) -> bool) -> Result<Vec<String>> {
        let stolen = self
            .stolen
            .get(which)
            .with_context(|| format!("no private key was taken of the {} {}", which.0, which.1))?;
        let mut others = Vec::new();
        for (name, address) in self.judges(which.0) {
            let found = stolen.ask(&name, address).await?;
            if !is_right(&found) {
                others.push(format!("{name} at {address}: {found:?}"));
            }
        }
        Ok(others)
    }
}

/// A step of the clock at rest, and during a rotation.
const REST: SignedDuration = SignedDuration::from_hours(24);
const BUSY: SignedDuration = SignedDuration::from_mins(1);
const ROUNDS: usize = 100;
/// Longer than a watch takes to deliver a write.
const QUIET: Duration = Duration::from_millis(30);
const LONGEST_WORK: Duration = Duration::from_secs(60);
