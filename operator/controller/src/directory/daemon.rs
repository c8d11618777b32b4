//! `gaia local run`: the engine until a signal stops it, or once.

mod admin;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use gaia_api::crd::condition::{CA_ROTATING, READY, SIGNING_KEYS_ROTATING, STALLED};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use self::admin::{Health, serve};
use super::disk::error::DirectoryError;
use super::engine::{Engine, EngineSettings};
use super::view::Directory;
use crate::cache::lock;

/// The state of a directory after the engine had nothing left to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// Rotations in progress, and what each waits for.
    pub waiting: Vec<String>,
    /// Objects that need help, the disk, or a manifest: the cause of each.
    pub failing: Vec<String>,
}

/// Does all due work and returns.
///
/// # Errors
/// The directory is not safe to use, another process holds it, or it cannot be read.
pub async fn run_once(path: &Path, settings: EngineSettings) -> Result<Settled, DirectoryError> {
    let engine = Engine::start(path, settings).await?;
    let settled = engine.settled(ONCE).await;
    engine.stop().await;
    settled
}

/// Runs until SIGTERM or SIGINT, with `/livez`, `/readyz` and `/metrics` at an address. `on_beat` is called with a
/// line of status once the engine works, and every two seconds.
///
/// # Errors
/// The directory is not safe to use, another process holds it or takes it, or the address cannot be listened on.
pub async fn run(
    path: &Path,
    settings: EngineSettings,
    admin: Option<SocketAddr>,
    mut on_beat: impl FnMut(&str),
) -> Result<(), DirectoryError> {
    let cannot_stop = |error| DirectoryError::io("handle signals for", path, error);
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot_stop)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot_stop)?;
    let mut engine = Engine::start(path, settings).await?;
    let health = Health::new(&engine);
    let serving = match admin {
        Some(address) => Some(serve(address, health.clone()).await?),
        None => None,
    };
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut count = 0_u32;
    let ended = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = ticks.tick() => {}
        }
        match engine.tick() {
            Err(error @ DirectoryError::Busy { .. }) => break Err(error),
            Err(error) => tracing::warn!(%error, "the directory could not be read or written; retrying"),
            Ok(()) => {}
        }
        count = count.wrapping_add(1);
        if count.is_multiple_of(TICKS_A_REPAIR) {
            engine.repair();
        }
        health.update(&engine);
        on_beat(&engine.status());
    };
    health.drain();
    if let Some(serving) = serving {
        serving.abort();
    }
    engine.stop().await;
    tracing::info!("stopped");
    ended
}

impl Engine {
    /// One line for a service manager.
    fn status(&self) -> String {
        let fault = self.manifest_fault().map(str::to_owned).or_else(|| self.disk_failure());
        fault.unwrap_or_else(|| format!("{} objects", lock(&self.world).all_keys().len()))
    }

    /// Waits until nothing is left to do, and returns what waits and what fails.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub async fn settled(&self, within: Duration) -> Result<Settled, DirectoryError> {
        let is_quiet = self.settle(within).await;
        let mut settled = Settled::default();
        settled.failing.extend(self.manifest_fault().map(str::to_owned));
        settled.failing.extend(self.disk_failure());
        let directory = Directory::open(self.root().path())?;
        for domain in directory.trust_domains()? {
            let name = format!("TrustDomain {}", domain.metadata.name.unwrap_or_default());
            let conditions = domain.status.map(|status| status.conditions).unwrap_or_default();
            settled.add(&name, &conditions);
        }
        for service in directory.services()? {
            let name = format!("GaiaService {}", service.metadata.name.unwrap_or_default());
            settled.add(&name, &service.status.map(|status| status.conditions).unwrap_or_default());
        }
        for certificate in directory.certificates()? {
            let name = format!("ServiceCertificate {}", certificate.metadata.name.unwrap_or_default());
            settled.add(&name, &certificate.status.map(|status| status.conditions).unwrap_or_default());
        }
        if !is_quiet && settled.failing.is_empty() {
            settled.waiting.push(format!("work was not done within {} s", within.as_secs()));
        }
        Ok(settled)
    }
}

impl Settled {
    fn add(&mut self, name: &str, conditions: &[Condition]) {
        let of = |type_: &str| conditions.iter().find(|condition| condition.type_ == type_);
        let has = |type_: &str, status: &str| of(type_).filter(|condition| condition.status == status);
        let failed = has(STALLED, "True").or_else(|| has(READY, "False"));
        self.failing.extend(failed.map(|condition| format!("{name}: {}", condition.message)));
        let rotations = [CA_ROTATING, SIGNING_KEYS_ROTATING].into_iter().filter_map(|type_| has(type_, "True"));
        self.waiting.extend(rotations.map(|condition| format!("{name}: {}", condition.message)));
    }
}

/// The heartbeat, and with it the look at the manifests and requests.
const TICK: Duration = Duration::from_secs(2);
/// Service directories are compared with the objects every ten seconds.
const TICKS_A_REPAIR: u32 = 5;
/// Time for all due work: probes of services that do not answer take five seconds each.
const ONCE: Duration = Duration::from_secs(60);
