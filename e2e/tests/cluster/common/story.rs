//! Edits of a platform, executed twice: with an undisturbed operator, and with one that is killed at each of its
//! changes. Both must have the same result.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gaia_e2e::services::AUTH_SERVICE;
use gaia_e2e::wait::{self, Seen};
use gaia_e2e::{OperatorOptions, OperatorProcess, ServiceOptions, ServiceProcess};
use serde_json::{Value, json};

use super::chronicle::{Chronicle, id_in, outline};
use super::conduct::{AfterReplacing, AtEachChange, Moment};
use super::faults::proxy::Proxy;
use super::snapshot::differences;
use super::{Plane, SOON, Scene};

/// Edits of a TrustDomain, and the required end.
pub struct Story {
    /// Patches of the TrustDomain, one after the other, each as soon as its condition holds.
    pub edits: &'static [fn(&Chronicle) -> Option<Value>],
    pub is_over: fn(&Chronicle) -> bool,
    /// The evidence of a rotation's gates.
    pub proof: Proof,
    /// Its start.
    pub opening: Opening,
    /// The minimum number of changes.
    pub least_deaths: usize,
}

/// The evidence of a rotation's gates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Time alone, without instances.
    Time,
    /// An instance of the token issuer with a report. It is paused until the operator was seen to wait for it.
    Endpoint,
}

/// The start of a story.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// On a platform that has settled.
    Settled,
    /// The operator is killed once the ring of the CA is written for the first edit, and the others are made before it
    /// starts again: in a state in which it never stays.
    CutShort,
}

pub fn raised(part: &str) -> Value {
    json!({ "spec": { part: { "rotationRevision": 2 } } })
}

pub fn abort(id: &str) -> Value {
    json!({ "metadata": { "annotations": { "gaia.dev/abort": id } } })
}

/// Aborts the rotation and keeps the active generation, once that is possible.
pub fn abort_active(ring: &Value) -> Option<Value> {
    id_in(ring, "Retiring")?;
    Some(abort(&id_in(ring, "Active")?))
}

struct Ending {
    /// The changes at which the operator was killed.
    deaths: Vec<String>,
    state: Value,
    /// The number of creations and deletions of each object.
    made: BTreeMap<String, usize>,
    successions: [Vec<String>; 2],
}

impl Story {
    /// Killed at each of its changes, the operator ends in the state of an undisturbed one.
    pub async fn ends_as_undisturbed(&self, moment: Moment) {
        let Some(plane) = Plane::own(&[]).await else { return };
        let undisturbed = tell(&plane, self, None).await;
        let killed = tell(&plane, self, Some(moment)).await;
        assert!(killed.deaths.len() >= self.least_deaths, "it was killed at {:#?}", killed.deaths);
        let differ = differences(&killed.state, &undisturbed.state);
        assert!(differ.is_empty(), "the end state after {} deaths: {}", killed.deaths.len(), differ.join("\n"));
        assert_eq!(killed.made, undisturbed.made, "creations and deletions");
        assert_eq!(killed.successions, undisturbed.successions, "what the rings went through");
        plane.scene().await.end().await;
    }
}

/// A running story.
struct Telling<'a> {
    story: &'a Story,
    scene: &'a Scene,
    seen: &'a Chronicle,
    /// The number of edits so far.
    edits: usize,
    /// The instance that is probed, if there is one.
    instance: Option<ServiceProcess>,
    /// It is paused until the operator was seen to wait for it.
    is_asleep: bool,
}

/// A story from a settled platform to its end; with a kill time, each run of the operator ends at its next change.
async fn tell(plane: &Plane, story: &Story, moment: Option<Moment>) -> Ending {
    let scene = plane.scene().await;
    let seen = scene.chronicle().await;
    let mark = scene.mark().await;
    // Otherwise a killed leader's lease would have to expire first.
    let options = plane.operator().await.env("GAIA_LEADER_ELECTION", "false").env("GAIA_REISSUE_PER_SECOND", "0");
    let direct = options.kubeconfig.clone();
    let operator = Arc::new(OperatorProcess::start(options.clone()).unwrap());
    let instance = settle(&scene, &seen, story.proof).await;
    operator.kill9().unwrap();

    let is_asleep = instance.as_ref().inspect(|instance| instance.pause().unwrap()).is_some();
    let mut telling = Telling { story, scene: &scene, seen: &seen, edits: 0, instance, is_asleep };
    if story.opening == Opening::CutShort {
        let proxy = Proxy::start(&direct, plane.dir(), AfterReplacing { suffix: "-ca-ring" }).await;
        telling.make_edits().await;
        let proxied = OperatorOptions { kubeconfig: proxy.kubeconfig.clone(), ..options.clone() };
        let doomed = Arc::new(OperatorProcess::start(proxied).unwrap());
        proxy.aim_at(&doomed);
        assert!(!telling.live(Some(&proxy)).await, "it dies");
        let edited = async || {
            telling.make_edits().await;
            telling.edits == story.edits.len()
        };
        wait::until("all is asked for", SOON, edited).await.unwrap();
    }
    let mut deaths = vec![];
    let operator = match moment {
        None => {
            operator.restart().unwrap();
            telling.live(None).await;
            operator
        }
        Some(moment) => {
            let proxy = Proxy::start(&direct, plane.dir(), AtEachChange::new(moment)).await;
            telling.make_edits().await;
            let proxied = OperatorOptions { kubeconfig: proxy.kubeconfig.clone(), ..options };
            let operator = Arc::new(OperatorProcess::start(proxied).unwrap());
            proxy.aim_at(&operator);
            loop {
                if telling.live(Some(&proxy)).await {
                    // It may still be killed at its last change.
                    scene.writes(mark).await;
                    if !proxy.has_fired() {
                        break;
                    }
                }
                assert!(proxy.deaths().len() < MOST_DEATHS, "it never ends: {}", operator.log_tail());
                proxy.revive();
            }
            deaths = proxy.deaths();
            operator
        }
    };
    let made = made(&scene.writes(mark).await);
    assert!(telling.is_over().await, "the end state stays");
    assert!(!telling.is_asleep, "the rotation did not wait for its instance");
    operator.kill9().unwrap();
    seen.catch_up().await;
    seen.nothing_twice();
    for leaf in LEAVES {
        assert!(scene.leaf_is_whole(leaf).await, "{leaf}");
    }
    let successions = ["ca", "signing"].map(|ring| seen.succession(ring));
    Ending { deaths, state: telling.snapshot().await, made, successions }
}

/// Issues everything, and starts the probed instance.
async fn settle(scene: &Scene, seen: &Chronicle, proof: Proof) -> Option<ServiceProcess> {
    let issuer = json!({ "issuedBy": { "namespace": scene.namespace, "name": AUTH_SERVICE }, "maxTTL": "10s" });
    let propagation = json!({
        "minDelay": "3s", "clockSkew": "0s", "deadline": "30s", "requireAcknowledgement": proof == Proof::Endpoint,
    });
    scene.create(scene.trust_domain(json!({ "tokens": issuer, "propagation": propagation }))).await;
    scene.create(scene.service(AUTH_SERVICE, json!({ "callers": [{ "service": "web" }] }))).await;
    scene.create(scene.certificate("worker", json!({}))).await;
    let is_born =
        async || seen.ring("signing")["generations"][1]["state"] == "Published" && is_settled(scene, seen).await;
    wait::until("all is issued", SOON, is_born).await.unwrap();
    if proof == Proof::Time {
        return None;
    }
    let options = ServiceOptions::auth_service(&scene.plane, &scene.namespace, &scene.domain);
    let instance = ServiceProcess::start(&scene.plane, options).await.unwrap();
    instance.wait_ready(SOON).await.unwrap();
    let endpoints = json!({ "spec": { "endpoints": [instance.mesh_address().to_string()] } });
    scene.patch("GaiaService", AUTH_SERVICE, endpoints).await;
    scene.wait_for("GaiaService", AUTH_SERVICE, "Served=True", "AllServed", SOON).await;
    wait::until("all is settled again", SOON, async || is_settled(scene, seen).await).await.unwrap();
    Some(instance)
}

impl Telling<'_> {
    /// One run of the operator. Returns true if it reached the end.
    async fn live(&mut self, proxy: Option<&Proxy>) -> bool {
        let look = async || {
            let died = proxy.is_some_and(Proxy::has_fired);
            if self.make_edits().await {
                proxy.inspect(|proxy| proxy.forget());
            }
            self.wake_instance().await;
            if died {
                return Seen::Yes(false);
            }
            match (self.ended().await, proxy) {
                (Seen::NotYet(what), Some(proxy)) => Seen::NotYet(format!("{what}\n{}", proxy.victim())),
                (other, _) => other,
            }
        };
        wait::until("the operator is killed, or the story is over", LONG, look).await.unwrap()
    }

    async fn ended(&self) -> Seen<bool> {
        if self.is_over().await {
            return Seen::Yes(true);
        }
        let status = self.scene.get("TrustDomain", &self.scene.domain).await.unwrap()["status"].clone();
        let rings = ["ca", "signing"].map(|ring| outline(&self.seen.ring(ring)));
        Seen::NotYet(format!("{} edits made; {rings:?}; {status}", self.edits))
    }

    async fn is_over(&self) -> bool {
        self.edits == self.story.edits.len() && (self.story.is_over)(self.seen) && self.is_settled().await
    }

    async fn is_settled(&self) -> bool {
        if !is_settled(self.scene, self.seen).await {
            return false;
        }
        let Some(instance) = &self.instance else { return true };
        let served = self.scene.condition("GaiaService", AUTH_SERVICE, "Served").await;
        let summary =
            self.scene.get("TrustDomain", &self.scene.domain).await.unwrap()["status"]["instances"]["summary"].clone();
        let leaf = self.scene.get("ServiceCertificate", AUTH_SERVICE).await.unwrap()["status"]["serialNumber"].clone();
        let is_known = served.is_some_and(|seen| seen.status == "True") && summary == "1/1";
        is_known && instance.served_leaf().await.is_ok_and(|shown| shown.serial() == leaf)
    }

    /// Applies the next edit as soon as its condition holds. Returns true if it did.
    async fn make_edits(&mut self) -> bool {
        let before = self.edits;
        while let Some(patch) = self.story.edits.get(self.edits).and_then(|edit| edit(self.seen)) {
            self.scene.patch("TrustDomain", &self.scene.domain, patch).await;
            self.edits += 1;
        }
        self.edits > before
    }

    /// Resumes the probed instance, once a condition names it.
    async fn wake_instance(&mut self) {
        let Some(instance) = self.instance.as_ref().filter(|_| self.is_asleep) else { return };
        let address = instance.mesh_address().to_string();
        for ring in ["CARotating", "SigningKeysRotating"] {
            let said = self.scene.condition("TrustDomain", &self.scene.domain, ring).await;
            let waits = said.is_some_and(|said| WAITING.contains(&&*said.reason) && said.message.contains(&address));
            if waits {
                instance.resume().unwrap();
                self.is_asleep = false;
                return;
            }
        }
    }

    /// The end state; each run has an instance at another port.
    async fn snapshot(&self) -> Value {
        let state = self.scene.snapshot().await;
        let Some(instance) = &self.instance else { return state };
        let text = state.to_string().replace(&instance.mesh_address().to_string(), "<endpoint>");
        serde_json::from_str(&text).unwrap()
    }
}

async fn is_settled(scene: &Scene, seen: &Chronicle) -> bool {
    let domain = scene.domain.as_str();
    let objects = [
        ("TrustDomain", domain),
        ("GaiaService", AUTH_SERVICE),
        ("ServiceCertificate", AUTH_SERVICE),
        ("ServiceCertificate", "worker"),
    ];
    for (kind, name) in objects {
        for (condition, status) in [("Ready", "True"), ("Reconciling", "False"), ("Stalled", "False")] {
            if scene.condition(kind, name, condition).await.is_none_or(|seen| seen.status != status) {
                return false;
            }
        }
    }
    for name in [AUTH_SERVICE, "worker"] {
        let status = scene.get("ServiceCertificate", name).await.unwrap()["status"].clone();
        let secret = format!("{name}-tls");
        if status["revision"] != seen.revision(&secret) || !scene.leaf_is_whole(&secret).await {
            return false;
        }
    }
    let status = scene.get("TrustDomain", domain).await.unwrap()["status"].clone();
    let signer = format!("{domain}-token-signer");
    status["rotating"] == "-" && scene.get("Secret", &signer).await.is_some()
}

/// The number of creations and deletions of each object.
fn made(writes: &[String]) -> BTreeMap<String, usize> {
    let mut made = BTreeMap::new();
    let done = writes.iter().filter(|write| !write.contains(" events ") && !write.contains(" -> "));
    for write in done.filter(|write| write.starts_with("create ") || write.starts_with("delete ")) {
        *made.entry(write.clone()).or_insert(0) += 1;
    }
    made
}

/// The leaves of the platform in every story.
pub const LEAVES: [&str; 2] = ["auth-service-tls", "worker-tls"];
/// More changes than any story needs.
const MOST_DEATHS: usize = 200;
/// Longer than any rotation with these times takes.
const LONG: Duration = Duration::from_secs(120);
const WAITING: [&str; 2] = ["WaitingForInstances", "PastDeadline"];
