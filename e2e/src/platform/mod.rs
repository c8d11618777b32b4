//! A small platform on a loopback cluster: the operator, auth-service, asset-service, and a service `web` in this process
//! that calls the latter. The operator finds their instances by the `spec.endpoints` of their GaiaServices.

pub mod chart;
pub mod five;
pub mod migration;
pub mod operator;
pub mod services;
pub mod standalone;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use gaia_api::crd::condition::READY;
use gaia_api::crd::{Condition, GaiaService, TrustDomain, find_condition};
use gaia_api::mount::{ApiKeyRecord, ApiKeyState, ApiKeys, SCHEMA_VERSION};
use gaia_api::names::key;
use gaia_api::{Clock, SystemClock};
use gaia_pki::sha256_hex;
use gaia_runtime::Hosts;
use http::Uri;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::control_plane::ports;
use crate::load::{Caller, CallerOptions, LoadOptions, Traffic};
use crate::services::{ASSET_SERVICE, AUTH_SERVICE, GATEWAY};
use crate::{
    Cluster, ControlPlane, KeptProjection, OperatorOptions, OperatorProcess, Projection, ServiceOptions,
    ServiceProcess, wait,
};
use gaia_stand_ins::random::random;

/// Options of a platform.
#[derive(Clone, Debug)]
pub struct PlatformOptions {
    /// The namespace of its services, and the name of its TrustDomain.
    pub name: String,
    /// Merged into the TrustDomain's spec.
    pub domain: Value,
    /// Merged into the spec of every GaiaService.
    pub services: Value,
    /// The number of asset-service instances.
    pub asset_instances: usize,
    /// The number of gateway instances; 0: none.
    pub gateway_instances: usize,
    /// Flags of the operator.
    pub operator_flags: Vec<String>,
    /// Further environment variables of the services.
    pub env: BTreeMap<String, String>,
}

impl Default for PlatformOptions {
    /// Propagation times for mounted directories that follow within two seconds, and one instance of each.
    fn default() -> Self {
        Self {
            name: "shop".to_owned(),
            domain: json!({ "propagation": { "minDelay": "3s", "deadline": "1m", "clockSkew": "1s" } }),
            services: json!({}),
            asset_instances: 1,
            gateway_instances: 0,
            operator_flags: Vec::new(),
            env: BTreeMap::from([("GAIA_SHUTDOWN_DELAY".to_owned(), "1s".to_owned())]),
        }
    }
}

/// A platform. Dropping it stops its processes; its objects in the cluster stay.
pub struct Platform {
    /// The administrator.
    pub client: Client,
    /// The namespace of its services, and the name of its TrustDomain.
    pub name: String,
    /// The operator, under the chart's rights.
    pub operator: OperatorProcess,
    /// The token issuer.
    pub auth: ServiceProcess,
    /// The instances of asset-service.
    pub assets: Vec<ServiceProcess>,
    /// The instances of gateway.
    pub gateways: Vec<ServiceProcess>,
    /// The calling service, while it runs.
    pub caller: Arc<Caller>,
    /// The API key that asset-service accepts.
    pub api_key: Arc<str>,
    _web: KeptProjection,
}

impl Platform {
    /// Installs the chart without its Deployment, starts the operator under the chart's rights, and then the rest.
    /// Returns once everything is Ready.
    ///
    /// # Errors
    /// If something does not come up.
    pub async fn start(plane: &ControlPlane, options: PlatformOptions) -> Result<Self> {
        let kubeconfig = chart::install_without_deployment(plane, OPERATOR_NAMESPACE, &[]).await?;
        let mut operator = OperatorOptions::new(plane, &kubeconfig, OPERATOR_NAMESPACE);
        operator.flags.clone_from(&options.operator_flags);
        let operator = OperatorProcess::start(operator)?;
        operator.wait_ready(SOON).await?;
        Self::start_beside(plane, operator, options, Arc::new(SystemClock)).await
    }

    /// As [`Self::start`], with an operator that runs already; `clock` is that of the service in this process.
    ///
    /// # Errors
    /// If something does not come up.
    pub async fn start_beside(
        plane: &ControlPlane,
        operator: OperatorProcess,
        options: PlatformOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let PlatformOptions { name, domain, services, asset_instances, gateway_instances, env, .. } = options;
        ensure!(asset_instances > 0, "a platform has at least one instance of asset-service");
        let client = plane.admin().await?;
        let api_key = new_api_key()?;
        let declared = Declared::new(plane, &name, &domain, &services, &api_key).await?;
        if gateway_instances > 0 {
            declared.add_gateway(plane, &services, &api_key).await?;
        }

        let dir = plane.dir().join("platform").join(&name);
        let start = async |mut options: ServiceOptions| {
            options.dir.clone_from(&dir);
            options.env.extend(env.clone());
            ServiceProcess::start(plane, options).await
        };
        let auth = start(ServiceOptions::auth_service(plane, &name, &name)).await?;
        let mut assets = Vec::new();
        for instance in 0..asset_instances {
            assets.push(start(ServiceOptions::asset_service(plane, &name, &name).instance(instance)).await?);
        }
        let behind: Vec<&ServiceProcess> = assets.iter().chain([&auth]).collect();
        let mut gateways = Vec::new();
        for instance in 0..gateway_instances {
            let options = ServiceOptions::gateway(plane, &name, &name, &behind).instance(instance);
            // All the load comes from one address and with one key.
            gateways.push(start(options.env("GAIA_IP_RATE", "0").env("GAIA_ACCOUNT_RATE", "0")).await?);
        }
        for service in assets.iter().chain([&auth]).chain(&gateways) {
            service.wait_ready(SOON).await?;
        }
        let web = mount_web(&client, &name, dir.join(WEB)).await?;
        let hosts = assets.iter().chain([&auth]);
        let hosts = hosts.map(|service| (service.server_name().to_owned(), service.mesh_address()));
        let edges = gateways.iter().map(|service| (EDGE.to_owned(), service.edge_address()));
        let hosts: Hosts = hosts.chain(edges).collect();
        let [port]: [u16; 1] = ports::free()?;
        let mesh_address = ([127, 0, 0, 1], port).into();
        let (service, dir) = (WEB.to_owned(), web.dir().to_owned());
        let caller = Caller::start(CallerOptions { service, dir, mesh_address, hosts, clock }).await?;

        let addresses = |of: &[ServiceProcess]| of.iter().map(ServiceProcess::mesh_address).collect::<Vec<_>>();
        declared.list_instances(ASSET_SERVICE, &addresses(&assets)).await?;
        if !gateways.is_empty() {
            declared.list_instances(GATEWAY, &addresses(&gateways)).await?;
        }
        declared.list_instances(AUTH_SERVICE, &[auth.mesh_address()]).await?;
        declared.list_instances(WEB, &[mesh_address]).await?;
        declared.wait_until_ready().await?;
        Ok(Self { client, name, operator, auth, assets, gateways, caller: Arc::new(caller), api_key, _web: web })
    }

    /// A load on this platform, of a hundred requests a second until it is stopped, or for ten minutes.
    #[must_use]
    pub fn load(&self, traffic: Traffic) -> LoadOptions {
        let url = |service: &ServiceProcess| format!("https://{}", service.server_name()).parse().unwrap_or_default();
        LoadOptions {
            caller: Arc::clone(&self.caller),
            auth_url: url(&self.auth),
            asset_url: self.assets.first().map(url).unwrap_or_default(),
            api_key: Some(Arc::clone(&self.api_key)),
            traffic,
            rate: 100,
            workers: 8,
            duration: Duration::from_secs(600),
        }
    }

    /// The same for external programs that call through gateway.
    #[must_use]
    pub fn load_through_gateway(&self) -> LoadOptions {
        LoadOptions { asset_url: Uri::from_static(EDGE_URL), ..self.load(Traffic::ApiKey) }
    }

    /// Waits until TrustDomain and services are Ready for their present specs.
    ///
    /// # Errors
    /// If they do not become Ready, with their conditions.
    pub async fn wait_until_ready(&self) -> Result<()> {
        Declared { client: self.client.clone(), name: self.name.clone() }.wait_until_ready().await
    }
}

/// The objects of a platform.
pub(crate) struct Declared {
    client: Client,
    name: String,
}

impl Declared {
    /// Applies all of them, and waits until they are Ready and `web` may call.
    pub(crate) async fn new(
        cluster: &Cluster,
        name: &str,
        domain: &Value,
        services: &Value,
        api_key: &str,
    ) -> Result<Self> {
        cluster.apply(&manifests(name, domain, services, api_key)?).await?;
        let declared = Self { client: cluster.admin().await?, name: name.to_owned() };
        declared.wait_until_ready().await?;
        services::wait_for_grant(&declared.client, name, name, WEB, SOON).await?;
        Ok(declared)
    }

    /// Applies gateway, which calls on behalf of others at asset-service, and accepts the key that auth-service exchanges.
    async fn add_gateway(&self, cluster: &Cluster, services: &Value, api_key: &str) -> Result<()> {
        let Self { name, .. } = self;
        let keys = |service: &str| {
            Ok::<_, serde_json::Error>(json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": { "name": format!("{service}-api-keys"), "namespace": name },
                "stringData": { key::API_KEYS: serde_json::to_string(&api_keys(api_key))? },
            }))
        };
        let spec = json!({ "spec": merged(json!({ "trustDomainRef": { "name": name } }), services) });
        let items = [keys(GATEWAY)?, keys(AUTH_SERVICE)?, object("GaiaService", Some(name), GATEWAY, &spec)];
        cluster.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()).await?;
        let services: Api<GaiaService> = Api::namespaced(self.client.clone(), name);
        let callers = json!([
            { "service": WEB, "scopes": ["assets:read", "assets:write"] },
            { "service": GATEWAY, "scopes": ["assets:read", "assets:write"], "onBehalfOf": true },
        ]);
        let patch = json!({ "spec": { "callers": callers } });
        services.patch(ASSET_SERVICE, &PatchParams::default(), &Patch::Merge(patch)).await?;
        services::wait_for_grant(&self.client, name, name, GATEWAY, SOON).await
    }

    pub(crate) async fn list_instances(&self, service: &str, addresses: &[SocketAddr]) -> Result<()> {
        services::list_instances(&self.client, &self.name, service, addresses).await
    }

    pub(crate) async fn wait_until_ready(&self) -> Result<()> {
        let domains: Api<TrustDomain> = Api::all(self.client.clone());
        let services: Api<GaiaService> = Api::namespaced(self.client.clone(), &self.name);
        let ready = async || -> Result<()> {
            let domain = domains.get(&self.name).await?;
            let status = domain.status.unwrap_or_default();
            is_ready("TrustDomain", &domain.metadata, status.observed_generation, &status.conditions)?;
            for name in SERVICES {
                let service = services.get(name).await?;
                let status = service.status.unwrap_or_default();
                is_ready("GaiaService", &service.metadata, status.observed_generation, &status.conditions)?;
            }
            Ok(())
        };
        wait::until(&format!("the platform {} is Ready", self.name), SOON, ready).await
    }
}

fn is_ready(kind: &str, meta: &ObjectMeta, observed: Option<i64>, conditions: &[Condition]) -> Result<()> {
    let name = meta.name.as_deref().unwrap_or_default();
    ensure!(observed == meta.generation, "{kind} {name} was changed, and the operator has not reconciled it yet");
    let ready = find_condition(conditions, READY).with_context(|| format!("{kind} {name} has no condition Ready"))?;
    ensure!(ready.status == "True", "{kind} {name} is not Ready: {}, {}", ready.reason, ready.message);
    Ok(())
}

async fn mount_web(client: &Client, name: &str, dir: PathBuf) -> Result<KeptProjection> {
    let mount = Projection::new(client.clone(), name, dir, services::mount(WEB, name));
    wait::until("the files of web are there", SOON, || mount.sync_once()).await?;
    Ok(mount.keep())
}

fn manifests(name: &str, domain: &Value, of_services: &Value, api_key: &str) -> Result<String> {
    let trust_domain = json!({
        "trustDomain": format!("{name}.example"),
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": name } },
        "allowedEndpoints": services::loopback_endpoints(&[name]),
        "tokens": { "issuedBy": { "namespace": name, "name": AUTH_SERVICE } },
    });
    let service = |service: &str, spec: Value| {
        let base = merged(json!({ "trustDomainRef": { "name": name } }), of_services);
        object("GaiaService", Some(name), service, &json!({ "spec": merged(base, &spec) }))
    };
    let callers = json!([{ "service": WEB, "scopes": ["assets:read", "assets:write"] }]);
    let keys = json!({ "apiKeysSecretRef": { "name": API_KEYS } });
    let items = [
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }),
        object("TrustDomain", None, name, &json!({ "spec": merged(trust_domain, domain) })),
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": API_KEYS, "namespace": name },
            "stringData": { key::API_KEYS: serde_json::to_string(&api_keys(api_key))? },
        }),
        service(AUTH_SERVICE, json!({})),
        service(ASSET_SERVICE, json!({ "callers": callers, "auth": keys })),
        service(WEB, json!({})),
    ];
    Ok(json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string())
}

fn object(kind: &str, namespace: Option<&str>, name: &str, rest: &Value) -> Value {
    let base = json!({
        "apiVersion": "gaia.dev/v1alpha1",
        "kind": kind,
        "metadata": { "name": name },
    });
    let place = namespace.map_or(json!({}), |namespace| json!({ "metadata": { "namespace": namespace } }));
    merged(merged(base, &place), rest)
}

/// Objects are merged, everything else is replaced.
pub(crate) fn merged(mut base: Value, over: &Value) -> Value {
    match (base.as_object_mut(), over) {
        (Some(map), Value::Object(over)) => {
            for (key, value) in over {
                let before = map.remove(key).unwrap_or(Value::Null);
                map.insert(key.clone(), merged(before, value));
            }
            base
        }
        (_, over) => over.clone(),
    }
}

pub(crate) fn new_api_key() -> Result<Arc<str>> {
    Ok(format!("gk_test_{:032x}", u128::from_be_bytes(random()?)).into())
}

fn api_keys(api_key: &str) -> ApiKeys {
    let record = ApiKeyRecord {
        id: "app".to_owned(),
        sha256: sha256_hex(api_key.as_bytes()),
        principal: "a mobile app".to_owned(),
        scopes: Vec::new(),
        expires: None,
        state: ApiKeyState::Active,
        mode: None,
        shared: false,
    };
    ApiKeys { schema_version: SCHEMA_VERSION, keys: vec![record] }
}

/// The namespace of the operator and its rings.
pub const OPERATOR_NAMESPACE: &str = "gaia-system";
pub(crate) const WEB: &str = "web";
const SERVICES: [&str; 3] = [AUTH_SERVICE, ASSET_SERVICE, WEB];
/// The name by which external programs call gateway.
const EDGE: &str = "gateway.example";
const EDGE_URL: &str = "http://gateway.example";
const API_KEYS: &str = "asset-service-api-keys";
const SOON: Duration = Duration::from_secs(60);
