//! A user's cluster: the image and the chart installed by helm, pods that mount the issued files, and
//! administrators' actions on them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use crate::node::support::manifests::{self, API_KEY};
use crate::node::support::objects::Snapshot;
use crate::node::support::{MOUNT, NAMESPACE, Platform, QUIET, SOON, SYSTEM, https, images};
use gaia_e2e::Curl;
use gaia_e2e::audit::{AuditLog, AuditMark};
use gaia_e2e::services::served_leaf;
use gaia_e2e::tier::PodCluster;
use gaia_e2e::wait::{self, Seen};
use serde_json::Value;
use tokio::time::Instant;

#[tokio::test]
async fn the_chart_starts_an_operator_without_a_warning_and_with_all_the_rights_it_needs() {
    let Some(platform) = Platform::begin().await else { return };
    platform.uninstall().await;
    // The leader's lease is removed too: helm deletes the operator's rights before it can release the lease.
    platform.cluster.kubectl(&["delete", "lease", "-n", SYSTEM, "gaia-operator"]).await.unwrap();
    let audit = audit_from_now(&platform).await;
    let notes = platform.helm(&["install"], &[]).await;
    let pod = platform.leader().await;
    assert!(notes.contains("STATUS: deployed") && notes.contains("`helm uninstall` leaves"), "{notes}");

    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!((&status["ready"], &status["restartCount"]), (&true.into(), &0.into()), "{status}");
    let about = format!("--field-selector=involvedObject.name={}", pod["metadata"]["name"].as_str().unwrap());
    let events = platform.cluster.kubectl(&["get", "events", "-n", SYSTEM, &about]).await.unwrap();
    assert!(events.contains("Started") && !events.contains("Warning"), "{events}");
    let log = platform.operator_log().await;
    assert!(log.contains("leading") && !log.contains("WARN") && !log.contains("ERROR"), "{log}");

    let metrics = format!("http://gaia-operator-metrics.{SYSTEM}.svc:9090/metrics");
    let answer = platform.call(gaia_e2e::curl::Curl::to(&metrics, Path::new(MOUNT))).await;
    assert!(answer.expect(200).unwrap().lines().any(|line| line == "gaia_leader 1"));

    if let Some((audit, start)) = audit {
        audit.settle(&platform.client).await.unwrap();
        let records = audit.by(&format!("system:serviceaccount:{SYSTEM}:gaia-operator"), start).unwrap();
        let refused: Vec<_> = records.iter().filter(|record| [401, 403].contains(&record.code)).collect();
        assert!(!records.is_empty() && refused.is_empty(), "{refused:#?}");
    }
}

#[tokio::test]
async fn the_operator_may_do_no_more_than_it_has_to() {
    let Some(platform) = Platform::begin().await else { return };
    let operator = format!("--as=system:serviceaccount:{SYSTEM}:gaia-operator");
    for (verb, resource, namespace, answer) in [
        ("patch", "servicecertificates.gaia.dev/status", NAMESPACE, "yes"),
        ("create", "secrets", NAMESPACE, "yes"),
        ("update", "secrets", SYSTEM, "yes"),
        ("update", "secrets", NAMESPACE, "no"),
        ("watch", "pods", NAMESPACE, "yes"),
        ("patch", "pods", NAMESPACE, "no"),
        ("create", "pods/exec", NAMESPACE, "no"),
        ("get", "deployments.apps", NAMESPACE, "no"),
        ("patch", "deployments.apps", NAMESPACE, "no"),
        ("get", "nodes", NAMESPACE, "no"),
        ("create", "serviceaccounts/token", NAMESPACE, "no"),
        ("create", "rolebindings.rbac.authorization.k8s.io", NAMESPACE, "no"),
        ("patch", "trustdomains.gaia.dev", NAMESPACE, "no"),
        ("delete", "namespaces", NAMESPACE, "no"),
    ] {
        let args = ["auth", "can-i", verb, resource, "--namespace", namespace, &operator];
        let said = platform.cluster.kubectl_output(&args).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), answer, "{verb} {resource} in {namespace}");
    }
}

#[tokio::test]
async fn pods_that_mount_as_the_readme_says_call_each_other_with_certificates_tokens_and_api_keys() {
    let Some(platform) = Platform::begin().await else { return };
    let token = platform.token().await;
    let (with_certificate, mount) = ("/assets/with/certificate.txt", Path::new(MOUNT));
    let put = https("asset-service", with_certificate).method("PUT").body("kept");
    assert!(WRITTEN.contains(&platform.call(put.as_peer(mount).bearer(&token)).await.status));
    let get = https("asset-service", with_certificate);
    assert_eq!(platform.call(get.clone().as_peer(mount).bearer(&token)).await.expect(200).unwrap(), "kept");
    platform.call(get.clone().as_peer(mount)).await.expect(401).unwrap();
    platform.call(get.clone().bearer(&token)).await.expect(401).unwrap();
    platform.call(get.api_key(API_KEY)).await.expect(404).unwrap();

    let with_key = https("asset-service", "/assets/with-key.txt");
    let put = with_key.clone().api_key(API_KEY).method("PUT").body("old");
    assert!(WRITTEN.contains(&platform.call(put).await.status));
    assert_eq!(platform.call(with_key.clone().api_key(API_KEY)).await.expect(200).unwrap(), "old");
    platform.call(with_key.api_key("another key")).await.expect(401).unwrap();

    let full_name = https(&format!("asset-service.{NAMESPACE}.svc.cluster.local"), "/health");
    assert!(platform.call(full_name).await.expect(200).unwrap().contains("healthy"));
}

#[tokio::test]
async fn a_deleted_leaf_is_issued_again_and_served_by_the_running_pod() {
    let Some(platform) = Platform::begin().await else { return };
    let (before, old) = (platform.pod("asset-service").await, platform.issued_leaf("asset-service").await.unwrap());
    let service = platform.forward("asset-service").await;
    let (name, roots) = (format!("asset-service.{NAMESPACE}.svc"), platform.trusted_roots().await);
    let served = async || served_leaf(service.address, &name, roots.clone()).await.map(|leaf| leaf.serial());
    wait::until("the old leaf is served", SOON, async || served().await.is_ok_and(|serial| serial == old.serial()))
        .await
        .unwrap();

    platform.kubectl(&["delete", "secret", "asset-service-tls"]).await;
    let deleted = Instant::now();
    let reissued = async || platform.issued_leaf("asset-service").await;
    let new = wait::until("the leaf is there again", REPAIR, reissued).await.unwrap();
    assert_ne!(new.serial(), old.serial());
    let served_new = async || match served().await {
        Ok(serial) if serial == new.serial() => Seen::Yes(()),
        other => Seen::NotYet(format!("{other:?}")),
    };
    let within = if is_ours(&platform) { KUBELET_SYNC + RELOAD + SLACK } else { SOON };
    wait::until("the new leaf is served", within, served_new).await.unwrap();
    gaia_e2e::progress::say(format_args!("the new leaf was served after {:.1} s", deleted.elapsed().as_secs_f32()));

    let after = platform.pod("asset-service").await;
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"], "it is the same pod");
    assert_eq!(after["status"]["containerStatuses"][0]["restartCount"], 0);
    platform.call(https("asset-service", "/assets").api_key(API_KEY)).await.expect(200).unwrap();
}

#[tokio::test]
async fn another_operator_takes_over_and_issues_nothing() {
    let Some(platform) = Platform::begin().await else { return };
    let (first, before) = (platform.leader().await, platform.snapshot().await);
    let name = first["metadata"]["name"].as_str().unwrap();
    platform.cluster.kubectl(&["delete", "pod", "-n", SYSTEM, name]).await.unwrap();
    let second = platform.leader().await;
    assert_ne!(second["metadata"]["uid"], first["metadata"]["uid"]);
    assert_unchanged(&platform, &before).await;
}

#[tokio::test]
async fn an_upgrade_that_changes_nothing_restarts_nothing_and_writes_nothing() {
    let Some(platform) = Platform::begin().await else { return };
    let (first, before) = (platform.leader().await, platform.snapshot().await);
    platform.helm(&["upgrade"], &[]).await;
    assert_eq!(platform.leader().await["metadata"]["uid"], first["metadata"]["uid"]);
    assert_unchanged(&platform, &before).await;
}

#[tokio::test]
async fn a_new_install_continues_with_the_objects_of_an_uninstalled_one() {
    let Some(platform) = Platform::begin().await else { return };
    let (before, ca) = (platform.snapshot().await, platform.ca_fingerprint().await);
    platform.uninstall().await;
    let crds = "customresourcedefinitions";
    for name in ["trustdomains.gaia.dev", "gaiaservices.gaia.dev", "servicecertificates.gaia.dev"] {
        platform.kubectl(&["get", crds, name]).await;
    }
    let token = platform.token().await;
    let call = https("asset-service", "/assets").as_peer(MOUNT.as_ref()).bearer(&token);
    platform.call(call).await.expect(200).unwrap();
    assert_unchanged(&platform, &before).await;

    platform.helm(&["install"], &[]).await;
    platform.leader().await;
    assert_unchanged(&platform, &before).await;
    assert_eq!(platform.ca_fingerprint().await, ca);
}

#[tokio::test]
async fn two_operators_confined_to_a_namespace_hand_over_within_seconds() {
    let Some(platform) = Platform::begin().await else { return };
    let before = platform.snapshot().await;
    let values = format!("watchNamespaces={{{NAMESPACE}}}");
    platform.helm(&["upgrade"], &["--set", "replicas=2", "--set", &values, "--wait"]).await;
    let first = platform.leader_of(2).await;
    let first = first["metadata"]["name"].as_str().unwrap();
    platform.cluster.kubectl(&["delete", "pod", "-n", SYSTEM, first, "--wait=false"]).await.unwrap();
    let other = async || !["", first].contains(&platform.holder().await.as_str());
    wait::until("the standby leads", HANDOVER, other).await.unwrap();
    assert_unchanged(&platform, &before).await;
}

#[tokio::test]
async fn the_image_has_our_programs_no_shell_and_a_user_that_is_not_root() {
    let Some(platform) = Platform::begin().await else { return };
    let image = unpack(&std::fs::read(images::gaia_tar(platform.cluster)).unwrap());
    let (_, config) = image.iter().find(|(name, _)| name.ends_with(".json") && *name != "manifest.json").unwrap();
    let config: Value = serde_json::from_slice(&config.content).unwrap();
    assert_eq!(config["config"]["User"], "65532:65532");
    let dockerfile = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Dockerfile")).unwrap();
    let command = dockerfile.lines().find_map(|line| line.strip_prefix("CMD ")).unwrap();
    assert_eq!(config["config"]["Cmd"], serde_json::from_str::<Value>(command).unwrap(), "both ways to an image agree");

    let files = unpack(&image["layer.tar"].content);
    let programs: Vec<&str> = files.keys().filter_map(|name| name.strip_prefix("usr/local/bin/")).collect();
    let ours = ["asset-service", "auth-service", "chat-service", "gaia", "gaia-operator", "gateway", "web-service"];
    assert_eq!(programs, ours);
    let is_link = |name: &&str| files[&format!("usr/local/bin/{name}")].content.is_empty();
    assert_eq!(
        programs.iter().filter(|name| !is_link(name)).collect::<Vec<_>>(),
        [&"gaia"],
        "one file, and links to it"
    );
    let base: BTreeMap<_, _> = files.iter().filter(|(name, _)| !name.starts_with("usr/local/bin/")).collect();
    let bin = base.keys().find(|name| ["/bin/", "/sbin/"].iter().any(|dir| format!("/{name}").contains(dir)));
    assert_eq!(bin, None, "nothing else can be run");
    assert!(files.values().all(|file| file.mode & 0o6000 == 0), "nothing gains rights by being run");
    assert!(String::from_utf8_lossy(&files["etc/passwd"].content).contains("nonroot:x:65532:65532:"));
    assert!(base.values().map(|file| file.content.len()).sum::<usize>() < 16 << 20, "the rest is small");
}

#[tokio::test]
async fn the_image_runs_as_its_own_user_on_a_root_that_cannot_be_written() {
    let Some(platform) = Platform::begin().await else { return };
    let version = format!("auth-service {}\n", env!("CARGO_PKG_VERSION"));
    platform.kubectl(&["delete", "pod", "bare", "--ignore-not-found"]).await;
    // No runAsUser: kubelet takes the image's, and refuses root.
    let pod = format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: bare, namespace: {NAMESPACE}}}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
  - name: main
    image: {}
    imagePullPolicy: IfNotPresent
    command: [auth-service, --version]
    securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
"#,
        images::GAIA
    );
    platform.cluster.apply(&pod).await.unwrap();
    platform.kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s", "pod/bare"]).await;
    assert_eq!(platform.kubectl(&["logs", "bare"]).await, version);
    platform.kubectl(&["delete", "pod", "bare"]).await;
    let shell = ["exec", "-n", NAMESPACE, "deployment/asset-service", "--", "/bin/sh", "-c", "true"];
    assert!(!platform.cluster.kubectl_output(&shell).await.unwrap().status.success());
}

#[tokio::test]
async fn the_platform_chart_starts_five_services_and_exposes_two() {
    let Some(platform) = Platform::begin().await else { return };
    let (cluster, namespace) = (platform.cluster, "platform");
    cluster.apply(&manifests::namespaces(&[namespace])).await.unwrap();
    let chart = gaia_e2e::chart::directory().with_file_name("gaia-platform");
    let (chart, demo) = (chart.to_str().unwrap(), chart.join("values-demo.yaml"));
    // Pod Security "restricted" has no ports of the node.
    let values = "trustDomain.name=platform,trustDomain.keep=false,gateway.hostPort=0,webService.hostPort=0,networkPolicy.enabled=true,\
                  chatService.providerUrl=https://provider.example/v1";
    let install =
        ["upgrade", "--install", "platform", chart, "--namespace", namespace, "--values", demo.to_str().unwrap()];
    cluster.helm(&[&install[..], &["--set", values]].concat()).await.unwrap();
    let kubectl = async |args: &[&str]| cluster.kubectl(&[&["--namespace", namespace], args].concat()).await.unwrap();
    kubectl(&["wait", "--for=condition=Ready", "--timeout=120s", "gaiaservice", "--all"]).await;
    kubectl(&["wait", "--for=condition=Available", "--timeout=120s", "deployment", "--all"]).await;
    let ready = kubectl(&["get", "deployments", "-o", "jsonpath={.items[*].metadata.name}"]).await;
    assert_eq!(ready, "asset-service auth-service chat-service gateway web-service");

    let address = async |service: &str| kubectl(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"]).await;
    let key = ["get", "secret", "platform-api-key", "-o", "go-template={{index .data \"api-key\" | base64decode}}"];
    let (key, gateway, web) = (kubectl(&key).await, address("gateway").await, address("web-service").await);
    // kube-proxy adds a ready pod with a delay, compared with the status of the Deployment.
    let http = async |what: &str, curl: Curl, status: u16| {
        let answer =
            async || curl.clone().send_from_pod(cluster, NAMESPACE, "deployment/gateway").await?.expect(status);
        wait::until(what, SOON, answer).await.unwrap()
    };
    let assets = format!("http://{gateway}:8666/assets");
    http("gateway refuses a stranger", Curl::plain(&assets), 401).await;
    let listed = http("gateway lets the key in", Curl::plain(&assets).api_key(&key), 200).await;
    assert!(listed.contains("assets"), "{listed}");
    let page = Curl::plain(&format!("http://{web}:8080/sign-in"));
    let page = http("web-service shows that sign-in is not configured", page, 200).await;
    assert!(page.contains("<h1"), "{page}");
    cluster.helm(&["uninstall", "platform", "--namespace", namespace, "--wait"]).await.unwrap();
}

/// Nothing was issued, repaired or written to a status, and nothing is in the following seconds.
async fn assert_unchanged(platform: &Platform, before: &Snapshot) {
    let unchanged = async || {
        let now = platform.snapshot().await;
        let changed: Vec<&String> =
            before.keys().chain(now.keys()).filter(|name| before.get(*name) != now.get(*name)).collect();
        if changed.is_empty() { Seen::Yes(()) } else { Seen::NotYet(format!("changed: {changed:?}")) }
    };
    wait::throughout("nothing changes", QUIET, unchanged).await.unwrap();
}

/// On a cluster of the harness: the audit log, from now on.
async fn audit_from_now(platform: &Platform) -> Option<(AuditLog, AuditMark)> {
    let PodCluster::Own(node) = platform.cluster else { return None };
    let audit = node.audit();
    let mark = audit.settle(&platform.client).await.unwrap();
    Some((audit, mark))
}

fn is_ours(platform: &Platform) -> bool {
    matches!(platform.cluster, PodCluster::Own(_))
}

struct File {
    mode: u32,
    content: Vec<u8>,
}

fn unpack(tar: &[u8]) -> BTreeMap<String, File> {
    let mut archive = tar::Archive::new(tar);
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        if !entry.header().entry_type().is_dir() {
            files.insert(name, File { mode: entry.header().mode().unwrap(), content });
        }
    }
    files
}

/// Created or, on a cluster with an earlier run of this test, replaced.
const WRITTEN: [u16; 2] = [201, 204];
/// Time limit of a repair.
const REPAIR: Duration = Duration::from_secs(5);
/// The setting of the node.
const KUBELET_SYNC: Duration = Duration::from_secs(5);
/// The polling interval of a service's mounted directory.
const RELOAD: Duration = Duration::from_secs(10);
/// For a loaded machine.
const SLACK: Duration = Duration::from_secs(15);
/// A released lease is acquired at the next attempt.
const HANDOVER: Duration = Duration::from_secs(10);
