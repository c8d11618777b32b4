//! Gaia's services as local processes, each on a mounted directory like that of its pod.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gaia_api::crd::GaiaService;
use gaia_api::mount::{self, Grants};
use gaia_api::names;
use gaia_pki::Certificate;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::control_plane::ports;
use crate::process::{Process, ProcessSpec};
use crate::{KeptProjection, Projection, Source, http, programs, wait};

/// The projected volume of a service's pod, as the README has it: leaf, trust, policy and, if there are any, API keys.
#[must_use]
pub fn mount(service: &str, trust_domain: &str) -> Vec<Source> {
    use names::key;
    vec![
        Source::secret(&names::leaf_secret(service)).items(&[key::TLS_CERT, key::TLS_KEY]),
        Source::config_map(&names::trust(trust_domain)).items(&[
            key::CA_CERT,
            key::JWKS,
            key::JWT_SIGNING_PUB,
            key::DENYLIST,
        ]),
        Source::config_map(&names::policy(service)).items(&[key::POLICY]),
        Source::secret(&format!("{service}-api-keys")).items(&[key::API_KEYS]).optional(),
    ]
}

/// The additional mounts of the token issuer: the active signing key and the grants.
#[must_use]
pub fn issuer_mount(service: &str, trust_domain: &str) -> Vec<Source> {
    use names::key;
    let mut sources = mount(service, trust_domain);
    sources.push(Source::secret(&names::token_signer(trust_domain)).items(&[key::JWT_SIGNING_KEY]));
    sources.push(Source::config_map(&names::grants(trust_domain)).items(&[key::GRANTS]));
    sources
}

/// The API key of an external issuer of user tokens, as mounted by every service that accepts its tokens: the Secret of
/// `spec.userTokenIssuers[].apiKeySecretRef`, in the service's own namespace.
#[must_use]
pub fn issuer_key_mount(issuer: &str, secret: &str) -> Source {
    Source::secret(secret).item(names::key::ISSUER_API_KEY, &names::issuer_key(issuer)).optional()
}

/// Lists the instances of a service in its GaiaService, where there are no pods.
///
/// # Errors
/// If there is no such GaiaService, or the API server does not answer.
pub async fn list_instances(client: &Client, namespace: &str, service: &str, addresses: &[SocketAddr]) -> Result<()> {
    let services: Api<GaiaService> = Api::namespaced(client.clone(), namespace);
    let patch = json!({ "spec": { "endpoints": addresses } });
    services.patch(service, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// `spec.allowedEndpoints` of a TrustDomain whose services run on the loopback address.
#[must_use]
pub fn loopback_endpoints(namespaces: &[&str]) -> Value {
    json!([{ "namespaces": namespaces, "cidrs": ["127.0.0.0/8", "::1/128"] }])
}

/// Waits until a caller is in the grants that the issuer of a TrustDomain mounts: a GaiaService may be Ready before.
///
/// # Errors
/// If it is not in there within `timeout`.
pub async fn wait_for_grant(
    client: &Client,
    namespace: &str,
    trust_domain: &str,
    caller: &str,
    timeout: Duration,
) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let granted = async || -> Result<()> {
        let map = maps.get(&names::grants(trust_domain)).await?;
        let text = map.data.as_ref().and_then(|data| data.get(names::key::GRANTS)).context("there are no grants")?;
        let grants: Grants = mount::read(names::key::GRANTS, text.as_bytes())?;
        let id = grants.services.iter().find(|service| service.name == caller).map(|service| &service.spiffe_id);
        let id = id.with_context(|| format!("{caller} is not among the services"))?;
        ensure!(grants.grants.iter().any(|grant| grant.caller == *id), "{id} may call no service");
        Ok(())
    };
    wait::until(&format!("{caller} may call"), timeout, granted).await
}

/// Options of a service.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// The name of its GaiaService.
    pub name: String,
    /// The program and its arguments; none: Gaia's own of that name.
    pub program: Option<(PathBuf, Vec<OsString>)>,
    /// The namespace of its GaiaService.
    pub namespace: String,
    /// The number of this instance, if there are several.
    pub instance: Option<usize>,
    /// The mounted objects.
    pub sources: Vec<Source>,
    /// The parent of the mounted directory, `<name>` or `<name>-<instance>`, and of the data of all instances, `<name>-data`.
    pub dir: PathBuf,
    /// The directory of its log.
    pub logs: PathBuf,
    /// Further environment variables. The mounted directory is polled every second unless they set another interval.
    pub env: BTreeMap<String, String>,
}

impl ServiceOptions {
    /// The token issuer of a TrustDomain.
    pub fn auth_service(cluster: &Cluster, namespace: &str, trust_domain: &str) -> Self {
        Self::of(cluster, namespace, AUTH_SERVICE, issuer_mount(AUTH_SERVICE, trust_domain))
    }

    /// asset-service. It accepts the API keys of the Secret `asset-service-api-keys`.
    pub fn asset_service(cluster: &Cluster, namespace: &str, trust_domain: &str) -> Self {
        Self::of(cluster, namespace, ASSET_SERVICE, mount(ASSET_SERVICE, trust_domain))
    }

    /// gateway, with these upstreams. It accepts the API keys of the Secret `gateway-api-keys`.
    pub fn gateway(cluster: &Cluster, namespace: &str, trust_domain: &str, behind: &[&ServiceProcess]) -> Self {
        let mut options = Self::of(cluster, namespace, GATEWAY, mount(GATEWAY, trust_domain));
        options.env.insert("GAIA_RESOLVE".to_owned(), resolve(behind));
        let url = |name: &str| format!("https://{name}.{namespace}.svc:8443");
        options.env.insert("GAIA_AUTH_URL".to_owned(), url(AUTH_SERVICE));
        options.env.insert("GAIA_UPSTREAM_ASSET_SERVICE".to_owned(), url(ASSET_SERVICE));
        options
    }

    /// A service other than Gaia's own, run as this program with these arguments. It accepts the API keys of the Secret
    /// `<name>-api-keys`.
    pub fn other(
        cluster: &Cluster,
        namespace: &str,
        trust_domain: &str,
        name: &str,
        program: (PathBuf, Vec<OsString>),
    ) -> Self {
        Self { program: Some(program), ..Self::of(cluster, namespace, name, mount(name, trust_domain)) }
    }

    /// Any service: the program `name` on the files of the GaiaService of that name.
    pub fn of(cluster: &Cluster, namespace: &str, name: &str, sources: Vec<Source>) -> Self {
        Self {
            name: name.to_owned(),
            program: None,
            namespace: namespace.to_owned(),
            instance: None,
            sources,
            dir: cluster.dir().join("services").join(namespace),
            logs: cluster.dir().join("logs"),
            env: BTreeMap::from([("GAIA_RELOAD_INTERVAL".to_owned(), "1s".to_owned())]),
        }
    }

    /// With its mounted directory and its data in `dir`.
    #[must_use]
    pub fn in_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = dir.into();
        self
    }

    /// As this one of several instances.
    #[must_use]
    pub fn instance(mut self, instance: usize) -> Self {
        self.instance = Some(instance);
        self
    }

    /// With another environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// A running service, with an up-to-date mounted directory. It is a [`Process`]: it can be killed, paused and
/// restarted, and keeps its addresses and its directory.
#[derive(Debug)]
pub struct ServiceProcess {
    process: Process,
    mount: KeptProjection,
    server_name: String,
    mesh: SocketAddr,
    admin: SocketAddr,
    edge: SocketAddr,
}

impl ServiceProcess {
    /// Waits until all mounted objects exist, as kubelet does, and starts the service without waiting for it: see
    /// [`Self::wait_ready`].
    ///
    /// # Errors
    /// If a mounted object does not appear, or the binary is not built.
    pub async fn start(cluster: &Cluster, options: ServiceOptions) -> Result<Self> {
        let ServiceOptions { name, program, namespace, instance, sources, dir, logs, env } = options;
        let own_name = instance.map_or_else(|| name.clone(), |instance| format!("{name}-{instance}"));
        let mount = Projection::new(cluster.admin().await?, &namespace, dir.join(&own_name), sources);
        wait::until(&format!("what {namespace}/{own_name} mounts is there"), MOUNT_TIMEOUT, || mount.sync_once())
            .await?;
        let [mesh, admin, edge] = ports::free()?.map(|port: u16| SocketAddr::from(([127, 0, 0, 1], port)));
        let (program, args) = match program {
            Some(program) => program,
            None => (programs::locate(&name)?, Vec::new()),
        };
        let mut spec = ProcessSpec::new(&format!("{namespace}-{own_name}"), program, &logs)
            .args(args)
            .env("GAIA_SERVICE_NAME", &name)
            .env("GAIA_DIR", mount.dir())
            .env("GAIA_MESH_ADDRESS", mesh.to_string())
            .env("GAIA_ADMIN_ADDRESS", admin.to_string());
        if WITH_EDGE.contains(&name.as_str()) {
            spec = spec.env("GAIA_EDGE_ADDRESS", edge.to_string());
        }
        if name == ASSET_SERVICE {
            let store = dir.join(format!("{name}-data"));
            spec = spec.env("GAIA_OBJECT_STORE_URL", format!("file://{}", store.display()));
        }
        for (name, value) in env {
            spec = spec.env(&name, value);
        }
        let process = Process::start(spec)?;
        Ok(Self { process, mount: mount.keep(), server_name: format!("{name}.{namespace}.svc"), mesh, admin, edge })
    }

    /// The `/etc/gaia` of its pod.
    pub fn dir(&self) -> &Path {
        self.mount.dir()
    }

    /// The name that its leaf is issued for and its callers use: `<name>.<namespace>.svc`.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// Its TLS address for other services.
    pub fn mesh_address(&self) -> SocketAddr {
        self.mesh
    }

    /// Its address for users, of gateway or web-service: plain HTTP, as behind an ingress.
    pub fn edge_address(&self) -> SocketAddr {
        self.edge
    }

    /// The address of `/livez`, `/readyz` and `/metrics`.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Waits until `/readyz` is successful.
    ///
    /// # Errors
    /// If the service ends, or does not become ready within `timeout`: with the end of its log.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let ready = async || match self.process.check_running() {
            Ok(()) => self.get("/readyz").await.map(Ok),
            Err(ended) => Ok(Err(ended)),
        };
        let what = format!("{} is ready", self.process.name());
        let result = wait::until(&what, timeout, ready).await;
        let result =
            result.map_err(|error| error.context(format!("the end of its log:\n{}", self.process.log_tail())))?;
        result.map(drop)
    }

    /// The content of `/metrics`.
    ///
    /// # Errors
    /// If it does not answer with 200.
    pub async fn metrics(&self) -> Result<String> {
        self.get("/metrics").await
    }

    /// The leaf that it presents to clients now, verified against its own mounted roots.
    ///
    /// # Errors
    /// If there is no answer, or the leaf is not valid for the service's name.
    pub async fn served_leaf(&self) -> Result<Certificate> {
        let roots = std::fs::read(self.dir().join(names::key::CA_CERT)).context("cannot read the mounted roots")?;
        served_leaf(self.mesh, &self.server_name, roots).await
    }

    /// Waits until it serves the leaf with this serial number.
    ///
    /// # Errors
    /// If it does not within `timeout`, with the leaf it serves.
    pub async fn wait_serving(&self, serial: &str, timeout: Duration) -> Result<Certificate> {
        let look = async || -> Result<Certificate> {
            let leaf = self.served_leaf().await?;
            ensure!(leaf.serial() == serial, "it serves {}", leaf.serial());
            Ok(leaf)
        };
        wait::until(&format!("{} serves the leaf {serial}", self.process.name()), timeout, look).await
    }

    async fn get(&self, path: &str) -> Result<String> {
        let (status, body) = http::get(&format!("http://{}{path}", self.admin)).await?;
        ensure!(status == 200, "{path} says {status}: {body}");
        Ok(body)
    }
}

/// All operations on a process are available on a service.
impl Deref for ServiceProcess {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// The addresses of services in the form of `GAIA_RESOLVE`, by both names that callers use: `name.namespace.svc` and `name`.
#[must_use]
pub fn resolve(services: &[&ServiceProcess]) -> String {
    let entries = services.iter().flat_map(|service| {
        let full = service.server_name();
        let short = full.split('.').next().unwrap_or(full);
        [full, short].map(|name| format!("{name}={}", service.mesh_address()))
    });
    entries.collect::<Vec<_>>().join(",")
}

/// The leaf that a TLS server presents, verified for `server_name` against `roots` (PEM).
///
/// # Errors
/// If there is no answer within five seconds, or the leaf does not verify.
pub async fn served_leaf(address: SocketAddr, server_name: &str, roots: Vec<u8>) -> Result<Certificate> {
    let name = ServerName::try_from(server_name.to_owned())?;
    tokio::task::spawn_blocking(move || handshake(address, name, &roots)).await?
}

fn handshake(address: SocketAddr, name: ServerName<'static>, roots: &[u8]) -> Result<Certificate> {
    let mut store = RootCertStore::empty();
    for root in Certificate::chain_from_pem(roots)? {
        store.add(CertificateDer::from(root.der().to_vec()))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(store)
        .with_no_client_auth();
    let mut connection = ClientConnection::new(Arc::new(config), name)?;
    let mut stream = TcpStream::connect_timeout(&address, HANDSHAKE_TIMEOUT)?;
    stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    stream.set_write_timeout(Some(HANDSHAKE_TIMEOUT))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    let shown = connection.peer_certificates().and_then(<[_]>::first).context("the server showed no certificate")?;
    Ok(Certificate::from_der(shown)?)
}

/// The token issuer.
pub const AUTH_SERVICE: &str = "auth-service";
/// gateway.
pub const GATEWAY: &str = "gateway";
/// asset-service.
pub const ASSET_SERVICE: &str = "asset-service";
/// web-service.
pub const WEB_SERVICE: &str = "web-service";
/// Services that users and external programs reach.
pub(crate) const WITH_EDGE: [&str; 2] = [GATEWAY, WEB_SERVICE];
const MOUNT_TIMEOUT: Duration = Duration::from_secs(30);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
