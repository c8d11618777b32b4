//! Every state of the Secrets of a scene, as a watch delivers them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use gaia_api::names::{self, annotation, key};
use gaia_e2e::wait::{self, Seen};
use gaia_pki::Certificate;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt as _};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::objects::text;
use super::{SOON, Scene};

/// The Secrets of a scene and of its rings, from the beginning on.
pub struct Chronicle {
    apis: [Api<Secret>; 2],
    /// Prefix of the object names in the operator's namespace.
    domain: String,
    seen: Arc<Mutex<BTreeMap<String, Vec<Secret>>>>,
    watches: Vec<JoinHandle<()>>,
}

impl Drop for Chronicle {
    fn drop(&mut self) {
        self.watches.iter().for_each(JoinHandle::abort);
    }
}

impl Scene {
    /// Begins to record.
    pub async fn chronicle(&self) -> Chronicle {
        let seen = Arc::new(Mutex::new(BTreeMap::new()));
        let apis = [self.secrets(), self.rings()];
        let watches = apis.iter().map(|api| tokio::spawn(follow(api.clone(), Arc::clone(&seen)))).collect();
        let chronicle = Chronicle { apis, domain: self.domain.clone(), seen, watches };
        chronicle.catch_up().await;
        chronicle
    }
}

async fn follow(api: Api<Secret>, seen: Arc<Mutex<BTreeMap<String, Vec<Secret>>>>) {
    let events = watcher::watcher(api, watcher::Config::default());
    futures::pin_mut!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(secret) | Event::InitApply(secret)) => {
                let mut seen = seen.lock().unwrap();
                let states: &mut Vec<Secret> = seen.entry(secret.name_any()).or_default();
                if states.last().is_none_or(|last| last.resource_version() != secret.resource_version()) {
                    states.push(secret);
                }
            }
            Ok(_) => {}
            // It may fail at once, repeatedly: without a pause the end of the test would wait for this forever.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

impl Chronicle {
    /// Waits until all present objects are recorded.
    pub async fn catch_up(&self) {
        let is_known = |secret: &Secret| {
            let seen = self.seen.lock().unwrap();
            let states = seen.get(&secret.name_any());
            states.is_some_and(|all| all.iter().any(|state| state.resource_version() == secret.resource_version()))
        };
        let all_known = async || {
            for api in &self.apis {
                for secret in api.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items {
                    if !is_known(&secret) {
                        return Err(secret.name_any());
                    }
                }
            }
            Ok(())
        };
        wait::until("the watch has delivered every Secret", SOON, all_known).await.unwrap();
    }

    /// All states of a Secret.
    pub fn states(&self, name: &str) -> Vec<Secret> {
        self.seen.lock().unwrap().get(name).cloned().unwrap_or_default()
    }

    /// The last seen state of a ring: `ca` or `signing`. Null before there is one.
    pub fn ring(&self, which: &str) -> Value {
        self.states(&self.ring_name(which)).last().map(ring_of).unwrap_or_default()
    }

    /// Waits until a ring's generations are in these states, oldest first.
    pub async fn wait_for_states(&self, which: &str, wanted: &[&str]) {
        wait::until(&format!("the {which} ring is {wanted:?}"), SOON, async || {
            let found = states_of(&self.ring(which));
            if found == wanted { Seen::Yes(()) } else { Seen::NotYet(format!("{found:?}")) }
        })
        .await
        .unwrap();
    }

    /// The history of a ring: each state of it once, as [`outline`].
    pub fn succession(&self, which: &str) -> Vec<String> {
        let mut all: Vec<String> =
            self.states(&self.ring_name(which)).iter().map(ring_of).map(|r| outline(&r)).collect();
        all.dedup();
        all
    }

    /// The number of issuances of the certificate in a Secret, by its annotation.
    pub fn revision(&self, name: &str) -> usize {
        let states = self.states(name);
        let count = states.last().and_then(|last| last.annotations().get(annotation::REVISION)?.parse().ok());
        count.unwrap_or_default()
    }

    /// No serial and no key id was used twice, no removed generation was used again, and every stored certificate was
    /// trusted by the bundle in its Secret.
    pub fn nothing_twice(&self) {
        let leaves: Vec<String> =
            self.seen.lock().unwrap().keys().filter(|name| name.ends_with("-tls")).cloned().collect();
        let mut serials = BTreeMap::new();
        for name in leaves {
            let states = self.states(&name);
            let mut issued = BTreeSet::new();
            for state in &states {
                let chain = text(state, key::TLS_CERT);
                let Ok(certificates) = Certificate::chain_from_pem(chain.as_bytes()) else { continue };
                let roots = text(state, key::CA_CERT);
                if let Ok(roots) = Certificate::chain_from_pem(roots.as_bytes())
                    && state.annotations().contains_key(annotation::CA_EPOCH)
                {
                    let is_trusted = roots.iter().any(|root| certificates[0].is_signed_by(root));
                    assert!(is_trusted, "{name} holds a certificate that its own bundle does not trust");
                }
                let before = serials.insert(certificates[0].serial(), chain.clone());
                assert!(before.is_none_or(|before| before == chain), "{name}: a serial was used twice");
                issued.insert(chain);
            }
        }
        for which in ["ca", "signing"] {
            let mut gone = BTreeSet::new();
            let mut names = BTreeMap::new();
            for ring in self.states(&self.ring_name(which)).iter().map(ring_of) {
                for generation in ring["generations"].as_array().into_iter().flatten() {
                    let id = generation["id"].as_str().unwrap().to_owned();
                    let name = generation.get("fingerprint").or_else(|| generation["jwk"].get("kid")).unwrap().clone();
                    let before = names.insert(id.clone(), name.clone());
                    assert!(before.is_none_or(|before| before == name), "two generations are called {id}");
                    let is_gone = ["Removed", "Distrusted"].contains(&generation["state"].as_str().unwrap());
                    assert!(is_gone || !gone.contains(&id), "generation {id} came back");
                    if is_gone {
                        gone.insert(id);
                    }
                }
            }
        }
    }

    fn ring_name(&self, which: &str) -> String {
        match which {
            "ca" => names::ca_ring(&self.domain),
            "signing" => names::signing_ring(&self.domain),
            other => unreachable!("{other}"),
        }
    }
}

/// The public part of a ring; null if it cannot be read.
pub fn ring_of(secret: &Secret) -> Value {
    serde_json::from_str(&text(secret, key::RING)).unwrap_or_default()
}

/// The states of a ring's generations, oldest first.
pub fn states_of(ring: &Value) -> Vec<String> {
    let generations = ring["generations"].as_array().into_iter().flatten();
    generations.map(|generation| generation["state"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The id of a ring's only generation in a state.
pub fn id_in(ring: &Value, state: &str) -> Option<String> {
    field_in(ring, state, |generation| &generation["id"])
}

/// The fingerprint or kid of a ring's only generation in a state.
pub fn name_in(ring: &Value, state: &str) -> Option<String> {
    field_in(ring, state, |generation| match generation.get("fingerprint") {
        Some(fingerprint) => fingerprint,
        None => &generation["jwk"]["kid"],
    })
}

fn field_in(ring: &Value, state: &str, field: impl Fn(&Value) -> &Value) -> Option<String> {
    let generations = ring["generations"].as_array().into_iter().flatten();
    let mut found = generations.filter(|generation| generation["state"] == state);
    let only = found.next().filter(|_| found.next().is_none())?;
    Some(field(only).as_str().unwrap().to_owned())
}

/// A ring without ids and times: `epoch 4, revision 2: Removed, Active`.
pub fn outline(ring: &Value) -> String {
    let generations = ring["generations"].as_array().into_iter().flatten().map(|generation| {
        let mut told = generation["state"].as_str().unwrap_or_default().to_owned();
        for mark in ["switchedTime", "signedUntil", "aborted", "distrust"] {
            match &generation[mark] {
                Value::Null => {}
                Value::Object(distrust) => {
                    let refused = if distrust.contains_key("refusedTime") { ", refused" } else { "" };
                    told += &format!(" (distrusted {}{refused})", distrust["mode"].as_str().unwrap_or_default());
                }
                _ => told += &format!(" ({mark})"),
            }
        }
        told
    });
    let generations: Vec<String> = generations.collect();
    let extra = if ring["heeded"].is_null() { "" } else { ", heeded" };
    format!("epoch {}, revision {}{extra}: {}", ring["epoch"], ring["revision"], generations.join(", "))
}

/// After a watch that failed.
const PAUSE: Duration = Duration::from_millis(100);
