//! The harness itself: its processes work, and end with it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gaia_e2e::tier::{self, SharedControlPlane, Tier};
use gaia_e2e::{AuditRecord, ControlPlane, ControlPlaneOptions, Projection, Source, assets, process, wait};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

static PLANE: SharedControlPlane = SharedControlPlane::new();
const SOON: Duration = Duration::from_secs(30);

// ---- the control plane ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_control_plane_serves_with_rbac_and_shows_who_asked() {
    let Some(plane) = PLANE.get().await else { return };
    let namespace = plane.namespace().await.unwrap();
    let mark = plane.audit().settle(&plane.admin().await.unwrap()).await.unwrap();

    let stranger = plane.client_for("mallory", &["strangers"]).await.unwrap();
    let refused = secrets(&stranger, &namespace).list(&ListParams::default()).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 403));

    let records = settled(plane, "mallory", mark).await;
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!((records[0].verb.as_str(), records[0].resource.as_str(), records[0].code), ("list", "secrets", 403));
    assert_eq!(records[0].namespace, namespace);
    assert!(records[0].received <= records[0].completed);
}

#[tokio::test]
async fn writes_are_told_from_reads_and_status_from_the_object() {
    let Some(plane) = PLANE.get().await else { return };
    let namespace = plane.namespace().await.unwrap();
    plane
        .kubectl(&["create", "rolebinding", "writer", "--clusterrole=admin", "--user=ann", "-n", &namespace])
        .await
        .unwrap();
    let mark = plane.audit().mark();
    let maps: Api<ConfigMap> = Api::namespaced(plane.client_for("ann", &[]).await.unwrap(), &namespace);
    let allowed = async || maps.create(&PostParams::default(), &config_map("a", "1")).await;
    wait::until("the binding is in force", SOON, allowed).await.unwrap();
    maps.get("a").await.unwrap();
    maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({ "data": { "key": "2" } }))).await.unwrap();
    maps.delete("a", &DeleteParams::default()).await.unwrap();

    plane.audit().settle(&plane.admin().await.unwrap()).await.unwrap();
    let writes = plane.audit().writes_by("ann", mark).unwrap();
    let done: Vec<&str> =
        writes.iter().filter(|record| record.succeeded()).map(|record| record.verb.as_str()).collect();
    assert_eq!(done, ["create", "patch", "delete"]);
    assert!(writes.iter().all(|record| record.subresource.is_empty() && record.namespace == namespace));
}

#[tokio::test]
async fn a_service_account_is_no_more_than_rbac_makes_it() {
    let Some(plane) = PLANE.get().await else { return };
    let namespace = plane.namespace().await.unwrap();
    plane.kubectl(&["create", "serviceaccount", "worker", "-n", &namespace]).await.unwrap();
    let kubeconfig = plane.kubeconfig_for_service_account(&namespace, "worker").await.unwrap();

    let client = gaia_e2e::cluster::client_from(&kubeconfig).await.unwrap();
    let refused = secrets(&client, &namespace).list(&ListParams::default()).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("system:serviceaccount:{namespace}:worker")), "{refused}");
}

#[tokio::test]
async fn garbage_is_collected_and_namespaces_go() {
    let Some(plane) = PLANE.get().await else { return };
    let namespace = plane.namespace().await.unwrap();
    let client = plane.admin().await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    let owner = maps.create(&PostParams::default(), &config_map("owner", "1")).await.unwrap();
    let mut child = config_map("child", "1");
    child.metadata.owner_references = Some(vec![kube::Resource::owner_ref(&owner, &()).unwrap()]);
    maps.create(&PostParams::default(), &child).await.unwrap();

    maps.delete("owner", &DeleteParams::default()).await.unwrap();
    let collected = async || maps.get_opt("child").await.is_ok_and(|found| found.is_none());
    wait::until("the child is collected", SOON, collected).await.unwrap();

    let namespaces: Api<Namespace> = Api::all(client);
    namespaces.delete(&namespace, &DeleteParams::default()).await.unwrap();
    let gone = async || namespaces.get_opt(&namespace).await.is_ok_and(|found| found.is_none());
    wait::until("the namespace is gone", SOON, gone).await.unwrap();
}

#[tokio::test]
async fn a_pod_that_wants_to_be_root_is_refused_where_the_namespace_is_restricted() {
    let Some(plane) = PLANE.get().await else { return };
    let namespace = plane.namespace().await.unwrap();
    let label = "pod-security.kubernetes.io/enforce=restricted";
    plane.kubectl(&["label", "namespace", &namespace, label]).await.unwrap();
    let output = plane
        .kubectl_output(&["run", "root", "--image=localhost/none:1", "-n", &namespace, "--dry-run=server"])
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("violates PodSecurity"), "{said}");
}

#[tokio::test]
async fn what_was_stored_is_there_after_the_api_server_was_killed() {
    let Some(plane) = tier::own_control_plane(ControlPlaneOptions::default()).await else { return };
    let namespace = plane.namespace().await.unwrap();
    let before = plane.admin().await.unwrap();
    plane.kill_apiserver().unwrap();
    assert!(Api::<Namespace>::all(before).get(&namespace).await.is_err());
    // The controllers notice, and stop or recover: the test does not wait for them.
    plane.restart_apiserver().await.unwrap();
    let after = plane.admin().await.unwrap();
    Api::<Namespace>::all(after).get(&namespace).await.unwrap();
}

#[tokio::test]
async fn a_control_plane_that_cannot_start_says_why() {
    let options = ControlPlaneOptions::default().apiserver_flag("--no-such-flag=1");
    if PLANE.get().await.is_none() {
        return;
    }
    let error = format!("{:#}", ControlPlane::start(options).await.unwrap_err());
    assert!(error.contains("unknown flag: --no-such-flag"), "{error}");
}

#[tokio::test]
async fn a_projection_follows_its_secret_in_one_step() {
    let Some(plane) = PLANE.get().await else { return };
    let namespace = plane.namespace().await.unwrap();
    let client = plane.admin().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let sources = vec![Source::secret("leaf").item("tls.crt", "tls.crt"), Source::config_map("later").optional()];
    let projection = Projection::new(client.clone(), &namespace, dir.path(), sources);
    assert!(projection.sync_once().await.unwrap_err().to_string().contains(&namespace));

    let secret = json!({ "metadata": { "name": "leaf" }, "stringData": { "tls.crt": "old", "tls.key": "k" } });
    let secrets = secrets(&client, &namespace);
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    let kept = projection.keep();
    follow(kept.dir(), "old").await;
    secrets
        .patch("leaf", &PatchParams::default(), &Patch::Merge(json!({ "stringData": { "tls.crt": "new" } })))
        .await
        .unwrap();
    follow(kept.dir(), "new").await;
    assert!(!kept.dir().join("tls.key").exists());
}

async fn follow(dir: &Path, content: &str) {
    let file = dir.join("tls.crt");
    let there = async || std::fs::read_to_string(&file).is_ok_and(|found| found == content);
    wait::until(&format!("the file says {content}"), SOON, there).await.unwrap();
}

async fn settled(plane: &ControlPlane, user: &str, mark: gaia_e2e::audit::AuditMark) -> Vec<AuditRecord> {
    plane.audit().settle(&plane.admin().await.unwrap()).await.unwrap();
    plane.audit().by(user, mark).unwrap()
}

fn secrets(client: &Client, namespace: &str) -> Api<Secret> {
    Api::namespaced(client.clone(), namespace)
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({ "metadata": { "name": name }, "data": { "key": value } })).unwrap()
}

// ---- `gaia-e2e cluster` --------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_cluster_is_up_once_and_gone_after_down() {
    if tier::available(Tier::B, assets::ControlPlaneAssets::locate()).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let first = gaia_e2e(&["cluster", "up"], dir.path()).await;
    assert!(Path::new(&first).is_file());
    let running = processes(dir.path());
    assert_eq!(gaia_e2e(&["cluster", "up"], dir.path()).await, first);
    assert_eq!(gaia_e2e(&["cluster", "status"], dir.path()).await, first);
    assert_eq!(processes(dir.path()), running);

    gaia_e2e(&["cluster", "down"], dir.path()).await;
    wait::until("nothing runs", SOON, async || processes(dir.path()).is_empty()).await.unwrap();
    assert!(!Path::new(&first).exists());
    assert!(!command(&["cluster", "status"], dir.path()).status().unwrap().success());
    gaia_e2e(&["cluster", "down"], dir.path()).await;
}

#[tokio::test]
async fn a_killed_supervisor_leaves_nothing_running_and_up_works_again() {
    if tier::available(Tier::B, assets::ControlPlaneAssets::locate()).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    gaia_e2e(&["cluster", "up"], dir.path()).await;
    assert!(processes(dir.path()).len() >= 4, "{:?}", processes(dir.path()));
    kill9(&std::fs::read_to_string(dir.path().join("supervisor.lock")).unwrap());
    wait::until("nothing runs", SOON, async || processes(dir.path()).is_empty()).await.unwrap();
    // A process that ends loses its command line before its locks.
    let is_down = async || !command(&["cluster", "status"], dir.path()).status().unwrap().success();
    wait::until("status says so", SOON, is_down).await.unwrap();

    gaia_e2e(&["cluster", "up"], dir.path()).await;
    gaia_e2e(&["cluster", "down"], dir.path()).await;
}

// ---- `gaia-e2e demo` -----------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_demo_shows_everything_and_leaves_nothing_behind() {
    if tier::available(Tier::B, assets::ControlPlaneAssets::locate()).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let told = gaia_e2e(&["demo"], dir.path()).await;
    for shown in ["servicecertificate.gaia.dev/asset-service ", "leaf.pem: OK", "\n   200\n", "HTTP/2 401"] {
        assert!(told.contains(shown), "the demo does not show {shown:?}:\n{told}");
    }
    for shown in [
        "a pair again",
        "by the same process",
        ", failed 0, wrongly accepted 0.",
        "stopped and gone",
        "make demo KEEP=1",
    ] {
        assert!(told.contains(shown), "the demo does not show {shown:?}:\n{told}");
    }
    assert_eq!(processes(dir.path()), [0; 0]);
    let left = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let secret = left.filter(|name| !["logs", "audit-policy.yaml", "supervisor.lock"].contains(&name.as_str()));
    assert_eq!(secret.collect::<Vec<_>>(), [""; 0]);
}

#[tokio::test]
async fn a_demo_that_is_kept_runs_until_it_is_taken_down() {
    if tier::available(Tier::B, assets::ControlPlaneAssets::locate()).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let told = gaia_e2e(&["demo", "--keep"], dir.path()).await;
    assert!(told.contains("still running") && told.contains("make down"), "{told}");
    let kubeconfig = gaia_e2e(&["cluster", "status"], dir.path()).await;
    assert!(told.contains(&format!("kubeconfig: {kubeconfig}")), "{told}");

    // The commands that the demo printed, in a separate shell.
    let typed = format!(". {}/files/env && kubectl delete secret -n shop web-tls", dir.path().display());
    assert!(Command::new("sh").args(["-c", &typed]).status().unwrap().success());
    let client = gaia_e2e::cluster::client_from(Path::new(&kubeconfig)).await.unwrap();
    let back = async || secrets(&client, "shop").get_opt("web-tls").await.is_ok_and(|secret| secret.is_some());
    wait::until("the Secret is back", SOON, back).await.unwrap();

    gaia_e2e(&["cluster", "down"], dir.path()).await;
    wait::until("nothing runs", SOON, async || processes(dir.path()).is_empty()).await.unwrap();
    assert!(!Path::new(&kubeconfig).exists() && !dir.path().join("files").exists());
}

/// Standard output of `gaia-e2e`, which must succeed.
async fn gaia_e2e(args: &[&str], dir: &Path) -> String {
    let output = process::output(command(args, dir)).await.unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn command(args: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gaia-e2e"));
    command.args(args).arg("--dir").arg(dir).stdout(std::process::Stdio::null());
    command
}

/// The processes whose command line or environment names the directory.
fn processes(dir: &Path) -> Vec<u32> {
    let name = dir.to_str().unwrap();
    let mut found: Vec<u32> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let names_it = |file| std::fs::read(format!("/proc/{pid}/{file}")).map(|text| contains(&text, name));
            names_it("cmdline").unwrap_or_default() || names_it("environ").unwrap_or_default()
        })
        .collect();
    found.sort_unstable();
    found
}

fn contains(text: &[u8], name: &str) -> bool {
    text.windows(name.len()).any(|window| window == name.as_bytes())
}

fn kill9(pid: &str) {
    assert!(Command::new("kill").args(["-9", pid.trim()]).status().unwrap().success());
}
