//! A control plane with the chart, and the two writers to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use gaia_e2e::audit::AuditMark;
use gaia_e2e::{AuditLog, ControlPlane, ControlPlaneOptions, OperatorOptions, OperatorProcess, chart, progress, wait};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::time::Instant;

use super::cpu::Processes;
use super::tally::Tally;

/// The measured system.
pub(super) struct Arena {
    pub(super) cluster: ControlPlane,
    pub(super) client: Client,
    kubeconfig: PathBuf,
    /// The namespaces that the operator manages: it would also report statuses for the bare client's objects.
    watched: Vec<String>,
    env: Vec<(&'static str, &'static str)>,
}

impl Arena {
    pub(super) async fn set_up(trust_domain: &str, watched: Vec<String>) -> Result<Self> {
        let cluster = ControlPlane::start(ControlPlaneOptions::default()).await?;
        let kubeconfig = chart::install_without_deployment(&cluster, SYSTEM, &[]).await?;
        cluster.apply(trust_domain).await?;
        let client = bare_client(cluster.kubeconfig()).await?;
        for namespace in &watched {
            cluster.kubectl(&["create", "namespace", namespace]).await?;
        }
        Ok(Self { cluster, client, kubeconfig, watched, env: vec![("GAIA_LOG", "warn")] })
    }

    /// With an environment variable for the operator.
    pub(super) fn env(mut self, name: &'static str, value: &'static str) -> Self {
        self.env.push((name, value));
        self
    }

    /// An operator that has listed everything and whose TrustDomain is ready.
    pub(super) async fn operator(&self) -> Result<OperatorProcess> {
        self.operator_with(&[]).await
    }

    /// The same with further environment variables.
    pub(super) async fn operator_with(&self, env: &[(&'static str, &'static str)]) -> Result<OperatorProcess> {
        let options = OperatorOptions::new(&self.cluster, &self.kubeconfig, SYSTEM);
        let mut options = options.env("GAIA_WATCH_NAMESPACES", &self.watched.join(","));
        for (name, value) in self.env.iter().chain(env) {
            options = options.env(name, value);
        }
        let operator = OperatorProcess::start(options)?;
        operator.wait_ready(READY).await?;
        self.cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=60s", "trustdomain", "gaia"]).await?;
        Ok(operator)
    }

    pub(super) async fn select(&self, namespace: &str) -> Result<()> {
        self.cluster.kubectl(&["label", "namespace", namespace, "bench=now", "--overwrite"]).await?;
        Ok(())
    }

    pub(super) fn processes(&self, operator: &OperatorProcess) -> Processes {
        let mut server = vec![self.cluster.apiserver().pid(), self.cluster.etcd().pid()];
        server.extend(self.cluster.controller_manager().map(gaia_e2e::Process::pid));
        Processes { server, operator: Some(operator.pid()) }
    }

    pub(super) fn audit(&self) -> AuditLog {
        self.cluster.audit()
    }

    pub(super) fn tally(&self, namespace: &str) -> Tally {
        Tally::begin(self.audit(), namespace)
    }

    /// Waits until the operator has sent no requests but those for its lease for three seconds.
    pub(super) async fn settled(&self) -> Result<()> {
        progress::say("waiting until the operator is at rest");
        let mut mark = self.audit().settle(&self.client).await?;
        let mut quiet_since = Instant::now();
        wait::until_true("the operator is at rest", Duration::from_secs(600), async || -> Result<bool> {
            self.audit().settle(&self.client).await?;
            let (records, next) = self.audit().read_on(mark)?;
            mark = next;
            if records.iter().any(|record| record.user == OPERATOR_USER && record.resource != "leases") {
                quiet_since = Instant::now();
            }
            Ok(quiet_since.elapsed() > Duration::from_secs(3))
        })
        .await
    }

    /// The operator's writes since a mark, apart from its lease.
    pub(super) fn writes_since(&self, mark: AuditMark) -> Result<Vec<gaia_e2e::AuditRecord>> {
        let mut writes = self.audit().writes_by(OPERATOR_USER, mark)?;
        writes.retain(|record| record.resource != "leases");
        Ok(writes)
    }
}

/// A client like the operator's: without retries, because keeping each body for them costs it a packet.
async fn bare_client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// A TrustDomain for namespaces labelled `bench=now`; `spec` is added to its spec, in YAML's flow style.
pub(super) fn trust_domain(propagation: &str) -> String {
    format!(
        "
apiVersion: gaia.dev/v1alpha1
kind: TrustDomain
metadata: {{name: gaia}}
spec:
  trustDomain: gaia.local
  namespaceSelector: {{matchLabels: {{bench: now}}}}
  propagation: {propagation}
"
    )
}

pub(super) const OPERATOR_USER: &str = "system:serviceaccount:gaia-system:gaia-operator";
const SYSTEM: &str = "gaia-system";
const READY: Duration = Duration::from_secs(60);
