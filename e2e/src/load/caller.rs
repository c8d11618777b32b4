//! The service that the load calls as.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use gaia_api::{Clock, Span};
use gaia_runtime::config::LogFormat;
use gaia_runtime::{CredentialsSnapshot, Hosts, Runtime, RuntimeConfig};
use tokio::sync::{oneshot, watch};

use crate::wait;

/// Options of the service.
pub struct CallerOptions {
    /// The name of its GaiaService.
    pub service: String,
    /// Its mounted directory.
    pub dir: PathBuf,
    /// Its TLS address for the operator: it reports its state as any other instance does.
    pub mesh_address: SocketAddr,
    /// The addresses of the services that it calls.
    pub hosts: Hosts,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
}

/// A service on gaia-runtime in this process, which calls others: with its own leaf, the mounted trust bundle, and a new
/// generation of both whenever its directory changes.
pub struct Caller {
    service: String,
    dir: PathBuf,
    mesh_address: SocketAddr,
    hosts: Hosts,
    clock: Arc<dyn Clock>,
    generations: watch::Receiver<Option<Arc<CredentialsSnapshot>>>,
    /// Dropped to stop it.
    _stop: oneshot::Sender<()>,
}

impl Caller {
    /// Starts it and waits until it has a leaf.
    ///
    /// # Errors
    /// If its address is in use, or its files are invalid.
    pub async fn start(options: CallerOptions) -> Result<Self> {
        let CallerOptions { service, dir, mesh_address, hosts, clock } = options;
        let mut config = runtime_config(&service, &dir, mesh_address);
        config.hosts = hosts.clone();
        let runtime = Runtime::start(config, Arc::clone(&clock), Arc::new(()), |_| ()).await?;
        let (generations, mesh_address) = (runtime.generations(), runtime.mesh_address()?);
        let routes = runtime.routes();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(runtime.serve(routes, async { drop(stopped.await) }));
        let caller = Self { service, dir, mesh_address, hosts, clock, generations, _stop: stop };
        let taken = async || caller.generation().map(drop);
        let what = format!("{} has loaded the files in {}", caller.service, caller.dir.display());
        wait::until(&what, SOON, taken).await.context("its leaf, trust and policy must be there and fit together")?;
        Ok(caller)
    }

    /// The generation in force; none before the first valid files.
    #[must_use]
    pub fn generation(&self) -> Option<Arc<CredentialsSnapshot>> {
        self.generations.borrow().clone()
    }

    /// The generation in force, and each change of it.
    #[must_use]
    pub fn generations(&self) -> watch::Receiver<Option<Arc<CredentialsSnapshot>>> {
        self.generations.clone()
    }

    /// The name of its GaiaService.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Its mounted directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its TLS address for the operator.
    #[must_use]
    pub fn mesh_address(&self) -> SocketAddr {
        self.mesh_address
    }

    /// The addresses of the services that it calls.
    #[must_use]
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Its clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

/// The configuration of a service in this process, which polls its directory every second and stops at once.
#[must_use]
pub fn runtime_config(service: &str, dir: &Path, mesh_address: SocketAddr) -> RuntimeConfig {
    RuntimeConfig {
        service_name: service.to_owned(),
        dir: dir.to_owned(),
        mesh_address,
        admin_address: (Ipv4Addr::LOCALHOST, 0).into(),
        log: "info".to_owned(),
        log_format: LogFormat::Text,
        reload_interval: Span::seconds(1),
        shutdown_delay: Span::seconds(0),
        drain_timeout: Span::seconds(1),
        // The load comes from one address.
        handshake_rate: gaia_runtime::rate::Rate::Unlimited,
        mesh_proxies: vec![],
        overrides: BTreeMap::new(),
        targets: gaia_runtime::Targets::default(),
        hosts: Hosts::default(),
    }
}

const SOON: Duration = Duration::from_secs(10);
