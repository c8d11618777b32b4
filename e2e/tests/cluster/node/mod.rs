//! The node of the harness: pods run on it as on any cluster.

mod platform;
mod rotation;
mod support;

use std::time::Duration;

use gaia_e2e::image::{self, ImageConfig, Root};
use gaia_e2e::tier::{self, PodCluster};
use gaia_e2e::wait;
use tokio::sync::OnceCell;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_pod_sees_the_new_content_of_a_mounted_secret() {
    let Some(cluster) = cluster_with_toolbox().await else { return };
    let namespace = cluster.namespace().await.unwrap();
    let secret = |content: &str| {
        format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: leaf, namespace: {namespace}}}, stringData: {{tls.crt: {content}}}}}"
        )
    };
    cluster.apply(&secret("old")).await.unwrap();
    cluster.apply(&pod("reader", &namespace, "busybox sleep 1000")).await.unwrap();
    let reads = async || {
        let output = cluster
            .kubectl(&["exec", "-n", &namespace, "reader", "--", "/bin/busybox", "cat", "/etc/gaia/tls.crt"])
            .await;
        output.unwrap_or_default()
    };
    wait::until("the pod reads the Secret", SOON, async || reads().await == "old").await.unwrap();
    cluster.apply(&secret("new")).await.unwrap();
    wait::until("the pod reads the new Secret", SOON * 2, async || reads().await == "new").await.unwrap();
}

#[tokio::test]
async fn a_pod_reaches_another_by_the_name_of_its_service() {
    let Some(cluster) = cluster_with_toolbox().await else { return };
    let namespace = cluster.namespace().await.unwrap();
    let serve = "busybox mkdir -p /tmp/www && echo hello > /tmp/www/index.html && busybox httpd -f -p 8080 -h /tmp/www";
    cluster.apply(&pod("web", &namespace, serve)).await.unwrap();
    cluster
        .apply(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: {namespace}}}, \
             spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}}}"
        ))
        .await
        .unwrap();
    cluster.apply(&pod("caller", &namespace, "busybox sleep 1000")).await.unwrap();
    let url = format!("http://web.{namespace}.svc.cluster.local/");
    let call = ["exec", "-n", &namespace, "caller", "--", "/bin/busybox", "wget", "-qO-", &url];
    let answered = async || cluster.kubectl(&call).await.is_ok_and(|answer| answer == "hello\n");
    wait::until("the Service answers by its name", SOON, answered).await.unwrap();
}

/// A pod that passes as restricted, with a mounted Secret `leaf`, if there is one.
fn pod(name: &str, namespace: &str, script: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {{runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532, seccompProfile: {{type: RuntimeDefault}}}}
  volumes:
  - {{name: gaia, secret: {{secretName: leaf, optional: true, defaultMode: 0440}}}}
  - {{name: tmp, emptyDir: {{}}}}
  containers:
  - name: main
    image: {TOOLBOX}
    imagePullPolicy: IfNotPresent
    command: [/bin/busybox, sh, -c, "{script}"]
    securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
    volumeMounts: [{{name: gaia, mountPath: /etc/gaia}}, {{name: tmp, mountPath: /tmp}}]
"#
    )
}

async fn cluster_with_toolbox() -> Option<&'static PodCluster> {
    static LOADED: OnceCell<()> = OnceCell::const_new();
    let cluster = tier::node().await?;
    LOADED.get_or_init(|| load_toolbox(cluster)).await;
    Some(cluster)
}

/// The few programs of busybox, as an image.
async fn load_toolbox(cluster: &PodCluster) {
    let root = Root::new().unwrap();
    root.add_packages(&["busybox-static"]).unwrap();
    root.add_link("busybox", "bin/sh").unwrap();
    let config = ImageConfig { tag: TOOLBOX.to_owned(), command: Vec::new(), user: "65532:65532".to_owned() };
    let dir = tempfile::tempdir().unwrap();
    let tar = dir.path().join("toolbox.tar");
    image::write(&tar, &config, &root).unwrap();
    cluster.load_image(&tar).await.unwrap();
}

const TOOLBOX: &str = "localhost/gaia-toolbox:1";
