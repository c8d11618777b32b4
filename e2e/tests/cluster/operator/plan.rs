//! `gaia-operator plan` prints the planned actions, and executes none.

use std::process::Command;

use crate::common::{OPERATOR, OPERATOR_NAMESPACE, Plane, SOON, Scene};
use gaia_e2e::{process, programs};
use serde_json::{Value, json};

#[tokio::test]
async fn a_plan_prints_actions_and_writes_nothing() {
    let Some(plane) = Plane::own(&[]).await else { return };
    let operator = plane.start_operator().await;
    let scene = plane.scene().await;
    scene.ready_domain(json!({})).await;
    scene.create(scene.certificate("worker", json!({}))).await;
    scene.create(scene.service("orders", json!({}))).await;
    scene.wait_ready("ServiceCertificate", &["worker", "orders"]).await;
    scene.wait_ready("GaiaService", &["orders"]).await;
    assert!(operator.sigterm(SOON).await.unwrap().success());

    let mark = scene.mark().await;
    assert_eq!(plan(&scene, &[]).await, "0 actions for 4 objects; nothing was written\n");
    scene.delete("Secret", "worker-tls").await;
    scene.patch("ConfigMap", "orders-auth", json!({ "data": { "policy.json": "{}" } })).await;

    let (td, ns) = (&scene.domain, &scene.namespace);
    let text = plan(&scene, &[]).await;
    let lines: Vec<&str> = text.lines().collect();
    let id = format!("spiffe://{td}.example/ns/{ns}/sa/worker");
    let issue = format!("ServiceCertificate {ns}/worker: create Secret {ns}/worker-tls: certificate for {id} until ");
    assert!(lines.iter().any(|line| line.starts_with(&issue)), "{text}");
    let patch = format!("GaiaService {ns}/orders: patch ConfigMap {ns}/orders-auth (data policy.json)");
    assert!(lines.contains(&patch.as_str()), "{text}");
    assert_eq!(lines.last(), Some(&"2 actions for 4 objects; nothing was written"), "{text}");

    let json: Vec<Value> = serde_json::from_str(&plan(&scene, &["--output", "json"]).await).unwrap();
    assert_eq!(json.len(), 2, "{json:#?}");
    let issue = json.iter().find(|entry| entry["for"] == format!("ServiceCertificate {ns}/worker")).unwrap();
    assert_eq!(issue["action"]["IssueLeaf"]["spiffe_id"], id, "{issue:#}");
    assert!(json.iter().any(|entry| entry["for"] == format!("GaiaService {ns}/orders")), "{json:#?}");
    assert!(!format!("{json:?}").contains("PRIVATE KEY"));

    scene.mark().await;
    let asked = plane.audit().by(OPERATOR, mark).unwrap();
    assert!(asked.iter().any(|record| record.verb == "list"), "it asked under the chart's ServiceAccount");
    let writes: Vec<String> = asked.iter().filter(|record| record.is_write()).map(ToString::to_string).collect();
    assert_eq!(writes, [""; 0]);
    scene.end().await;
}

/// The output of `gaia-operator plan` under the chart's ServiceAccount.
async fn plan(scene: &Scene, flags: &[&str]) -> String {
    let options = scene.plane.operator().await;
    let mut command = Command::new(programs::locate("gaia-operator").unwrap());
    command.arg("plan").args(flags).env("KUBECONFIG", options.kubeconfig);
    command.env("GAIA_OPERATOR_NAMESPACE", OPERATOR_NAMESPACE);
    let output = process::output(command).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
