//! The processes of a rehearsal: operator and services, all in this process and on one clock.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use gaia_api::{Clock, ManualClock};
use gaia_asset_service::AssetService;
use gaia_asset_service::config::StoreConfig;
use gaia_auth_service::AuthService;
use gaia_operator::{Operator, OperatorConfig};
use gaia_runtime::CredentialsSnapshot;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

use crate::load::{Caller, CallerOptions, LoadOptions, Traffic, runtime_config};
use crate::platform::{Declared, OPERATOR_NAMESPACE, WEB, new_api_key};
use crate::services::{self, ASSET_SERVICE, AUTH_SERVICE};
use crate::{ControlPlane, Projection, Source, chart, cluster, wait};

/// All participants.
pub(super) struct Fixture {
    pub(super) clock: Arc<ManualClock>,
    pub(super) operator: Operator,
    pub(super) services: Vec<Actor>,
    pub(super) caller: Arc<Caller>,
    /// The mounted files of the caller.
    web: Projection,
    declared: Declared,
    api_key: Arc<str>,
}

/// One instance of a service.
pub(super) struct Actor {
    pub(super) server_name: String,
    pub(super) address: SocketAddr,
    mount: Projection,
    generations: watch::Receiver<Option<Arc<CredentialsSnapshot>>>,
    /// Dropped to stop it.
    _stop: oneshot::Sender<()>,
}

impl Fixture {
    /// Installs the chart's rights, starts the operator with them, declares a platform and starts its services.
    pub(super) async fn assemble(
        plane: &ControlPlane,
        clock: Arc<ManualClock>,
        name: &str,
        domain: &Value,
    ) -> Result<Self> {
        let kubeconfig = chart::install_without_deployment(plane, OPERATOR_NAMESPACE, &[]).await?;
        let shared: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let operator = Operator::start(OperatorConfig {
            client: cluster::client_without_retries(&kubeconfig).await?,
            clock: Arc::clone(&shared),
            namespace: OPERATOR_NAMESPACE.to_owned(),
            watch_namespaces: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            identity: "rehearsal".to_owned(),
            reissue_per_second: 0,
            abilities: Default::default(),
        });
        let operator = operator.await;
        let api_key = new_api_key()?;
        let declared = Declared::new(plane, name, domain, &json!({}), &api_key).await?;
        let client = plane.admin().await?;
        let stage = Stage { client, name: name.to_owned(), dir: plane.dir().join("rehearsal"), clock: shared };
        let auth = stage.auth_service().await?;
        let assets = [stage.asset_service(0).await?, stage.asset_service(1).await?];
        let services: Vec<Actor> = [auth].into_iter().chain(assets).collect();
        let web = stage.mount(WEB, WEB, services::mount(WEB, name)).await?;
        let hosts = services.iter().map(|actor| (actor.server_name.clone(), actor.address)).collect();
        let (dir, clock_of_web) = (web.dir().to_owned(), Arc::clone(&stage.clock));
        let options =
            CallerOptions { service: WEB.to_owned(), dir, mesh_address: ANY_PORT.into(), hosts, clock: clock_of_web };
        let caller = Arc::new(Caller::start(options).await?);
        let fixture = Self { clock, operator, services, caller, web, declared, api_key };
        fixture.list_instances(name).await?;
        Ok(fixture)
    }

    async fn list_instances(&self, name: &str) -> Result<()> {
        for service in [AUTH_SERVICE, ASSET_SERVICE] {
            let own = format!("{service}.{name}.svc");
            let instances = self.services.iter().filter(|actor| actor.server_name == own);
            let addresses: Vec<SocketAddr> = instances.map(|actor| actor.address).collect();
            self.declared.list_instances(service, &addresses).await?;
        }
        self.declared.list_instances(WEB, &[self.caller.mesh_address()]).await?;
        self.declared.wait_until_ready().await
    }

    /// Updates the mounted files, as kubelets do, and waits until every service has loaded them. Returns true if anything
    /// changed.
    pub(super) async fn propagate(&mut self) -> Result<bool> {
        let mut changed = false;
        let mut generations = self.caller.generations();
        let web = (WEB.to_owned(), &self.web, &mut generations);
        let actors = self
            .services
            .iter_mut()
            .map(|actor| (actor.mount.dir().display().to_string(), &actor.mount, &mut actor.generations));
        for (name, mount, generations) in actors.chain([web]) {
            generations.mark_unchanged();
            if mount.sync_once().await? {
                changed = true;
                let taken = tokio::time::timeout(SOON, generations.changed()).await;
                taken.with_context(|| {
                    format!("{name} has not loaded its mounted files within {} s", SOON.as_secs())
                })??;
            }
        }
        Ok(changed)
    }

    /// Every instance that serves TLS: its name and address.
    pub(super) fn instances(&self) -> Vec<(String, SocketAddr)> {
        self.services.iter().map(|actor| (actor.server_name.clone(), actor.address)).collect()
    }

    pub(super) fn load(&self, rate: u32, name: &str) -> Result<LoadOptions> {
        let url = |service: &str| format!("https://{service}.{name}.svc").parse();
        Ok(LoadOptions {
            caller: Arc::clone(&self.caller),
            auth_url: url(AUTH_SERVICE)?,
            asset_url: url(ASSET_SERVICE)?,
            api_key: Some(Arc::clone(&self.api_key)),
            traffic: Traffic::Both,
            rate,
            workers: 4,
            duration: LONGEST,
        })
    }
}

/// The directories of services.
struct Stage {
    client: Client,
    name: String,
    dir: PathBuf,
    clock: Arc<dyn Clock>,
}

impl Stage {
    async fn mount(&self, service: &str, instance: &str, sources: Vec<Source>) -> Result<Projection> {
        let mount = Projection::new(self.client.clone(), &self.name, self.dir.join(instance), sources);
        wait::until(&format!("what {service} mounts is there"), SOON, || mount.sync_once()).await?;
        Ok(mount)
    }

    async fn auth_service(&self) -> Result<Actor> {
        let sources = services::issuer_mount(AUTH_SERVICE, &self.name);
        let mount = self.mount(AUTH_SERVICE, AUTH_SERVICE, sources).await?;
        let runtime = runtime_config(AUTH_SERVICE, mount.dir(), ANY_PORT.into());
        let service = AuthService::start(
            gaia_auth_service::Config { runtime, login_forwards_address: false },
            Arc::clone(&self.clock),
        )
        .await?;
        let (address, generations) = (service.runtime.mesh_address()?, service.runtime.generations());
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(service.serve(async { drop(stopped.await) }));
        Ok(self.actor(AUTH_SERVICE, address, mount, generations, stop))
    }

    async fn asset_service(&self, instance: usize) -> Result<Actor> {
        let sources = services::mount(ASSET_SERVICE, &self.name);
        let mount = self.mount(ASSET_SERVICE, &format!("{ASSET_SERVICE}-{instance}"), sources).await?;
        let config = gaia_asset_service::Config {
            runtime: runtime_config(ASSET_SERVICE, mount.dir(), ANY_PORT.into()),
            store: StoreConfig::folder(self.dir.join("objects")),
        };
        let service = AssetService::start(config, Arc::clone(&self.clock)).await?;
        let (address, generations) = (service.runtime.mesh_address()?, service.runtime.generations());
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(service.serve(async { drop(stopped.await) }));
        Ok(self.actor(ASSET_SERVICE, address, mount, generations, stop))
    }

    fn actor(
        &self,
        service: &str,
        address: SocketAddr,
        mount: Projection,
        generations: watch::Receiver<Option<Arc<CredentialsSnapshot>>>,
        stop: oneshot::Sender<()>,
    ) -> Actor {
        Actor { server_name: format!("{service}.{}.svc", self.name), address, mount, generations, _stop: stop }
    }
}

/// Loopback, any port.
const ANY_PORT: ([u8; 4], u16) = ([127, 0, 0, 1], 0);
const SOON: Duration = Duration::from_secs(15);
/// The load is stopped with the rehearsal.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
