//! The chart's ValidatingAdmissionPolicies: independent of its rights, the operator may only set its own annotations on pods and
//! workloads.

mod support;

use crate::admission::support::rendered::{environment, granted, policies, rendered};
use crate::admission::support::{
    Ask, NAME, OPERATOR_NAMESPACE, PLANE, STRATEGIC, Stage, owner, pod, restarted_at, workload,
};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use rstest::rstest;
use serde_json::{Value, json};

// ---- allowed changes -----------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_chart_lets_the_operator_nudge_a_pod() {
    let Some(stage) = Stage::begin().await else { return };
    stage.create("pods", pod()).await;
    let pods: Api<Pod> = Api::namespaced(stage.operator.clone(), &stage.namespace);
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { "gaia.dev/nudge": "2026-01-01T00:00:00Z" } } }));
    let found = pods.patch_metadata(NAME, &PatchParams::default(), &patch).await.unwrap();
    let annotations = found.metadata.annotations.unwrap();
    assert_eq!(annotations["gaia.dev/nudge"], "2026-01-01T00:00:00Z");
    assert_eq!(annotations["example.com/owner"], "shop");
}

#[rstest]
#[tokio::test]
async fn the_chart_lets_the_operator_restart_a_workload(
    #[values("deployments", "statefulsets", "daemonsets")] resource: &str,
) {
    let Some(stage) = Stage::begin().await else { return };
    stage.create(resource, workload(resource)).await;
    let found = stage.as_operator(&stage.patch(resource, restarted_at("2026-01-01T00:00:00Z"))).await.unwrap();
    let annotations = &found["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(*annotations, json!({ "example.com/owner": "shop", "gaia.dev/restarted-at": "2026-01-01T00:00:00Z" }));
}

#[rstest]
#[case("application/merge-patch+json", json!({ "metadata": { "annotations": { "gaia.dev/nudge": "1" } } }))]
#[case(STRATEGIC, json!({ "metadata": { "annotations": { "gaia.dev/nudge": "1" } } }))]
#[case("application/json-patch+json", json!([{ "op": "add", "path": "/metadata/annotations/gaia.dev~1nudge", "value": "1" }]))]
#[case("application/apply-patch+yaml", json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "annotations": { "gaia.dev/nudge": "1" } } }))]
#[tokio::test]
async fn an_annotation_of_gaia_may_come_by_any_patch(#[case] content_type: &str, #[case] patch: Value) {
    let Some(stage) = Stage::begin().await else { return };
    stage.create("pods", pod()).await;
    let mut ask = Ask { content_type: content_type.to_owned(), ..stage.patch("pods", patch) };
    ask.path += "?fieldManager=gaia";
    let found = stage.as_operator(&ask).await.unwrap();
    assert_eq!(found["metadata"]["annotations"]["gaia.dev/nudge"], "1");
}

#[tokio::test]
async fn an_object_sent_as_a_whole_is_compared_without_server_fields() {
    let Some(stage) = Stage::with_every_right().await else { return };
    let mut sent = stage.create("pods", pod()).await;
    for kept in ["managedFields", "generation", "resourceVersion"] {
        sent["metadata"].as_object_mut().unwrap().remove(kept);
    }
    sent["metadata"]["annotations"]["gaia.dev/nudge"] = json!("1");
    let found = stage.as_operator(&stage.put("pods", sent.clone())).await.unwrap();
    assert_eq!(found["metadata"]["annotations"]["gaia.dev/nudge"], "1");

    sent["spec"]["containers"][0]["image"] = json!("example.com/other:1");
    stage.is_refused(&stage.put("pods", sent), "gaia-operator-pods", "not change spec").await;
}

#[tokio::test]
async fn an_annotation_of_gaia_may_be_changed_and_removed() {
    let Some(stage) = Stage::begin().await else { return };
    stage.create("pods", pod()).await;
    for value in [json!("1"), json!("2"), Value::Null] {
        let patch = json!({ "metadata": { "annotations": { "gaia.dev/nudge": value } } });
        let found = stage.as_operator(&stage.patch("pods", patch)).await.unwrap();
        assert_eq!(found["metadata"]["annotations"]["gaia.dev/nudge"], value);
    }
}

// ---- refused changes, even with every right ------------------------------------------------------------------------

#[rstest]
#[case::its_image(json!({ "spec": { "containers": [{ "name": "app", "image": "example.com/other:1" }] } }), "not change spec")]
#[case::its_deadline(json!({ "spec": { "activeDeadlineSeconds": 1 } }), "not change spec")]
#[case::its_labels(json!({ "metadata": { "labels": { "app": "other" } } }), "not change metadata.labels")]
#[case::its_owner(json!({ "metadata": { "ownerReferences": [owner()] } }), "not change metadata.ownerReferences")]
#[case::its_finalizers(json!({ "metadata": { "finalizers": ["example.com/hold"] } }), "not change metadata.finalizers")]
#[case::another_annotation(
    json!({ "metadata": { "annotations": { "example.com/new": "1" } } }),
    "not change metadata.annotations example.com/new"
)]
#[case::an_annotation_of_somebody_else(
    json!({ "metadata": { "annotations": { "example.com/owner": "other" } } }),
    "not change metadata.annotations example.com/owner"
)]
#[case::an_annotation_of_somebody_else_away(
    json!({ "metadata": { "annotations": { "example.com/owner": null } } }),
    "not change metadata.annotations example.com/owner"
)]
#[case::an_annotation_whose_prefix_only_begins_alike(
    json!({ "metadata": { "annotations": { "gaia.dev.example.com/nudge": "1" } } }),
    "not change metadata.annotations gaia.dev.example.com/nudge"
)]
#[case::anything_along_with_its_own_annotation(
    json!({ "metadata": { "annotations": { "gaia.dev/nudge": "1" }, "labels": { "app": "other" } }, "spec": { "activeDeadlineSeconds": 1 } }),
    "not change spec, metadata.labels"
)]
#[tokio::test]
async fn the_operator_cannot_change_of_a_pod(#[case] patch: Value, #[case] why: &str) {
    let Some(stage) = Stage::with_every_right().await else { return };
    stage.create("pods", pod()).await;
    stage.is_refused_to_the_operator_alone(&stage.patch("pods", patch), "gaia-operator-pods", why).await;
}

#[rstest]
#[case("ephemeralcontainers", json!({ "spec": { "ephemeralContainers": [{ "name": "debug", "image": "example.com/other:1" }] } }))]
#[case("resize", json!({ "spec": { "containers": [{ "name": "app", "image": "example.com/app:1", "resources": { "requests": { "cpu": "2" } } }] } }))]
#[case("status", json!({ "status": { "phase": "Failed" } }))]
#[tokio::test]
async fn the_operator_cannot_change_a_pod_by_way_of_a_subresource(#[case] subresource: &str, #[case] patch: Value) {
    let Some(stage) = Stage::with_every_right().await else { return };
    stage.create("pods", pod()).await;
    let ask = stage.patch("pods", patch).below(subresource);
    let why = format!("not update pods/{subresource}");
    stage.is_refused_to_the_operator_alone(&ask, "gaia-operator-pods", &why).await;
}

#[tokio::test]
async fn the_operator_cannot_create_delete_evict_bind_or_enter_a_pod() {
    let Some(stage) = Stage::with_every_right().await else { return };
    stage.create("pods", pod()).await;
    let mut another = pod();
    another["metadata"]["name"] = json!("another");
    let binding = json!({ "metadata": { "name": NAME }, "target": { "kind": "Node", "name": "elsewhere" } });
    let eviction = json!({ "metadata": { "name": NAME } });
    for (ask, why) in [
        (stage.post("pods", another), "not create pods"),
        (stage.delete("pods"), "not delete pods"),
        (stage.post_below("pods", "eviction", eviction), "not create pods/eviction"),
        (stage.post_below("pods", "binding", binding), "not create pods/binding"),
    ] {
        stage.is_refused_to_the_operator_alone(&ask, "gaia-operator-pods", why).await;
    }
    let enter = stage.post_below("pods", "exec?command=sh&stdout=true", Value::Null);
    stage.is_refused(&enter, "gaia-operator-pods", "not connect pods/exec").await;
}

#[rstest]
#[case::its_image(
    json!({ "spec": { "template": { "spec": { "containers": [{ "name": "app", "image": "example.com/other:1" }] } } } }),
    "not change spec.template.spec"
)]
#[case::its_service_account(
    json!({ "spec": { "template": { "spec": { "serviceAccountName": "other" } } } }),
    "not change spec.template.spec"
)]
#[case::the_labels_of_its_pods(
    json!({ "spec": { "template": { "metadata": { "labels": { "tier": "other" } } } } }),
    "not change spec.template.metadata.labels"
)]
#[case::other_annotations_of_its_pods(
    json!({ "spec": { "template": { "metadata": { "annotations": { "kubectl.kubernetes.io/restartedAt": "1" } } } } }),
    "not change spec.template.metadata.annotations kubectl.kubernetes.io/restartedAt"
)]
#[case::annotations_of_somebody_else_away(
    json!({ "spec": { "template": { "metadata": { "annotations": { "example.com/owner": null } } } } }),
    "not change spec.template.metadata.annotations example.com/owner"
)]
#[case::any_other_part_of_its_spec(json!({ "spec": { "minReadySeconds": 7 } }), "not change spec.minReadySeconds")]
#[case::its_labels(json!({ "metadata": { "labels": { "app": "other" } } }), "not change metadata.labels")]
#[case::its_own_annotations(
    json!({ "metadata": { "annotations": { "gaia.dev/restarted-at": "1" } } }),
    "not change metadata.annotations gaia.dev/restarted-at"
)]
#[case::its_owner(json!({ "metadata": { "ownerReferences": [owner()] } }), "not change metadata.ownerReferences")]
#[case::its_finalizers(json!({ "metadata": { "finalizers": ["example.com/hold"] } }), "not change metadata.finalizers")]
#[case::anything_along_with_its_own_annotation(
    json!({ "spec": { "minReadySeconds": 7, "template": { "metadata": { "annotations": { "gaia.dev/restarted-at": "1", "example.com/new": "1" } } } } }),
    "not change spec.minReadySeconds, spec.template.metadata.annotations example.com/new"
)]
#[tokio::test]
async fn the_operator_cannot_change_of_a_workload(
    #[case] patch: Value,
    #[case] why: &str,
    #[values("deployments", "statefulsets", "daemonsets")] resource: &str,
) {
    let Some(stage) = Stage::with_every_right().await else { return };
    stage.create(resource, workload(resource)).await;
    stage.is_refused_to_the_operator_alone(&stage.patch(resource, patch), "gaia-operator-workloads", why).await;
}

#[rstest]
#[tokio::test]
async fn the_operator_cannot_scale_a_workload(#[values("deployments", "statefulsets")] resource: &str) {
    let Some(stage) = Stage::with_every_right().await else { return };
    stage.create(resource, workload(resource)).await;
    let scale = json!({ "spec": { "replicas": 5 } });
    let by_spec = stage.patch(resource, scale.clone());
    stage.is_refused_to_the_operator_alone(&by_spec, "gaia-operator-workloads", "not change spec.replicas").await;
    let by_subresource = stage.patch(resource, scale).below("scale");
    let why = format!("not update {resource}/scale");
    stage.is_refused_to_the_operator_alone(&by_subresource, "gaia-operator-workloads", &why).await;
}

#[rstest]
#[tokio::test]
async fn the_operator_cannot_create_or_delete_a_workload_or_write_its_status(
    #[values("deployments", "statefulsets", "daemonsets")] resource: &str,
) {
    let Some(stage) = Stage::with_every_right().await else { return };
    stage.create(resource, workload(resource)).await;
    let mut another = workload(resource);
    another["metadata"]["name"] = json!("another");
    let status = json!({ "status": { "observedGeneration": 77 } });
    for (ask, why) in [
        (stage.post(resource, another), format!("not create {resource}")),
        (stage.delete(resource), format!("not delete {resource}")),
        (stage.patch(resource, status).below("status"), format!("not update {resource}/status")),
    ] {
        stage.is_refused_to_the_operator_alone(&ask, "gaia-operator-workloads", &why).await;
    }
}

#[tokio::test]
async fn the_rights_that_the_chart_gives_do_not_reach_an_image_either() {
    let Some(stage) = Stage::begin().await else { return };
    stage.create("pods", pod()).await;
    stage.create("deployments", workload("deployments")).await;
    let containers = json!({ "containers": [{ "name": "app", "image": "example.com/other:1" }] });
    let of_pod = stage.patch("pods", json!({ "spec": containers }));
    stage.is_refused(&of_pod, "gaia-operator-pods", "not change spec").await;
    let of_workload = stage.patch("deployments", json!({ "spec": { "template": { "spec": containers } } }));
    stage.is_refused(&of_workload, "gaia-operator-workloads", "not change spec.template.spec").await;

    let debug = json!({ "spec": { "ephemeralContainers": [{ "name": "debug", "image": "example.com/other:1" }] } });
    let said = stage.as_operator(&stage.patch("pods", debug).below("ephemeralcontainers")).await.unwrap_err();
    assert!(said.contains("cannot patch resource \"pods/ephemeralcontainers\""), "no such right at all: {said}");
}

// ---- what the chart renders ----------------------------------------------------------------------------------------

#[tokio::test]
async fn nothing_of_it_is_there_by_default() {
    let Some(plane) = PLANE.get().await else { return };
    let objects = rendered(plane, &[]).await;
    assert_eq!(policies(&objects), [""; 0]);
    assert_eq!(granted(&objects, "pods"), ["list", "watch"]);
    assert_eq!(granted(&objects, "deployments"), [""; 0]);
    assert_eq!((environment(&objects, "GAIA_NUDGE"), environment(&objects, "GAIA_RESTART")), ("false", "false"));
}

#[tokio::test]
async fn either_value_adds_its_own_right_and_both_policies() {
    let Some(plane) = PLANE.get().await else { return };
    let both = ["gaia-operator-pods", "gaia-operator-workloads"];

    let nudge = rendered(plane, &["nudge.enabled=true"]).await;
    assert_eq!(policies(&nudge), both);
    assert_eq!(granted(&nudge, "pods"), ["list", "watch", "patch"]);
    assert_eq!(granted(&nudge, "deployments"), [""; 0]);
    assert_eq!((environment(&nudge, "GAIA_NUDGE"), environment(&nudge, "GAIA_RESTART")), ("true", "false"));

    let restart = rendered(plane, &["restart.enabled=true", "watchNamespaces={shop}"]).await;
    assert_eq!(policies(&restart), both);
    assert_eq!(granted(&restart, "pods"), ["list", "watch"]);
    for resource in ["deployments", "statefulsets", "daemonsets"] {
        assert_eq!(granted(&restart, resource), ["patch"]);
    }
    assert_eq!((environment(&restart, "GAIA_NUDGE"), environment(&restart, "GAIA_RESTART")), ("false", "true"));
}

#[rstest]
#[case(&[], "gaia-operator")]
#[case(&["serviceAccount.name=custom"], "custom")]
#[case(&["fullnameOverride=custom"], "custom")]
#[case(&["serviceAccount.create=false"], "default")]
#[tokio::test]
async fn the_policies_are_about_the_account_that_the_operator_runs_as(#[case] values: &[&str], #[case] account: &str) {
    let Some(plane) = PLANE.get().await else { return };
    let objects = rendered(plane, &[&["nudge.enabled=true"], values].concat()).await;
    let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
    assert_eq!(deployment["spec"]["template"]["spec"]["serviceAccountName"], account);
    let user = format!("request.userInfo.username == 'system:serviceaccount:{OPERATOR_NAMESPACE}:{account}'");
    for policy in objects.iter().filter(|object| object["kind"] == "ValidatingAdmissionPolicy") {
        assert_eq!(policy["spec"]["matchConditions"][0]["expression"], user);
        assert_eq!(policy["spec"]["failurePolicy"], "Fail");
    }
}
