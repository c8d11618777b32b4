//! The whole platform on a loopback cluster: the operator, the objects of `charts/gaia-platform`, and its five services as local
//! processes in place of the pods, two of gateway; with an external login server and provider of chat completions.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use gaia_api::names::key;
use serde_json::{Value, json};

use crate::platform::{OPERATOR_NAMESPACE, merged};
use crate::services::{issuer_key_mount, issuer_mount, list_instances, loopback_endpoints, mount, resolve};
use crate::{Cluster, ControlPlane, OperatorOptions, OperatorProcess, ServiceOptions, ServiceProcess, Source, chart};
use gaia_stand_ins::gotrue::{GoTrue, GoTrueOptions};
use gaia_stand_ins::provider::{Provider, ProviderOptions};

/// The platform. Dropping it stops its processes.
#[derive(Debug)]
pub struct Five {
    /// The operator, under the chart's rights.
    pub operator: OperatorProcess,
    /// The token issuer, at which users sign in too.
    pub auth: ServiceProcess,
    /// asset-service.
    pub assets: ServiceProcess,
    /// chat-service.
    pub chat: ServiceProcess,
    /// Two instances of gateway.
    pub gateways: Vec<ServiceProcess>,
    /// web-service.
    pub web: ServiceProcess,
    /// The login server of the users.
    pub gotrue: GoTrue,
    /// The provider of chat-service.
    pub provider: Provider,
    /// The shared API key that the platform began with.
    pub api_key: String,
    dir: PathBuf,
    values: Value,
}

impl Five {
    /// Installs both charts, without the parts that need a node, and starts everything, the services with the calls `how`. `values` are merged into
    /// those of the platform's chart.
    ///
    /// # Errors
    /// If something does not come up.
    pub async fn start(plane: &ControlPlane, values: &Value, how: How) -> Result<Self> {
        let kubeconfig = chart::install_without_deployment(plane, OPERATOR_NAMESPACE, &[]).await?;
        let operator = OperatorProcess::start(OperatorOptions::new(plane, &kubeconfig, OPERATOR_NAMESPACE))?;
        operator.wait_ready(SOON).await?;
        let gotrue = GoTrue::start(GoTrueOptions::default()).await?;
        let provider = Provider::start(ProviderOptions::default()).await?;
        let dir = plane.dir().join("platform");
        std::fs::create_dir_all(&dir)?;
        let values = merged(base_values(&gotrue, &provider), values);
        plane.kubectl(&["create", "namespace", NAMESPACE]).await?;
        let anon = format!("--from-literal=api-key={}", gotrue.anon_key());
        plane.kubectl(&["create", "secret", "generic", ANON_KEY, "--namespace", NAMESPACE, &anon]).await?;
        install(plane, &dir, &values).await?;
        plane
            .kubectl(&["wait", "--for=condition=Ready", "-n", NAMESPACE, "gaiaservice", "--all", "--timeout=60s"])
            .await?;
        let api_key = secret(plane, API_KEY_SECRET, "api-key").await?;
        std::fs::write(dir.join(KEY_FILE), &api_key)?;
        std::fs::write(dir.join("provider-key"), "provider-key-of-the-platform")?;
        provider.set_key("provider-key-of-the-platform");
        std::fs::write(dir.join("session-keys"), secret(plane, "web-service-session-keys", "session-keys").await?)?;

        let start = async |name: &str, instance: Option<usize>, env: &[(&str, String)]| {
            let mut options = options(plane, name).in_dir(dir.join("mounts"));
            options.instance = instance;
            for (name, value) in env {
                options = options.env(name, value);
            }
            ServiceProcess::start(plane, options).await
        };
        let auth = start("auth-service", None, &[]).await?;
        let assets = start("asset-service", None, &[]).await?;
        let provider_key = dir.join("provider-key").display().to_string();
        let env = [
            ("GAIA_PROVIDER_URL", provider.url()),
            ("GAIA_PROVIDER_KEY_FILE", provider_key),
            ("GAIA_PROVIDER_MODEL", "echo".to_owned()),
        ];
        let chat = start("chat-service", None, &env).await?;
        let mut env = how.env(&dir, &assets, &chat);
        env.push(("GAIA_RESOLVE", resolve(&[&auth, &assets, &chat])));
        let gateways = vec![start("gateway", Some(0), &env).await?, start("gateway", Some(1), &env).await?];
        env.push(("GAIA_SESSION_KEYS_FILE", dir.join("session-keys").display().to_string()));
        let web = start("web-service", None, &env).await?;
        let five = Self { operator, auth, assets, chat, gateways, web, gotrue, provider, api_key, dir, values };
        for (_, service) in five.services() {
            service.wait_ready(SOON).await?;
        }
        five.list_instances(plane).await?;
        Ok(five)
    }

    /// Every process with the name of its GaiaService.
    #[must_use]
    pub fn services(&self) -> Vec<(&'static str, &ServiceProcess)> {
        let mut all = vec![
            ("auth-service", &self.auth),
            ("asset-service", &self.assets),
            ("chat-service", &self.chat),
            ("web-service", &self.web),
        ];
        all.extend(self.gateways.iter().map(|gateway| ("gateway", gateway)));
        all
    }

    /// Upgrades the release with more values, without waiting.
    ///
    /// # Errors
    /// If helm or the API server refuses them.
    pub async fn upgrade(&mut self, plane: &ControlPlane, values: &Value) -> Result<()> {
        self.values = merged(self.values.take(), values);
        install(plane, &self.dir, &self.values).await
    }

    /// Restarts a service in order, with another way of calling others.
    ///
    /// # Errors
    /// If it does not stop, or does not become ready again.
    pub async fn restart(&self, service: &ServiceProcess, how: How) -> Result<()> {
        service.sigterm(SOON).await?;
        service.restart_with(|spec| {
            spec.env.remove("GAIA_API_KEY_FILE");
            for (name, value) in how.env(&self.dir, &self.assets, &self.chat) {
                spec.env.insert(name.to_owned(), value.into());
            }
        })?;
        service.wait_ready(SOON).await
    }

    async fn list_instances(&self, plane: &ControlPlane) -> Result<()> {
        let client = plane.admin().await?;
        let mut instances: BTreeMap<&str, Vec<SocketAddr>> = BTreeMap::new();
        for (name, service) in self.services() {
            instances.entry(name).or_default().push(service.mesh_address());
        }
        for (name, addresses) in instances {
            list_instances(&client, NAMESPACE, name, &addresses).await?;
        }
        Ok(())
    }
}

/// The calls of gateway and web-service to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Over plain HTTP with the shared key.
    PlainWithKey,
    /// Over mutual TLS with the shared key.
    TlsWithKey,
    /// Over mutual TLS with tokens.
    Tokens,
}

impl How {
    fn env(self, dir: &Path, assets: &ServiceProcess, chat: &ServiceProcess) -> Vec<(&'static str, String)> {
        let upstream = |service: &ServiceProcess| match self {
            Self::PlainWithKey => format!("http://{}", service.mesh_address()),
            Self::TlsWithKey | Self::Tokens => format!("https://{}", service.server_name()),
        };
        let mut env =
            vec![("GAIA_UPSTREAM_ASSET_SERVICE", upstream(assets)), ("GAIA_UPSTREAM_CHAT_SERVICE", upstream(chat))];
        if self != Self::Tokens {
            env.push(("GAIA_API_KEY_FILE", dir.join(KEY_FILE).display().to_string()));
        }
        env
    }
}

fn options(cluster: &Cluster, name: &str) -> ServiceOptions {
    let mut sources = if name == "auth-service" { issuer_mount(name, TRUST_DOMAIN) } else { mount(name, TRUST_DOMAIN) };
    sources.push(Source::secret(API_KEY_SECRET).items(&[key::API_KEYS]));
    sources.push(issuer_key_mount("supabase", ANON_KEY));
    ServiceOptions::of(cluster, NAMESPACE, name, sources).env("GAIA_SHUTDOWN_DELAY", "1s")
}

fn base_values(gotrue: &GoTrue, provider: &Provider) -> Value {
    let none = json!({ "replicas": 0 });
    json!({
        "trustDomain": { "name": TRUST_DOMAIN, "spec": {
            "trustDomain": "shop.example",
            "propagation": { "minDelay": "3s", "deadline": "1m", "clockSkew": "1s" },
            "tokens": { "maxTTL": "60s" },
            "allowedEndpoints": loopback_endpoints(&[NAMESPACE]),
            "userTokenIssuers": [merged(gotrue.issuer_entry("supabase"), &json!({ "apiKeySecretRef": { "name": ANON_KEY } }))],
        } },
        "apiKey": { "create": true, "name": API_KEY_SECRET },
        "userTokenIssuerKeys": [{ "name": "supabase", "secretName": ANON_KEY }],
        "gateway": none, "authService": none, "assetService": none, "webService": none,
        "chatService": { "replicas": 0, "providerUrl": provider.url() },
    })
}

async fn install(plane: &ControlPlane, dir: &Path, values: &Value) -> Result<()> {
    let file = dir.join("values.json");
    std::fs::write(&file, serde_json::to_string_pretty(values)?)?;
    let chart = chart::directory().with_file_name("gaia-platform");
    let (chart, file) = (chart.to_str().context("not UTF-8")?, file.to_str().context("not UTF-8")?);
    plane.helm(&["upgrade", "--install", "platform", chart, "--namespace", NAMESPACE, "--values", file]).await.map(drop)
}

async fn secret(plane: &ControlPlane, name: &str, key: &str) -> Result<String> {
    let template = format!("go-template={{{{index .data {key:?} | base64decode}}}}");
    plane.kubectl(&["get", "secret", name, "--namespace", NAMESPACE, "-o", &template]).await
}

/// The namespace of the services.
pub const NAMESPACE: &str = "shop";
/// The name of the TrustDomain.
pub const TRUST_DOMAIN: &str = "gaia";
/// The Secret of the shared API key.
pub const API_KEY_SECRET: &str = "platform-api-key";
const ANON_KEY: &str = "supabase-anon-key";
const KEY_FILE: &str = "api-key";
const SOON: Duration = Duration::from_secs(60);
