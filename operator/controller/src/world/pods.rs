//! Pods, as far as they refer to what we may write. Little is kept of each: a big cluster has ten thousand and more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use gaia_api::names::annotation;
use gaia_plan::object::ObjectKind;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::api_server::Object;

/// A Pod, as far as it is looked at. A field that is not here never makes a pod unreadable, whatever it holds.
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

/// A container that started at a time that our types cannot hold counts as one that started before anything was published.
fn time<'de, D: Deserializer<'de>>(json: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<String>::deserialize(json)?;
    Ok(text.map(|text| text.parse().unwrap_or(Timestamp::UNIX_EPOCH)))
}

impl Object for Pod {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// What of a pod can be known that cannot be read: every Secret and ConfigMap that its spec names, wherever. It counts as
/// one that does not reload and started before anything was published.
pub(crate) fn partly(meta: &ObjectMeta, pod: &Value) -> Option<PodFacts> {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let mut found = BTreeMap::new();
    named_in(&pod["spec"], &mut found);
    let references =
        found.into_keys().map(|(kind, name)| Reference { kind, name: Arc::from(name), reloads: false }).collect();
    Some(PodFacts {
        uid: meta.uid.clone().unwrap_or_default(),
        ip: None,
        started: Some(Timestamp::UNIX_EPOCH),
        ends: meta.deletion_timestamp.is_some(),
        nudged: None,
        references,
    })
}

fn named_in<'a>(part: &'a Value, found: &mut BTreeMap<(ObjectKind, &'a str), bool>) {
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
            add(found, kind, name, false);
        }
    }
    part.as_array().into_iter().flatten().for_each(|element| named_in(element, found));
}

/// A pod that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodFacts {
    pub(crate) uid: String,
    pub(crate) ip: Option<IpAddr>,
    /// When the last of its containers started; none: not all have.
    pub(crate) started: Option<Timestamp>,
    /// Whether it has been told to end.
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
    /// Whether what the pod has of it changes with it: not by subPath, and not as environment.
    pub(crate) reloads: bool,
}

/// The facts about a pod; none if it has ended, if no container of it has ever started (it holds nothing, and will
/// mount what is there when it starts), or if it refers to nothing that we could ever write.
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
        references: references
            .into_iter()
            .map(|((kind, name), reloads)| Reference { kind, name: Arc::from(name), reloads })
            .collect(),
    })
}

fn references(spec: &PodSpec) -> BTreeMap<(ObjectKind, &str), bool> {
    let containers: Vec<&Container> = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .chain(spec.ephemeral_containers.iter().flatten())
        .collect();
    let fixed: BTreeSet<&str> = containers
        .iter()
        .flat_map(|container| container.volume_mounts.iter().flatten())
        .filter(|mount| is_set(mount.sub_path.as_ref()) || is_set(mount.sub_path_expr.as_ref()))
        .map(|mount| mount.name.as_str())
        .collect();
    let mut found = BTreeMap::new();
    for volume in spec.volumes.iter().flatten() {
        for (kind, name) in volume_sources(volume) {
            add(&mut found, kind, name, !fixed.contains(volume.name.as_str()));
        }
    }
    for container in &containers {
        for (kind, name) in environment(container) {
            add(&mut found, kind, name, false);
        }
    }
    found
}

/// One way that does not reload is enough: something in the pod goes on with what was there when it started.
fn add<'a>(found: &mut BTreeMap<(ObjectKind, &'a str), bool>, kind: ObjectKind, name: &'a str, reloads: bool) {
    if could_be_ours(kind, name) {
        let all = found.entry((kind, name)).or_insert(true);
        *all = *all && reloads;
    }
}

fn volume_sources(volume: &Volume) -> Vec<(ObjectKind, &str)> {
    let secret = volume.secret.as_ref().and_then(|source| source.secret_name.as_deref());
    let map = volume.config_map.as_ref().map(|source| source.name.as_str());
    let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
    let projected = projected.flat_map(|source| {
        let secret = source.secret.as_ref().map(|source| (ObjectKind::Secret, source.name.as_str()));
        let map = source.config_map.as_ref().map(|source| (ObjectKind::ConfigMap, source.name.as_str()));
        secret.into_iter().chain(map)
    });
    let single = secret.map(|name| (ObjectKind::Secret, name));
    single.into_iter().chain(map.map(|name| (ObjectKind::ConfigMap, name))).chain(projected).collect()
}

fn environment(container: &Container) -> Vec<(ObjectKind, &str)> {
    let single = container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
    let single = single.flat_map(|source| {
        let secret = source.secret_key_ref.as_ref().map(|source| (ObjectKind::Secret, source.name.as_str()));
        let map = source.config_map_key_ref.as_ref().map(|source| (ObjectKind::ConfigMap, source.name.as_str()));
        secret.into_iter().chain(map)
    });
    let whole = container.env_from.iter().flatten().flat_map(|source| {
        let secret = source.secret_ref.as_ref().map(|source| (ObjectKind::Secret, source.name.as_str()));
        let map = source.config_map_ref.as_ref().map(|source| (ObjectKind::ConfigMap, source.name.as_str()));
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

/// Whether a container of any kind has ever started. An unschedulable pod, or one that waits for an image or a volume,
/// has none.
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

/// When the last container started that uses what is mounted: those that run for good, and those that came to look.
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
#[expect(clippy::needless_pass_by_value, reason = "manifests are written where they are handed over")]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn pod(spec: Value, status: Value) -> Pod {
        let value = json!({ "metadata": { "name": "web-x", "namespace": "shop", "uid": "u1" },
            "spec": spec, "status": status });
        serde_json::from_value(value).unwrap()
    }

    fn seen(spec: Value) -> Vec<(ObjectKind, String, bool)> {
        let facts = read(&pod(spec, json!({ "phase": "Running" })));
        let references = facts.map(|facts| facts.references.to_vec()).unwrap_or_default();
        references.into_iter().map(|r| (r.kind, r.name.to_string(), r.reloads)).collect()
    }

    fn with_volume(source: Value, mounts: Value) -> Value {
        let mut volume = json!({ "name": "gaia" });
        volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        json!({ "volumes": [volume], "containers": [{ "name": "app", "volumeMounts": mounts }] })
    }

    fn with_env(kind: &str, container: Value) -> Value {
        let mut spec = json!({ "containers": [{ "name": "app" }] });
        let mut container = container;
        container["name"] = json!("tool");
        spec.as_object_mut().unwrap().entry(kind).or_insert(json!([])).as_array_mut().unwrap().push(container);
        spec
    }

    #[rstest]
    #[case::secret(json!({ "secret": { "secretName": "web-tls" } }), vec![(ObjectKind::Secret, "web-tls")])]
    #[case::config_map(json!({ "configMap": { "name": "gaia-trust" } }), vec![(ObjectKind::ConfigMap, "gaia-trust")])]
    #[case::projected(
        json!({ "projected": { "sources": [
            { "secret": { "name": "web-tls" } }, { "configMap": { "name": "web-auth" } },
            { "serviceAccountToken": { "path": "token" } }, { "configMap": { "name": "kube-root-ca.crt" } },
        ] } }),
        vec![(ObjectKind::Secret, "web-tls"), (ObjectKind::ConfigMap, "web-auth")],
    )]
    #[case::somebody_elses_map(json!({ "configMap": { "name": "settings" } }), vec![])]
    #[case::scratch(json!({ "emptyDir": {} }), vec![])]
    fn a_volume_refers_to_its_sources(#[case] source: Value, #[case] expected: Vec<(ObjectKind, &str)>) {
        for (mounts, reloads) in [
            (json!([]), true),
            (json!([{ "name": "gaia", "mountPath": "/etc/gaia" }]), true),
            (json!([{ "name": "gaia", "mountPath": "/tls.crt", "subPath": "tls.crt" }]), false),
            (json!([{ "name": "gaia", "mountPath": "/tls.crt", "subPathExpr": "$(FILE)" }]), false),
            (json!([{ "name": "other", "mountPath": "/data", "subPath": "x" }]), true),
        ] {
            let expected: Vec<_> = expected.iter().map(|(kind, name)| (*kind, (*name).to_owned(), reloads)).collect();
            assert_eq!(seen(with_volume(source.clone(), mounts)), expected);
        }
    }

    #[rstest]
    #[case::one_key(json!({ "env": [{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "web-tls", "key": "k" } } }] }),
        (ObjectKind::Secret, "web-tls"))]
    #[case::one_map_key(
        json!({ "env": [{ "name": "A", "valueFrom": { "configMapKeyRef": { "name": "gaia-trust", "key": "k" } } }] }),
        (ObjectKind::ConfigMap, "gaia-trust"),
    )]
    #[case::all_keys(json!({ "envFrom": [{ "secretRef": { "name": "web-tls" } }] }), (ObjectKind::Secret, "web-tls"))]
    #[case::all_map_keys(json!({ "envFrom": [{ "configMapRef": { "name": "gaia-trust" } }] }),
        (ObjectKind::ConfigMap, "gaia-trust"))]
    fn environment_refers_to_its_sources_and_never_reloads(
        #[values("containers", "initContainers", "ephemeralContainers")] kind: &str,
        #[case] container: Value,
        #[case] expected: (ObjectKind, &str),
    ) {
        assert_eq!(seen(with_env(kind, container)), [(expected.0, expected.1.to_owned(), false)]);
    }

    #[rstest]
    #[case::unschedulable(json!({ "phase": "Pending", "conditions": [] }), false)]
    #[case::image_cannot_be_pulled(status_of("containerStatuses", json!({ "waiting": { "reason": "ImagePullBackOff" } })), false)]
    #[case::waits_for_a_volume(status_of("containerStatuses", json!({ "waiting": { "reason": "ContainerCreating" } })), false)]
    #[case::init_image_cannot_be_pulled(status_of("initContainerStatuses", json!({ "waiting": {} })), false)]
    #[case::init_container_runs(status_of("initContainerStatuses", json!({ "running": {} })), true)]
    #[case::init_container_has_ended(status_of("initContainerStatuses", json!({ "terminated": { "exitCode": 0 } })), true)]
    #[case::crash_loop(
        json!({ "phase": "Pending", "containerStatuses": [{ "name": "app", "image": "i", "imageID": "i", "ready": false,
            "restartCount": 0, "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            "lastState": { "terminated": { "exitCode": 1 } } }] }),
        true,
    )]
    #[case::no_status(json!({}), false)]
    fn a_pod_that_never_started_a_container_is_no_instance(#[case] status: Value, #[case] counts: bool) {
        let spec = with_volume(json!({ "secret": { "secretName": "web-tls" } }), json!([]));
        assert_eq!(read(&pod(spec, status)).is_some(), counts);
    }

    fn status_of(list: &str, state: Value) -> Value {
        json!({ "phase": "Pending", list: [{ "name": "app", "image": "i", "imageID": "i", "ready": false,
            "restartCount": 0, "state": state }] })
    }

    #[test]
    fn image_pull_secrets_and_literal_values_do_not_count() {
        let spec = json!({ "imagePullSecrets": [{ "name": "registry" }],
            "containers": [{ "name": "app", "env": [{ "name": "A", "value": "web-tls" }] }] });
        assert_eq!(seen(spec), []);
    }

    #[rstest]
    #[case("Pending", false)]
    #[case("Running", true)]
    #[case("Unknown", true)]
    #[case("Succeeded", false)]
    #[case("Failed", false)]
    fn a_pod_counts_until_it_has_ended(#[case] phase: &str, #[case] counts: bool) {
        let mut pod = pod(with_volume(json!({ "secret": { "secretName": "web-tls" } }), json!([])), json!({}));
        pod.status.as_mut().unwrap().phase = Some(phase.to_owned());
        assert_eq!(read(&pod).is_some(), counts);
        // One that is being deleted still serves.
        pod.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time("2026-01-01T00:00:00Z".parse().unwrap()));
        assert_eq!(read(&pod).is_some(), counts);
    }

    #[rstest]
    #[case::all_run(json!([ran("app", 10), ran("side", 30)]), Some(30))]
    #[case::one_waits(json!([ran("app", 10), { "name": "side", "state": { "waiting": {} } }]), None)]
    #[case::one_is_not_there_yet(json!([ran("app", 10)]), None)]
    #[case::one_has_ended(json!([ran("app", 10), { "name": "side", "state": { "terminated": { "exitCode": 0 } } }]), Some(10))]
    #[case::nothing_yet(json!([]), None)]
    fn it_started_when_the_last_of_its_containers_did(#[case] statuses: Value, #[case] expected: Option<i64>) {
        let statuses: Vec<Value> = statuses
            .as_array()
            .unwrap()
            .iter()
            .cloned()
            .map(|mut status| {
                for (field, value) in [("image", json!("i")), ("imageID", json!("i")), ("ready", json!(true))] {
                    status[field] = value;
                }
                status["restartCount"] = json!(0);
                status
            })
            .collect();
        let spec = json!({
            "volumes": [{ "name": "gaia", "secret": { "secretName": "web-tls" } }],
            "containers": [{ "name": "app" }],
            "initContainers": [{ "name": "once" }, { "name": "side", "restartPolicy": "Always" }],
        });
        let (app, init): (Vec<_>, Vec<_>) = statuses.into_iter().partition(|status| status["name"] == "app");
        let status = json!({ "phase": "Running", "containerStatuses": app, "initContainerStatuses": init });
        let facts = read(&pod(spec, status)).unwrap();
        assert_eq!(facts.started.map(Timestamp::as_second), expected.map(|second| 1_767_225_600 + second));
    }

    fn ran(name: &str, second: i64) -> Value {
        json!({ "name": name, "state": { "running": { "startedAt": format!("2026-01-01T00:00:{second}Z") } } })
    }
}
