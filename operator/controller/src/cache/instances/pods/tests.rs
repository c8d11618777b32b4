//! Parsing of pods.

#![expect(clippy::needless_pass_by_value, reason = "manifests are written where they are handed over")]

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

/// `PODS-UPDATED` counts the keys that a pod uses: one without `jwks.json` never lags behind a signing key.
#[rstest]
#[case::all(json!({ "configMap": { "name": "gaia-trust" } }), json!([]), true)]
#[case::the_bundle(json!({ "configMap": { "name": "gaia-trust", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } }), json!([]), false)]
#[case::projected(
    json!({ "projected": { "sources": [{ "configMap": { "name": "gaia-trust", "items": [{ "key": "jwks.json", "path": "k" }] } }] } }),
    json!([]),
    true,
)]
#[case::sub_path(
    json!({ "configMap": { "name": "gaia-trust" } }),
    json!([{ "name": "gaia", "mountPath": "/ca.crt", "subPath": "ca.crt" }]),
    false,
)]
fn a_pod_has_the_keys_that_it_takes(#[case] source: Value, #[case] mounts: Value, #[case] has_keys: bool) {
    let facts = read(&pod(with_volume(source, mounts), json!({ "phase": "Running" }))).unwrap();
    assert_eq!(facts.references[0].has_keys, has_keys);
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
    // A pod that is being deleted still serves.
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
