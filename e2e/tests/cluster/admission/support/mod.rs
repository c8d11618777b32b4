//! Shared by the tests of the policies: users and namespaces, and the chart's rendered objects.
#![allow(unreachable_pub, reason = "a module of a test program")]

pub mod rendered;

use std::path::{Path, PathBuf};
use std::time::Duration;

use gaia_e2e::cluster::client_from;
use gaia_e2e::tier::{SharedControlPlane, Turn};
use gaia_e2e::wait::{self, Seen};
use gaia_e2e::{ControlPlane, chart};
use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// A control plane where the policies are in force, without an operator.
pub static PLANE: SharedControlPlane = SharedControlPlane::new();

/// A namespace on a control plane where the chart is installed with nudge and restart, and its users.
pub struct Stage {
    pub namespace: String,
    admin: Client,
    pub operator: Client,
    /// Another account with the same rights.
    ann: Client,
    _turn: Option<Turn>,
}

/// A request of the API server.
pub struct Ask {
    pub method: Method,
    pub path: String,
    pub content_type: String,
    pub body: Value,
}

impl Stage {
    /// With the chart's rights only.
    pub async fn begin() -> Option<Self> {
        static KUBECONFIG: OnceCell<PathBuf> = OnceCell::const_new();
        let turn = Turn::take().await;
        let plane = PLANE.get().await?;
        let install = async || {
            let values = ["nudge.enabled=true", "restart.enabled=true"];
            let kubeconfig = chart::install_without_deployment(plane, OPERATOR_NAMESPACE, &values).await.unwrap();
            // Another namespace, so that the policies are in force here without any right but the chart's.
            Self::on(plane, &kubeconfig).await.grant_every_right(plane).await;
            kubeconfig
        };
        let kubeconfig = KUBECONFIG.get_or_init(install).await;
        Some(Self { _turn: Some(turn), ..Self::on(plane, kubeconfig).await })
    }

    /// With every right in the namespace, as if the operator were bound to cluster-admin there.
    pub async fn with_every_right() -> Option<Self> {
        let stage = Self::begin().await?;
        stage.grant_every_right(PLANE.get().await?).await;
        Some(stage)
    }

    async fn on(plane: &ControlPlane, kubeconfig: &Path) -> Self {
        Self {
            namespace: plane.namespace().await.unwrap(),
            admin: plane.admin().await.unwrap(),
            operator: client_from(kubeconfig).await.unwrap(),
            ann: plane.client_for("ann", &[]).await.unwrap(),
            _turn: None,
        }
    }

    /// Binds, and waits until the API server has loaded the binding and both policies.
    async fn grant_every_right(&self, plane: &ControlPlane) {
        let account = format!("--serviceaccount={OPERATOR_NAMESPACE}:{}", chart::SERVICE_ACCOUNT);
        let binding = ["create", "rolebinding", "all", "--clusterrole=cluster-admin", "--user=ann", &account];
        plane.kubectl(&[&binding[..], &["--namespace", &self.namespace]].concat()).await.unwrap();
        for (resource, object) in [("pods", pod()), ("deployments", workload("deployments"))] {
            let ask = self.post(resource, object).dry();
            let refused_by_policy = async || match self.as_operator(&ask).await {
                Err(said) if said.contains("ValidatingAdmissionPolicy") => Seen::Yes(()),
                other => Seen::NotYet(format!("{other:?}")),
            };
            wait::until("the policies are in force", SOON, refused_by_policy).await.unwrap();
        }
    }

    /// Created by the administrator; a new namespace gets its ServiceAccount, which a pod needs, with a delay.
    pub async fn create(&self, resource: &str, object: Value) -> Value {
        let ask = self.post(resource, object);
        wait::until("the object is made", SOON, async || send(&self.admin, &ask).await).await.unwrap()
    }

    pub async fn as_operator(&self, ask: &Ask) -> Result<Value, String> {
        send(&self.operator, ask).await
    }

    /// The operator is refused, by this policy and for this reason.
    pub async fn is_refused(&self, ask: &Ask, policy: &str, why: &str) {
        let said = self.as_operator(ask).await.unwrap_err();
        let by = format!("ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request: ");
        assert!(said.contains(&by) && said.ends_with(why), "{said}");
    }

    /// As [`Self::is_refused`], while another account with the same rights is not refused.
    pub async fn is_refused_to_the_operator_alone(&self, ask: &Ask, policy: &str, why: &str) {
        send(&self.ann, &ask.dry()).await.unwrap();
        self.is_refused(ask, policy, why).await;
    }

    pub fn patch(&self, resource: &str, body: Value) -> Ask {
        self.ask(Method::PATCH, resource, &format!("/{NAME}"), body)
    }

    pub fn put(&self, resource: &str, body: Value) -> Ask {
        self.ask(Method::PUT, resource, &format!("/{NAME}"), body)
    }

    pub fn delete(&self, resource: &str) -> Ask {
        self.ask(Method::DELETE, resource, &format!("/{NAME}"), json!({}))
    }

    pub fn post(&self, resource: &str, body: Value) -> Ask {
        self.ask(Method::POST, resource, "", body)
    }

    pub fn post_below(&self, resource: &str, subresource: &str, body: Value) -> Ask {
        self.ask(Method::POST, resource, &format!("/{NAME}"), body).below(subresource)
    }

    fn ask(&self, method: Method, resource: &str, rest: &str, body: Value) -> Ask {
        let group = if resource == "pods" { "api/v1" } else { "apis/apps/v1" };
        let content_type = if method == Method::PATCH { STRATEGIC } else { "application/json" };
        let path = format!("/{group}/namespaces/{}/{resource}{rest}", self.namespace);
        Ask { method, path, content_type: content_type.to_owned(), body }
    }
}

impl Ask {
    pub fn below(mut self, subresource: &str) -> Self {
        self.path += &format!("/{subresource}");
        self
    }

    /// The same as a dry run.
    pub fn dry(&self) -> Self {
        let (mut path, mut body) = (self.path.clone(), self.body.clone());
        if self.method == Method::DELETE {
            body["dryRun"] = json!(["All"]);
        } else {
            path += "?dryRun=All";
        }
        Self { method: self.method.clone(), path, content_type: self.content_type.clone(), body }
    }
}

/// The API server's answer or refusal.
async fn send(client: &Client, ask: &Ask) -> Result<Value, String> {
    let request = Request::builder().method(&ask.method).uri(&ask.path).header("content-type", &ask.content_type);
    let request = request.body(serde_json::to_vec(&ask.body).unwrap()).unwrap();
    client.request(request).await.map_err(|error| match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    })
}

pub fn pod() -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": meta(), "spec": pod_spec() })
}

pub fn workload(resource: &str) -> Value {
    let mut workload = json!({
        "apiVersion": "apps/v1",
        "metadata": { "name": NAME },
        "spec": { "selector": { "matchLabels": { "app": "orders" } }, "template": { "metadata": meta(), "spec": pod_spec() } },
    });
    workload["spec"]["template"]["metadata"].as_object_mut().unwrap().remove("name");
    workload["kind"] = match resource {
        "deployments" => json!("Deployment"),
        "statefulsets" => json!("StatefulSet"),
        _ => json!("DaemonSet"),
    };
    workload
}

fn meta() -> Value {
    json!({ "name": NAME, "labels": { "app": "orders" }, "annotations": { "example.com/owner": "shop" } })
}

fn pod_spec() -> Value {
    let container = json!({ "name": "app", "image": "example.com/app:1", "resources": { "requests": { "cpu": "1" } } });
    json!({ "containers": [container] })
}

pub fn owner() -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": "0b5a5f2e-3a0b-4c47-9a43-0d1a1d3c5a55" })
}

pub fn restarted_at(value: &str) -> Value {
    json!({ "spec": { "template": { "metadata": { "annotations": { "gaia.dev/restarted-at": value } } } } })
}

pub const OPERATOR_NAMESPACE: &str = "gaia-system";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
/// The name of every pod and workload here.
pub const NAME: &str = "orders";
const SOON: Duration = Duration::from_secs(60);
