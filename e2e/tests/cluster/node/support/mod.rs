//! A platform on a cluster whose pods run: the chart installed by helm, two services, and a caller.
#![allow(unreachable_pub, reason = "a module of a test program")]

pub mod images;
pub mod manifests;
pub mod objects;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use gaia_e2e::curl::{Answer, Curl};
use gaia_e2e::tier::{self, PodCluster, Turn};
use gaia_e2e::wait::{self, Seen};
use gaia_e2e::{Process, ProcessSpec, chart};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// The operator's namespace.
pub const SYSTEM: &str = "gaia-system";
/// The services' namespace.
pub const NAMESPACE: &str = "shop";
/// Longer than any successful step takes.
pub const SOON: Duration = Duration::from_secs(120);
/// The period in which no further change may happen.
pub const QUIET: Duration = Duration::from_secs(5);

/// The platform, with the operator leading and the services ready. There is one: tests that use it take turns.
pub struct Platform {
    pub cluster: &'static PodCluster,
    pub client: Client,
    _platform: MutexGuard<'static, ()>,
    _turn: Turn,
}

impl Platform {
    pub async fn begin() -> Option<Self> {
        static PLATFORM: Mutex<()> = Mutex::const_new(());
        static IMAGES: OnceCell<()> = OnceCell::const_new();
        let cluster = tier::node().await?;
        let (lock, turn) = (PLATFORM.lock().await, Turn::take_half().await);
        IMAGES.get_or_init(|| images::load(cluster)).await;
        let platform = Self { cluster, client: cluster.admin().await.unwrap(), _platform: lock, _turn: turn };
        cluster.apply(&manifests::namespaces(&[SYSTEM, NAMESPACE])).await.unwrap();
        platform.helm(&["upgrade", "--install", "--reset-values"], &[]).await;
        platform.leader().await;
        cluster.apply(&manifests::platform()).await.unwrap();
        platform.kubectl(&["wait", "--for=condition=Ready", "--timeout=120s", "gaiaservice", "--all"]).await;
        platform.kubectl(&["wait", "--for=condition=Available", "--timeout=120s", "deployment", "--all"]).await;
        platform.wait_until_asked().await;
        Some(platform)
    }

    /// Waits until the operator has probed both services and reported it: counts are written once a minute.
    async fn wait_until_asked(&self) {
        let look = async || {
            let path = r#"jsonpath={range .items[*]}{.metadata.name}={.status.served.summary} {end}"#;
            let served = self.kubectl(&["get", "servicecertificates", "-o", path]).await;
            let domain = ["get", "trustdomain", "gaia", "-o", "jsonpath={.status.instances.summary}"];
            let instances = self.kubectl(&domain).await;
            let is_told = ["auth-service=1/1 ", "asset-service=1/1 "].iter().all(|told| served.contains(told));
            // The gateway counts too, once it was restarted.
            if is_told && ["2/", "3/"].iter().any(|current| instances.starts_with(current)) {
                Seen::Yes(())
            } else {
                Seen::NotYet(format!("{instances}, {served}"))
            }
        };
        wait::until("both services were asked what they use", SOON, look).await.unwrap();
    }

    /// `helm install` or `upgrade` of the chart as the release `gaia`, with the waiting of the README.
    pub async fn helm(&self, verb: &[&str], values: &[&str]) -> String {
        let chart = chart::directory();
        let release = ["gaia", chart.to_str().unwrap(), "--namespace", SYSTEM, "--create-namespace"];
        let said = self.cluster.helm(&[verb, &release, values].concat()).await.unwrap();
        let rollout = ["rollout", "status", "--timeout=120s", "--namespace", SYSTEM, "deployment/gaia-operator"];
        if let Err(error) = self.cluster.kubectl(&rollout).await {
            panic!("{error}\n{}", self.operators().await);
        }
        said
    }

    /// The operator's pods and the end of their logs.
    async fn operators(&self) -> String {
        let kubectl = async |args: &[&str]| {
            let said = self.cluster.kubectl(&[&["-n", SYSTEM], args].concat()).await;
            said.unwrap_or_else(|error| error.to_string())
        };
        let pods = kubectl(&["get", "pods", "-o", "wide"]).await;
        let events = kubectl(&["get", "events", "--sort-by=.lastTimestamp"]).await;
        let events: Vec<&str> = events.lines().rev().take(10).collect();
        let log = kubectl(&["logs", "-l", OPERATOR_PODS, "--tail=15"]).await;
        format!("{pods}\n{}\n{log}", events.join("\n"))
    }

    /// `helm uninstall`, until the operator's pods are deleted.
    pub async fn uninstall(&self) {
        self.cluster.helm(&["uninstall", "gaia", "--namespace", SYSTEM]).await.unwrap();
        let gone = async || self.pods(SYSTEM, OPERATOR_PODS).await.is_empty();
        wait::until("the operator's pod is gone", SOON, gone).await.unwrap();
    }

    /// The operator's pod, once it exists and holds the lease.
    pub async fn leader(&self) -> Value {
        self.leader_of(1).await
    }

    /// The same where there are more operators.
    pub async fn leader_of(&self, replicas: usize) -> Value {
        let look = async || {
            let (pods, holder) = (self.pods(SYSTEM, OPERATOR_PODS).await, self.holder().await);
            match pods.iter().find(|pod| pod["metadata"]["name"] == *holder) {
                Some(pod) if pods.len() == replicas => Seen::Yes(pod.clone()),
                _ => Seen::NotYet(format!("there are {} pods, and {holder:?} holds the lease", pods.len())),
            }
        };
        wait::until("an operator leads", SOON, look).await.unwrap()
    }

    /// The name of the pod that holds the lease.
    pub async fn holder(&self) -> String {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), SYSTEM);
        let lease = leases.get_opt("gaia-operator").await.unwrap();
        let holder = lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default();
        holder.split_once('_').map_or(String::new(), |(pod, _)| pod.to_owned())
    }

    /// The pod of a service.
    pub async fn pod(&self, service: &str) -> Value {
        let pods = self.pods(NAMESPACE, &format!("app={service}")).await;
        assert_eq!(pods.len(), 1, "{pods:#?}");
        pods[0].clone()
    }

    async fn pods(&self, namespace: &str, selector: &str) -> Vec<Value> {
        let listed = self.cluster.kubectl(&["get", "pods", "-n", namespace, "-l", selector, "-o", "json"]).await;
        let listed: Value = serde_json::from_str(&listed.unwrap()).unwrap();
        listed["items"].as_array().unwrap().clone()
    }

    /// kubectl in the namespace of the services.
    pub async fn kubectl(&self, args: &[&str]) -> String {
        self.cluster.kubectl(&[&["--namespace", NAMESPACE], args].concat()).await.unwrap()
    }

    /// A request by the service `gateway`, from its pod, with its mounted files, to another by the name of its Service.
    pub async fn call(&self, curl: Curl) -> Answer {
        curl.send_from_pod(self.cluster, NAMESPACE, "deployment/gateway").await.unwrap()
    }

    /// A token for `gateway` to use at `asset-service`.
    pub async fn token(&self) -> String {
        let body = json!({ "service_name": "gateway", "target_service": "asset-service" }).to_string();
        let call = https("auth-service", "/internal/service-token").as_peer(MOUNT.as_ref()).json(&body);
        let answer: Value = serde_json::from_str(&self.call(call).await.expect(200).unwrap()).unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// A port forward to port 8443 of a service's pod.
    pub async fn forward(&self, service: &str) -> Forward {
        let logs = tempfile::tempdir_in(self.cluster.dir()).unwrap();
        let kubectl = self.cluster.kubectl_tool().command();
        let spec = ProcessSpec::new("port-forward", kubectl.get_program(), logs.path())
            .args(kubectl.get_args())
            .arg("--kubeconfig")
            .arg(self.cluster.kubeconfig())
            .args(["port-forward", "--namespace", NAMESPACE, "--address=127.0.0.1"])
            .args([&format!("deployment/{service}"), ":8443"]);
        let process = Process::start(spec).unwrap();
        let address = async || -> Option<SocketAddr> {
            let log = std::fs::read_to_string(process.log()).unwrap_or_default();
            log.lines().find_map(|line| line.strip_prefix("Forwarding from ")?.split(' ').next()?.parse().ok())
        };
        let address = wait::until("the port is forwarded", SOON, address).await.unwrap();
        Forward { address, _process: process, _logs: logs }
    }

    /// The log of the operator's pod.
    pub async fn operator_log(&self) -> String {
        self.cluster.kubectl(&["logs", "-n", SYSTEM, "deployment/gaia-operator"]).await.unwrap()
    }
}

/// A request to a service by its name.
pub fn https(service: &str, path: &str) -> Curl {
    Curl::to(&format!("https://{service}:8443{path}"), Path::new(MOUNT))
}

/// A port of this machine that leads to a pod, until it is dropped.
pub struct Forward {
    pub address: SocketAddr,
    _process: Process,
    _logs: tempfile::TempDir,
}

/// The directory of a pod's issued files.
pub const MOUNT: &str = "/etc/gaia";

const OPERATOR_PODS: &str = "app.kubernetes.io/name=gaia-operator";
