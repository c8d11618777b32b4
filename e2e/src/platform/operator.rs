//! The operator as a local process.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::cluster::Cluster;
use crate::control_plane::ports;
use crate::process::{Process, ProcessSpec};
use crate::{http, programs, wait};

/// Options of the operator.
#[derive(Clone, Debug)]
pub struct OperatorOptions {
    /// The name of this replica, and of its log file.
    pub name: String,
    /// Its identity: see [`Cluster::kubeconfig_for_service_account`].
    pub kubeconfig: PathBuf,
    /// `GAIA_OPERATOR_NAMESPACE`: the namespace of its rings.
    pub namespace: String,
    /// The directory of its log.
    pub logs: PathBuf,
    /// Further flags of `gaia-operator run`.
    pub flags: Vec<String>,
    /// Further environment variables.
    pub env: BTreeMap<String, String>,
    /// Replaces `/etc/hosts` for this process. Needs [`crate::tier::mount_namespace`].
    pub hosts: Option<PathBuf>,
}

impl OperatorOptions {
    /// With this kubeconfig, its rings in `namespace`; the log goes to the cluster's directory.
    pub fn new(cluster: &Cluster, kubeconfig: &Path, namespace: &str) -> Self {
        Self {
            name: format!("gaia-operator-{namespace}"),
            kubeconfig: kubeconfig.to_owned(),
            namespace: namespace.to_owned(),
            logs: cluster.dir().join("logs"),
            flags: Vec::new(),
            env: BTreeMap::new(),
            hosts: None,
        }
    }

    /// Another name, for another replica.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// With another flag.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// With another environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With a file in place of `/etc/hosts`. It is read at each look-up, so it can be changed later.
    #[must_use]
    pub fn hosts(mut self, file: &Path) -> Self {
        self.hosts = Some(file.to_owned());
        self
    }

    /// The program with the arguments before its own.
    fn program(&self) -> Result<ProcessSpec> {
        let binary = programs::locate("gaia-operator")?;
        let Some(hosts) = &self.hosts else { return Ok(ProcessSpec::new(&self.name, binary, &self.logs)) };
        let in_namespace = "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
        Ok(ProcessSpec::new(&self.name, "unshare", &self.logs)
            .args(["--mount", "sh", "-c", in_namespace, "sh"])
            .arg(hosts)
            .arg(binary))
    }
}

/// A running operator. It is a [`Process`]: it can be killed, paused and restarted, and keeps its addresses through it.
#[derive(Debug)]
pub struct OperatorProcess {
    process: Process,
    admin: String,
}

impl OperatorProcess {
    /// Starts `gaia-operator run`, without waiting: see [`Self::wait_ready`].
    ///
    /// # Errors
    /// If the binary is not built.
    pub fn start(options: OperatorOptions) -> Result<Self> {
        let [port] = ports::free()?;
        let admin = format!("127.0.0.1:{port}");
        let mut spec = options
            .program()?
            .arg("run")
            .args(options.flags)
            .env("KUBECONFIG", options.kubeconfig)
            .env("GAIA_OPERATOR_NAMESPACE", options.namespace)
            .env("GAIA_ADMIN_ADDRESS", &admin);
        for (name, value) in &options.env {
            spec = spec.env(name, value);
        }
        Ok(Self { process: Process::start(spec)?, admin })
    }

    /// The address of `/livez`, `/readyz` and `/metrics`.
    pub fn admin_address(&self) -> &str {
        &self.admin
    }

    /// Waits until `/readyz` is successful.
    ///
    /// # Errors
    /// If the operator ends, or does not become ready within `timeout`: with the end of its log.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let ready = async || match self.process.check_running() {
            Ok(()) => self.ready().await.map(Ok),
            Err(ended) => Ok(Err(ended)),
        };
        let what = format!("{} is ready", self.process.name());
        let result = wait::until(&what, timeout, ready).await;
        result.map_err(|error| error.context(format!("the end of its log:\n{}", self.process.log_tail())))?
    }

    /// The content of `/metrics`.
    ///
    /// # Errors
    /// If it does not answer with 200.
    pub async fn metrics(&self) -> Result<String> {
        self.get("/metrics").await
    }

    async fn ready(&self) -> Result<()> {
        self.get("/readyz").await.map(drop)
    }

    async fn get(&self, path: &str) -> Result<String> {
        let (status, body) = http::get(&format!("http://{}{path}", self.admin)).await?;
        ensure!(status == 200, "{path} says {status}: {body}");
        Ok(body)
    }
}

/// All operations on a process are available on the operator.
impl Deref for OperatorProcess {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}
