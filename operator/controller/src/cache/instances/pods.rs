//! Pods, as far as they refer to objects that the operator may write. Little is kept of each: a big cluster has ten
//! thousand and more.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use gaia_api::names::{annotation, key};
use gaia_plan::object::ObjectKind;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, KeyToPath, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::api_server::Object;

/// The relevant fields of a Pod. Other fields never make a pod unreadable.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Pod {
    pub(crate) metadata: ObjectMeta,
    spec: Option<PodSpec>,
    status: Option<PodStatus>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    #[serde(default)]
    containers: Vec<Container>,
    init_containers: Option<Vec<Container>>,
    ephemeral_containers: Option<Vec<Container>>,
    volumes: Option<Vec<Volume>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    env: Option<Vec<EnvVar>>,
    env_from: Option<Vec<EnvFromSource>>,
    volume_mounts: Option<Vec<VolumeMount>>,
    restart_policy: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    container_statuses: Option<Vec<ContainerStatus>>,
    init_container_statuses: Option<Vec<ContainerStatus>>,
    ephemeral_container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    state: Option<ContainerState>,
    last_state: Option<ContainerState>,
}

#[derive(Debug, Clone, Deserialize)]
struct ContainerState {
    running: Option<Running>,
    terminated: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Running {
    #[serde(default, deserialize_with = "time")]
    started_at: Option<Timestamp>,
}

/// A start time that jiff cannot represent counts as before every publication.
fn time<'de, D: Deserializer<'de>>(json: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<String>::deserialize(json)?;
    Ok(text.map(|text| text.parse().unwrap_or(Timestamp::UNIX_EPOCH)))
}

impl Object for Pod {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// The known parts of a pod that cannot be parsed: every Secret and ConfigMap that its spec names, in any field. It
/// counts as one that does not reload and started before every publication.
pub(crate) fn partly(meta: &ObjectMeta, pod: &Value) -> Option<PodFacts> {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let mut found = BTreeMap::new();
    named_in(&pod["spec"], &mut found);
    let references = found.into_iter().map(|((kind, name), taken)| reference(kind, name, taken)).collect();
    Some(PodFacts {
        uid: meta.uid.clone().unwrap_or_default(),
        ip: None,
        started: Some(Timestamp::UNIX_EPOCH),
        ends: meta.deletion_timestamp.is_some(),
        nudged: None,
        references,
    })
}

fn named_in<'a>(part: &'a Value, found: &mut BTreeMap<(ObjectKind, &'a str), Taken>) {
    let members = part.as_object().into_iter().flatten();
    for (member, value) in members {
        let (kind, names) = match member.as_str() {
            "secret" | "secretRef" | "secretKeyRef" => (ObjectKind::Secret, ["secretName", "name"]),
            "configMap" | "configMapRef" | "configMapKeyRef" => (ObjectKind::ConfigMap, ["name", "name"]),
            _ => {
                named_in(value, found);
                continue;
            }
        };
        for name in names.iter().filter_map(|name| value.get(name)?.as_str()) {
            add(found, kind, name, Taken { reloads: false, has_keys: true });
        }
    }
    part.as_array().into_iter().flatten().for_each(|element| named_in(element, found));
}

/// A pod that has not terminated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodFacts {
    pub(crate) uid: String,
    pub(crate) ip: Option<IpAddr>,
    /// The time when the last of its containers started; none: not all have.
    pub(crate) started: Option<Timestamp>,
    /// True if its termination has started.
    pub(crate) ends: bool,
    /// The annotation `gaia.dev/nudge`.
    pub(crate) nudged: Option<String>,
    /// Pods of one workload share this.
    pub(crate) references: Arc<[Reference]>,
}

/// That a pod refers to a Secret or ConfigMap of its namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Reference {
    pub(crate) kind: ObjectKind,
    pub(crate) name: Arc<str>,
    /// True if what the pod has of it changes with it: not by subPath, and not as environment.
    pub(crate) reloads: bool,
    /// True if `jwks.json` is among what it takes of it, if it has that key.
    pub(crate) has_keys: bool,
}

/// The way in which a pod uses an object.
#[derive(Debug, Clone, Copy)]
struct Taken {
    reloads: bool,
    has_keys: bool,
}

/// Parses a pod; none if it has terminated, if none of its containers has ever started (it holds nothing, and will
/// mount the current content), or if it refers to no object that the operator could write.
pub(crate) fn read(pod: &Pod) -> Option<PodFacts> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref());
    let phase = status.and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    if !status.is_some_and(has_started) {
        return None;
    }
    let references = references(spec);
    if references.is_empty() {
        return None;
    }
    let annotations = pod.metadata.annotations.as_ref();
    Some(PodFacts {
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        ip: status.and_then(|status| status.pod_ip.as_deref()?.parse().ok()),
        started: status.and_then(|status| started(spec, status)),
        ends: pod.metadata.deletion_timestamp.is_some(),
        nudged: annotations.and_then(|annotations| annotations.get(annotation::NUDGE).cloned()),
        references: references.into_iter().map(|((kind, name), taken)| reference(kind, name, taken)).collect(),
    })
}

fn reference(kind: ObjectKind, name: &str, Taken { reloads, has_keys }: Taken) -> Reference {
    Reference { kind, name: Arc::from(name), reloads, has_keys }
}

fn references(spec: &PodSpec) -> BTreeMap<(ObjectKind, &str), Taken> {
    let containers: Vec<&Container> = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .chain(spec.ephemeral_containers.iter().flatten())
        .collect();
    let mounts: Vec<&VolumeMount> =
        containers.iter().flat_map(|container| container.volume_mounts.iter().flatten()).collect();
    let is_part = |mount: &&&VolumeMount| is_set(mount.sub_path.as_ref()) || is_set(mount.sub_path_expr.as_ref());
    let mut found = BTreeMap::new();
    for volume in spec.volumes.iter().flatten() {
        let of_volume = || mounts.iter().filter(|mount| mount.name == volume.name);
        let reloads = !of_volume().any(|mount| is_part(&mount));
        // A subPath that names another file takes that file alone.
        let takes_keys = |mount: &&&VolumeMount| {
            mount.sub_path.as_deref().is_none_or(|path| path.is_empty() || path.ends_with(key::JWKS))
        };
        let mounted = of_volume().next().is_none() || of_volume().any(|mount| takes_keys(&mount));
        for source in volume_sources(volume) {
            let has_keys = mounted && source.has_keys();
            add(&mut found, source.kind, source.name, Taken { reloads, has_keys });
        }
    }
    for container in &containers {
        for source in environment(container) {
            add(&mut found, source.kind, source.name, Taken { reloads: false, has_keys: source.has_keys() });
        }
    }
    found
}

/// One use that does not reload is enough: part of the pod continues with the content at its start.
fn add<'a>(found: &mut BTreeMap<(ObjectKind, &'a str), Taken>, kind: ObjectKind, name: &'a str, taken: Taken) {
    if could_be_ours(kind, name) {
        let all = found.entry((kind, name)).or_insert(Taken { reloads: true, has_keys: false });
        all.reloads = all.reloads && taken.reloads;
        all.has_keys = all.has_keys || taken.has_keys;
    }
}

/// An object that a volume or the environment names.
struct Source<'a> {
    kind: ObjectKind,
    name: &'a str,
    /// The keys that are used; none: all.
    keys: Option<Vec<&'a str>>,
}

impl<'a> Source<'a> {
    fn volume(kind: ObjectKind, name: &'a str, items: Option<&'a Vec<KeyToPath>>) -> Self {
        Self { kind, name, keys: items.map(|items| items.iter().map(|item| item.key.as_str()).collect()) }
    }

    fn has_keys(&self) -> bool {
        self.keys.as_ref().is_none_or(|keys| keys.is_empty() || keys.contains(&key::JWKS))
    }
}

fn volume_sources(volume: &Volume) -> Vec<Source<'_>> {
    use ObjectKind::{ConfigMap, Secret};
    let secret = volume
        .secret
        .as_ref()
        .and_then(|source| Some(Source::volume(Secret, source.secret_name.as_deref()?, source.items.as_ref())));
    let map = volume.config_map.as_ref().map(|source| Source::volume(ConfigMap, &source.name, source.items.as_ref()));
    let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    let projected = projected.flat_map(|source| {
        let secret = source.secret.as_ref().map(|found| Source::volume(Secret, &found.name, found.items.as_ref()));
        let map = source.config_map.as_ref().map(|found| Source::volume(ConfigMap, &found.name, found.items.as_ref()));
        secret.into_iter().chain(map)
    });
    secret.into_iter().chain(map).chain(projected).collect()
}

fn environment(container: &Container) -> Vec<Source<'_>> {
    use ObjectKind::{ConfigMap, Secret};
    let single = container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
    let single = single.flat_map(|source| {
        let one = |kind, name, key| Source { kind, name, keys: Some(vec![key]) };
        let secret = source.secret_key_ref.as_ref().map(|found| one(Secret, found.name.as_str(), found.key.as_str()));
        let map =
            source.config_map_key_ref.as_ref().map(|found| one(ConfigMap, found.name.as_str(), found.key.as_str()));
        secret.into_iter().chain(map)
    });
    let whole = container.env_from.iter().flatten().flat_map(|source| {
        let all = |kind, name| Source { kind, name, keys: None };
        let secret = source.secret_ref.as_ref().map(|found| all(Secret, found.name.as_str()));
        let map = source.config_map_ref.as_ref().map(|found| all(ConfigMap, found.name.as_str()));
        secret.into_iter().chain(map)
    });
    single.chain(whole).collect()
}

/// A leaf's Secret may have any name. Without this, every pod would be kept for its `kube-root-ca.crt`.
fn could_be_ours(kind: ObjectKind, name: &str) -> bool {
    match kind {
        ObjectKind::Secret => !name.is_empty(),
        _ => OUR_CONFIG_MAPS.iter().any(|suffix| name.ends_with(suffix)),
    }
}

/// Returns true if a container of any kind has ever started. An unschedulable pod, or one that waits for an image or a
/// volume, has none.
fn has_started(status: &PodStatus) -> bool {
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let mut all = lists.into_iter().flatten().flatten();
    // A pod is Running only once a container has started (kubelet's getPhase).
    matches!(status.phase.as_deref(), Some("Running" | "Unknown"))
        || all.any(|container| {
            let runs_or_ended = |state: &ContainerState| state.running.is_some() || state.terminated.is_some();
            let states = [container.state.as_ref(), container.last_state.as_ref()];
            states.into_iter().flatten().any(runs_or_ended)
        })
}

/// Returns the start time of the last container that uses a mounted object, including ephemeral containers.
fn started(spec: &PodSpec, status: &PodStatus) -> Option<Timestamp> {
    let stays = |name: &str| {
        let sidecars = spec.init_containers.iter().flatten();
        sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always")).any(|c| c.name == name)
    };
    let found = |name: &str| {
        let statuses = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        statuses.into_iter().find(|status| status.name == name)
    };
    let sidecars = spec.init_containers.iter().flatten().map(|container| container.name.as_str());
    let lasting = spec.containers.iter().map(|container| container.name.as_str());
    let mut latest = None;
    for name in lasting.chain(sidecars.filter(|name| stays(name))) {
        match run_state(found(name)?) {
            RunState::Runs(since) => latest = latest.max(Some(since)),
            RunState::Ended => {}
            RunState::Waits => return None,
        }
    }
    for status in status.ephemeral_container_statuses.iter().flatten() {
        if let RunState::Runs(since) = run_state(status) {
            latest = latest.max(Some(since));
        }
    }
    latest
}

enum RunState {
    Runs(Timestamp),
    Ended,
    Waits,
}

fn run_state(status: &ContainerStatus) -> RunState {
    let state = status.state.as_ref();
    let since = state.and_then(|state| state.running.as_ref()?.started_at.as_ref());
    match since {
        Some(since) => RunState::Runs(*since),
        None if state.is_some_and(|state| state.terminated.is_some()) => RunState::Ended,
        None => RunState::Waits,
    }
}

fn is_set(path: Option<&String>) -> bool {
    path.is_some_and(|path| !path.is_empty())
}

const OUR_CONFIG_MAPS: [&str; 3] = ["-trust", "-grants", "-auth"];

#[cfg(test)]
mod tests;
