//! What people do to a platform, told twice: by an operator that nobody disturbs, and by one that dies at each of its
//! changes. Both have to end the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gaia_e2e::services::AUTH_SERVICE;
use gaia_e2e::wait::{self, Seen};
use gaia_e2e::{OperatorOptions, OperatorProcess, ServiceOptions, ServiceProcess};
use serde_json::{Value, json};

use super::chronicle::{Chronicle, id_in, outline};
use super::conduct::{AfterReplacing, AtEachChange, Moment};
use super::proxy::Proxy;
use super::snapshot::differences;
use super::{Plane, SOON, Scene};

/// What people do to a TrustDomain, and how it ends.
pub struct Story {
    /// Patches of the TrustDomain, one after the other, each as soon as there is one.
    pub edits: &'static [fn(&Chronicle) -> Option<Value>],
    pub is_over: fn(&Chronicle) -> bool,
    /// What the gates of a rotation rest on.
    pub proof: Proof,
    /// How it begins.
    pub opening: Opening,
    /// How many changes it takes at the very least.
    pub least_deaths: usize,
}

/// What the gates of a rotation rest on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Time alone: nobody is asked.
    Time,
    /// An instance of the token issuer that says what it uses. It sleeps until the operator was seen to wait for it.
    Endpoint,
}

/// How a story begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// On a platform that has settled.
    Settled,
    /// The operator dies once the ring of the CA is written for the first edit, and the others are made before it lives
    /// again: in a state in which it never stays.
    CutShort,
}

pub fn raised(part: &str) -> Value {
    json!({ "spec": { part: { "rotationRevision": 2 } } })
}

pub fn abort(id: &str) -> Value {
    json!({ "metadata": { "annotations": { "gaia.dev/abort": id } } })
}

/// Aborts the rotation to what signs now, once there is something to go back to.
pub fn abort_active(ring: &Value) -> Option<Value> {
    id_in(ring, "Retiring")?;
    Some(abort(&id_in(ring, "Active")?))
}

struct Ending {
    /// The changes at which the operator died.
    deaths: Vec<String>,
    state: Value,
    /// How often each object was created and deleted.
    made: BTreeMap<String, usize>,
    successions: [Vec<String>; 2],
}

impl Story {
    /// Killed at each of its changes, the operator ends where it would have ended in peace.
    pub async fn ends_as_undisturbed(&self, moment: Moment) {
        let Some(plane) = Plane::own(&[]).await else { return };
        let undisturbed = tell(&plane, self, None).await;
        let killed = tell(&plane, self, Some(moment)).await;
        assert!(killed.deaths.len() >= self.least_deaths, "it was killed at {:#?}", killed.deaths);
        let differ = differences(&killed.state, &undisturbed.state);
        assert!(differ.is_empty(), "the end state after {} deaths: {}", killed.deaths.len(), differ.join("\n"));
        assert_eq!(killed.made, undisturbed.made, "what was created and deleted");
        assert_eq!(killed.successions, undisturbed.successions, "what the rings went through");
        plane.scene().await.end().await;
    }
}

/// A story under way.
struct Telling<'a> {
    story: &'a Story,
    scene: &'a Scene,
    seen: &'a Chronicle,
    /// How many edits are made.
    edits: usize,
    /// Who is asked, if somebody is.
    instance: Option<ServiceProcess>,
    /// It sleeps until the operator was seen to wait for it.
    is_asleep: bool,
}

/// A story from a settled platform to its end; with a moment, each life of the operator ends at its next change.
async fn tell(plane: &Plane, story: &Story, moment: Option<Moment>) -> Ending {
    let scene = plane.scene().await;
    let seen = scene.chronicle().await;
    let mark = scene.mark().await;
    // A killed leader's lease would have to run out first.
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
                    // It may still die at the last thing that is left to do.
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
    assert!(telling.is_over().await, "it stays as it is");
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

/// Issues everything, and starts who is asked.
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
    /// One life of the operator. Whether it saw the story end.
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

    /// People step in as soon as it is time. Whether they did.
    async fn make_edits(&mut self) -> bool {
        let before = self.edits;
        while let Some(patch) = self.story.edits.get(self.edits).and_then(|edit| edit(self.seen)) {
            self.scene.patch("TrustDomain", &self.scene.domain, patch).await;
            self.edits += 1;
        }
        self.edits > before
    }

    /// Wakes who is asked, once it is said that it is waited for.
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

    /// The end state; each telling has an instance at another port.
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

/// How often each object was created and deleted.
fn made(writes: &[String]) -> BTreeMap<String, usize> {
    let mut made = BTreeMap::new();
    let done = writes.iter().filter(|write| !write.contains(" events ") && !write.contains(" -> "));
    for write in done.filter(|write| write.starts_with("create ") || write.starts_with("delete ")) {
        *made.entry(write.clone()).or_insert(0) += 1;
    }
    made
}

/// The leaves of the platform that every story is about.
pub const LEAVES: [&str; 2] = ["auth-service-tls", "worker-tls"];
/// More than any story takes.
const MOST_DEATHS: usize = 200;
/// Longer than any rotation with these times takes.
const LONG: Duration = Duration::from_secs(120);
const WAITING: [&str; 2] = ["WaitingForInstances", "PastDeadline"];
