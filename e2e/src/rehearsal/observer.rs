//! The rehearsal's view of the API server: every object that the operator writes, and its changes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use gaia_api::crd::{GaiaService, ServiceCertificate, TrustDomain};
use gaia_api::names::{self, MANAGED_BY, MANAGED_BY_LABEL, key};
use gaia_pki::Certificate;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::platform::OPERATOR_NAMESPACE;

/// A kind of ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ring {
    /// The CA ring.
    Ca,
    /// The ring of token signing keys.
    SigningKeys,
}

impl std::fmt::Display for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Ca => "CA",
            Self::SigningKeys => "signing key",
        })
    }
}

/// A generation came into another state.
#[derive(Clone, Debug)]
pub struct Transition {
    /// Time of the observation.
    pub at: Timestamp,
    /// The ring.
    pub ring: Ring,
    /// Its short id.
    pub id: String,
    /// The state before; none: it is new.
    pub from: Option<String>,
    /// The state after.
    pub to: String,
    /// The evidence that the transition is right.
    pub proof: Vec<String>,
}

/// The result of an observation.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// True if any object differs from the last observation, apart from API-key usage: that is
    /// written every day, without consequences for rotations.
    pub(super) changed: bool,
    pub(super) transitions: Vec<Transition>,
    /// The number of new leaves.
    pub(super) new_leaves: usize,
}

pub(super) struct Observer {
    client: Client,
    name: String,
    versions: BTreeMap<String, String>,
    /// The content of each object, apart from API-key usage.
    essences: BTreeMap<String, Value>,
    states: BTreeMap<(Ring, String), String>,
    /// In full: fingerprints and kids.
    generations: BTreeSet<String>,
    /// The serial number of the leaf of each Secret.
    leaves: BTreeMap<String, String>,
    serials: BTreeSet<String>,
    /// The largest size of each object so far, since the last [`Observer::take_sizes`].
    sizes: BTreeMap<String, usize>,
}

impl Observer {
    pub(super) fn new(client: Client, name: &str) -> Self {
        Self {
            client,
            name: name.to_owned(),
            versions: BTreeMap::new(),
            essences: BTreeMap::new(),
            states: BTreeMap::new(),
            generations: BTreeSet::new(),
            leaves: BTreeMap::new(),
            serials: BTreeSet::new(),
            sizes: BTreeMap::new(),
        }
    }

    /// Observes all objects.
    pub(super) async fn look(&mut self, now: Timestamp) -> Result<Seen> {
        let mut seen = Seen::default();
        let mine = format!("{MANAGED_BY_LABEL}={MANAGED_BY}");
        let (client, name) = (self.client.clone(), self.name.clone());
        for ring in self.list(Api::<Secret>::namespaced(client.clone(), OPERATOR_NAMESPACE), &mine, &mut seen).await? {
            self.take_ring(&ring, now, &mut seen)?;
        }
        for secret in self.list(Api::<Secret>::namespaced(client.clone(), &name), &mine, &mut seen).await? {
            self.take_leaf(&secret, &mut seen)?;
        }
        self.list(Api::<ConfigMap>::namespaced(client.clone(), &name), &mine, &mut seen).await?;
        self.list(Api::<TrustDomain>::all(client.clone()), "", &mut seen).await?;
        self.list(Api::<GaiaService>::namespaced(client.clone(), &name), "", &mut seen).await?;
        self.list(Api::<ServiceCertificate>::namespaced(client, &name), "", &mut seen).await?;
        Ok(seen)
    }

    /// True if a ring has a generation in transition.
    pub(super) fn is_rotating(&self) -> bool {
        let on_its_way = |(ring, _): &(Ring, String), state: &str| match ring {
            Ring::Ca => matches!(state, "Staged" | "Published" | "Retiring"),
            // The next signing key is Published all the time.
            Ring::SigningKeys => matches!(state, "Staged" | "Retiring"),
        };
        self.states.iter().any(|(which, state)| on_its_way(which, state))
    }

    /// The generations that are not active yet.
    pub(super) fn coming(&self) -> Vec<(Ring, String)> {
        let coming = self.states.iter().filter(|(_, state)| matches!(state.as_str(), "Staged" | "Published"));
        coming.map(|(which, _)| which.clone()).collect()
    }

    /// The number of generations and leaves so far.
    pub(super) fn totals(&self) -> (usize, usize) {
        (self.generations.len(), self.serials.len())
    }

    /// The largest sizes since the last call, by object.
    pub(super) fn take_sizes(&mut self) -> BTreeMap<String, usize> {
        std::mem::take(&mut self.sizes)
    }

    /// Lists objects, and returns the changed ones.
    async fn list<K>(&mut self, api: Api<K>, labels: &str, seen: &mut Seen) -> Result<Vec<K>>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Serialize,
    {
        let mut changed = Vec::new();
        for object in api.list(&ListParams::default().labels(labels)).await? {
            let meta = object.meta();
            let namespace = meta.namespace.as_deref().unwrap_or_default();
            let id = format!("{} {namespace}/{}", K::kind(&()), meta.name.as_deref().unwrap_or_default());
            let version = meta.resource_version.clone().unwrap_or_default();
            if self.versions.get(&id) == Some(&version) {
                continue;
            }
            let size = serde_json::to_vec(&object)?.len();
            let largest = self.sizes.entry(id.clone()).or_default();
            *largest = size.max(*largest);
            self.versions.insert(id.clone(), version);
            let essence = essence(serde_json::to_value(&object)?);
            if self.essences.get(&id) != Some(&essence) {
                self.essences.insert(id, essence);
                seen.changed = true;
            }
            changed.push(object);
        }
        Ok(changed)
    }

    fn take_ring(&mut self, secret: &Secret, now: Timestamp, seen: &mut Seen) -> Result<()> {
        let found = secret.metadata.name.as_deref().unwrap_or_default();
        let ring = match found {
            found if found == names::ca_ring(&self.name) => Ring::Ca,
            found if found == names::signing_ring(&self.name) => Ring::SigningKeys,
            _ => return Ok(()),
        };
        let text = data(secret, key::RING).with_context(|| format!("{found} holds no ring"))?;
        let json: Value = serde_json::from_slice(text)?;
        for generation in json["generations"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (id, state) = (text(&generation["id"]), text(&generation["state"]));
            let full = match ring {
                Ring::Ca => text(&generation["fingerprint"]),
                Ring::SigningKeys => text(&generation["jwk"]["kid"]),
            };
            let from = self.states.insert((ring, id.clone()), state.clone());
            if from.is_none() {
                ensure!(self.generations.insert(full), "{ring} {id} is there for the second time");
            }
            if from.as_ref() != Some(&state) {
                let is_back = from.as_deref().is_some_and(is_gone) && !is_gone(&state);
                ensure!(!is_back, "{ring} {id} was {from:?} and is {state}");
                seen.transitions.push(Transition { at: now, ring, id, from, to: state, proof: Vec::new() });
            }
        }
        // A generation that is neither trusted nor needed may be removed from the ring later.
        let listed: BTreeSet<&str> =
            json["generations"].as_array().into_iter().flatten().filter_map(|found| found["id"].as_str()).collect();
        for ((of, id), state) in &mut self.states {
            if *of == ring && !is_gone(state) && !listed.contains(id.as_str()) {
                let (id, from) = (id.clone(), Some(std::mem::replace(state, "Removed".to_owned())));
                let to = state.clone();
                seen.transitions.push(Transition { at: now, ring, id, from, to, proof: Vec::new() });
            }
        }
        let actives = self.states.iter().filter(|((of, _), state)| *of == ring && *state == "Active").count();
        ensure!(actives == 1, "{actives} generations of the {ring} ring are Active");
        Ok(())
    }

    fn take_leaf(&mut self, secret: &Secret, seen: &mut Seen) -> Result<()> {
        let Some(chain) = data(secret, key::TLS_CERT) else { return Ok(()) };
        let leaf = Certificate::chain_from_pem(chain)?.into_iter().next().context("a leaf Secret holds no leaf")?;
        let name = secret.metadata.name.clone().unwrap_or_default();
        let serial = leaf.serial();
        if self.leaves.get(&name) == Some(&serial) {
            return Ok(());
        }
        ensure!(
            self.serials.insert(serial.clone()),
            "the serial number {serial} of {name} is there for the second time"
        );
        self.leaves.insert(name, serial);
        seen.new_leaves += 1;
        Ok(())
    }
}

/// The content of an object, apart from API-key usage.
fn essence(mut object: Value) -> Value {
    let remove = |parent: &mut Value, names: &[&str]| {
        if let Some(parent) = parent.as_object_mut() {
            names.iter().for_each(|name| drop(parent.remove(*name)));
        }
    };
    let labels = object.pointer("/metadata/labels").cloned().unwrap_or_default();
    if labels[names::COMPONENT_LABEL] == "ledger" {
        remove(&mut object, &["data"]);
    }
    if let Some(metadata) = object.get_mut("metadata") {
        remove(metadata, &["resourceVersion", "managedFields"]);
    }
    if let Some(status) = object.get_mut("status") {
        remove(status, &["legacy"]);
        if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
            conditions.retain(|condition| condition["type"] != "LegacyFree");
        }
    }
    object
}

/// True if a generation in this state is trusted by no instance.
pub(super) fn is_gone(state: &str) -> bool {
    matches!(state, "Removed" | "Distrusted")
}

fn data<'a>(secret: &'a Secret, name: &str) -> Option<&'a [u8]> {
    secret.data.as_ref()?.get(name).map(|value| value.0.as_slice())
}
