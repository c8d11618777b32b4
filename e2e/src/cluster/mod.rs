//! Operations of a test on a cluster of any origin.

pub mod audit;
pub mod kubeconfig;
pub mod tier;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use crate::assets::{self, Tool};
use crate::process;

/// A running cluster, with the rights of its administrator.
#[derive(Clone, Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    kubectl: Tool,
    dir: PathBuf,
}

impl Cluster {
    /// The cluster of the administrator's `kubeconfig`. Its files are written to `dir`.
    pub fn new(kubeconfig: impl Into<PathBuf>, kubectl: Tool, dir: impl Into<PathBuf>) -> Self {
        Self { kubeconfig: kubeconfig.into(), kubectl, dir: dir.into() }
    }

    /// An external cluster, as `GAIA_E2E_KUBECONFIG` names it.
    ///
    /// # Errors
    /// If the file is not there or there is no kubectl.
    pub fn external(kubeconfig: impl Into<PathBuf>) -> Result<Self> {
        let kubeconfig = kubeconfig.into();
        ensure!(kubeconfig.is_file(), "{} is not a file", kubeconfig.display());
        Ok(Self::new(kubeconfig, assets::kubectl()?, crate::dirs::scratch()?))
    }

    /// The administrator's kubeconfig file.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The cluster's kubectl.
    pub fn kubectl_tool(&self) -> &Tool {
        &self.kubectl
    }

    /// The directory for files about the cluster: logs, kubeconfigs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A client of the administrator. Each belongs to its Tokio runtime: create one per test.
    ///
    /// # Errors
    /// If the kubeconfig cannot be read.
    pub async fn admin(&self) -> Result<Client> {
        client_from(&self.kubeconfig).await
    }

    /// A client that the API server authenticates as `user` in `groups` (and in `system:authenticated`): the administrator
    /// impersonates them, which works on every cluster. [`AuditRecord::user`](crate::AuditRecord) is `user`.
    ///
    /// # Errors
    /// If the kubeconfig cannot be read.
    pub async fn client_for(&self, user: &str, groups: &[&str]) -> Result<Client> {
        let mut config = config_from(&self.kubeconfig).await?;
        config.auth_info.impersonate = Some(user.to_owned());
        config.auth_info.impersonate_groups = Some(groups.iter().map(|group| (*group).to_owned()).collect());
        Ok(Client::try_from(config)?)
    }

    /// A kubeconfig file with a token of a ServiceAccount, valid for a day, for the operator.
    ///
    /// # Errors
    /// If the ServiceAccount is not there or the file cannot be written.
    pub async fn kubeconfig_for_service_account(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin().await?, namespace);
        let spec = TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await;
        let answer = answer.with_context(|| format!("cannot get a token of ServiceAccount {namespace}/{name}"))?;
        let token = answer.status.and_then(|status| status.token).context("the API server answered without a token")?;
        let path = self.dir.join(format!("{namespace}-{name}.kubeconfig"));
        kubeconfig::write_with_token(&path, &read(&self.kubeconfig)?, &token, namespace)?;
        Ok(path)
    }

    /// Runs kubectl as the administrator and returns its output.
    ///
    /// # Errors
    /// If it fails, with its error output.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let output = self.kubectl_output(args).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {}: {}\n{said}", args.join(" "), output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs kubectl as the administrator and returns exit status, output and error output: for warnings and refusals.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn kubectl_output(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.kubectl.command();
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(args);
        process::output(command).await
    }

    /// Runs helm as the administrator and returns its output. Installs helm first if it is missing.
    ///
    /// # Errors
    /// If it fails, with its error output.
    pub async fn helm(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(tokio::task::spawn_blocking(assets::helm).await??);
        command.args(args).arg("--kubeconfig").arg(&self.kubeconfig);
        let output = process::output(command).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "helm {}: {}\n{said}", args.join(" "), output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Applies manifests (server-side) and returns kubectl's output.
    ///
    /// # Errors
    /// If the API server refuses one, with the reason.
    pub async fn apply(&self, manifests: &str) -> Result<String> {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile_in(&self.dir)?;
        std::fs::write(file.path(), manifests)?;
        let path = file.path().to_str().context("the path is not UTF-8")?;
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", path]).await
    }

    /// Applies the CustomResourceDefinitions of a directory and waits until they are served.
    ///
    /// # Errors
    /// If the API server refuses one, or does not establish it within a minute.
    pub async fn install_crds(&self, dir: &Path) -> Result<()> {
        let dir = dir.to_str().context("the path is not UTF-8")?;
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", dir]).await?;
        self.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "-f", dir]).await?;
        Ok(())
    }

    /// A new namespace with a name of its own, for one test.
    ///
    /// # Errors
    /// If it cannot be created.
    pub async fn namespace(&self) -> Result<String> {
        let metadata = ObjectMeta { generate_name: Some("gaia-e2e-".to_owned()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        let namespaces: Api<Namespace> = Api::all(self.admin().await?);
        let created =
            namespaces.create(&PostParams::default(), &namespace).await.context("cannot create a namespace")?;
        created.metadata.name.context("the new namespace has no name")
    }

    /// Checks that the API server is ready.
    ///
    /// # Errors
    /// If it does not answer or is not ready, with the reason.
    pub async fn ready(&self) -> Result<()> {
        let client = self.admin().await?;
        client.request_text(http::Request::get("/readyz").body(Vec::new())?).await?;
        Ok(())
    }
}

/// A client with a kubeconfig file of any kind.
///
/// # Errors
/// If the file cannot be read.
pub async fn client_from(kubeconfig: &Path) -> Result<Client> {
    Ok(Client::try_from(config_from(kubeconfig).await?)?)
}

/// A client without retries, like the operator's: retries are decided elsewhere.
///
/// # Errors
/// If the file cannot be read.
pub async fn client_without_retries(kubeconfig: &Path) -> Result<Client> {
    let mut config = config_from(kubeconfig).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

async fn config_from(path: &Path) -> Result<Config> {
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(read(path)?, &options).await?;
    config.read_timeout = Some(READ_TIMEOUT);
    Ok(config)
}

fn read(path: &Path) -> Result<Kubeconfig> {
    Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))
}

const TOKEN_SECONDS: i64 = 24 * 60 * 60;

/// Longer than any answer takes, and longer than the interval of the API server's own bookmarks on a watch.
const READ_TIMEOUT: Duration = Duration::from_secs(120);
