//! Apps on Fly, the directory whose files they have, and the observation of both.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use gaia_api::Clock;
use tokio::time::sleep;

use super::flyctl::{Fly, ListedMachine, ListedSecret};
use super::handshake;
use super::plan::{App, Handshake, Machine, Phase, Secret, SecretState};
use super::record::{AppRecord, Record};
use super::tree::{self, Assignment, Service, old_names};
use crate::Failure;

/// Options of the verbs that talk to Fly.
#[derive(Debug, Args)]
pub(crate) struct SiteArgs {
    /// A service and its app, such as gateway=gaia-gateway-production; once for each.
    #[arg(long = "app", required = true, value_name = "SERVICE=APP")]
    apps: Vec<Assignment>,
    /// The program `fly`.
    #[arg(long, default_value = "fly", value_name = "PATH")]
    fly: PathBuf,
    /// The way to the machines: by `fly proxy`, or directly where the private network is reachable.
    #[arg(long, value_enum, default_value_t, value_name = "WAY")]
    connect: Connect,
    /// The port of the services.
    #[arg(long, default_value_t = 8443)]
    port: u16,
    /// The time-out of a step, in seconds.
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// A further secret of the old platform that is no longer needed.
    #[arg(long, value_name = "NAME")]
    old_name: Vec<String>,
}

/// The way to the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Connect {
    /// `fly proxy`, one machine at a time.
    #[default]
    Proxy,
    /// The machines' addresses in the private network.
    Direct,
}

/// Apps, and the directory whose files they have.
pub(crate) struct Site {
    /// The commands of `fly`.
    pub(crate) fly: Fly,
    /// The apps, in the order of their waves.
    pub(crate) apps: Vec<Assignment>,
    /// The time-out of a step.
    pub(crate) time: Duration,
    services: BTreeMap<String, Service>,
    connect: Connect,
    port: u16,
    further_old_names: Vec<String>,
    clock: Arc<dyn Clock>,
}

impl Site {
    /// Reads the service directories.
    ///
    /// # Errors
    /// As [`tree::read_all`].
    pub(crate) fn new(args: &SiteArgs, dir: &Path, clock: Arc<dyn Clock>) -> Result<Self, Failure> {
        let time = Duration::from_secs(args.timeout);
        Ok(Self {
            services: tree::read_all(dir, &args.apps, clock.now())?,
            fly: Fly { program: args.fly.clone(), time },
            apps: args.apps.clone(),
            time,
            connect: args.connect,
            port: args.port,
            further_old_names: args.old_name.clone(),
            clock,
        })
    }

    /// The service of an app.
    pub(crate) fn service(&self, app: &str) -> Option<&Service> {
        self.apps.iter().find(|one| one.app == app).and_then(|one| self.services.get(&one.service))
    }

    /// Observes all apps.
    ///
    /// # Errors
    /// If `fly` does not answer. A machine that does not answer is none.
    pub(crate) async fn observe(&self, record: &Record) -> Result<Vec<App>, Failure> {
        let mut all = vec![];
        for one in &self.apps {
            all.push(self.observe_app(&one.app, record).await?);
        }
        Ok(all)
    }

    /// Observes an app.
    ///
    /// # Errors
    /// As [`Site::observe`].
    pub(crate) async fn observe_app(&self, app: &str, record: &Record) -> Result<App, Failure> {
        let service = self.service(app).ok_or_else(|| Failure::bug(format!("app {app} has no service")))?;
        let sent = record.apps.get(app);
        let listed = self.fly.secrets(app).await?;
        let machines = self.fly.machines(app).await?;
        let mut old = old_names(&service.name);
        old.extend(self.further_old_names.iter().cloned());
        old.retain(|name| listed.contains_key(name));
        old.dedup();
        Ok(App {
            name: app.to_owned(),
            secrets: secrets(service, sent, &listed),
            machines: self.machines(app, service, sent, machines).await,
            old_names: old,
        })
    }

    async fn machines(
        &self,
        app: &str,
        service: &Service,
        sent: Option<&AppRecord>,
        listed: Vec<ListedMachine>,
    ) -> Vec<Machine> {
        let mut machines = vec![];
        for machine in listed {
            let is_started = machine.state == "started";
            let handshake = match is_started {
                true => self.handshake(app, service, &machine).await,
                false => Err(format!("it is {}", machine.state)),
            };
            let before = |phase: Phase| sent.and_then(|sent| sent.staged_at.get(&phase));
            let is_updated = |phase: &Phase| {
                before(*phase).is_some_and(|instances| instances.get(&machine.id) != Some(&machine.instance_id))
            };
            let updated_after = [Phase::Publish, Phase::Switch].into_iter().filter(is_updated).collect();
            machines.push(Machine { id: machine.id, is_started, updated_after, handshake });
        }
        machines
    }

    async fn handshake(&self, app: &str, service: &Service, machine: &ListedMachine) -> Result<Handshake, String> {
        let host = format!("{}.vm.{app}.internal", machine.id);
        let mut last = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                sleep(PAUSE).await;
            }
            let proxy;
            let address = match self.connect {
                Connect::Direct => match machine.private_ip.parse::<IpAddr>() {
                    Ok(ip) => SocketAddr::new(ip, self.port),
                    Err(_) => return Err(format!("fly lists no address for it: {:?}", machine.private_ip)),
                },
                Connect::Proxy => {
                    proxy = match self.fly.proxy(app, &machine.id, self.port).await {
                        Ok(proxy) => proxy,
                        Err(error) => {
                            last = error;
                            continue;
                        }
                    };
                    proxy.address
                }
            };
            match handshake::probe(service, address, &host, self.clock.now()).await {
                Ok(shown) => return Ok(shown),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// The states of the secrets of a service.
fn secrets(service: &Service, sent: Option<&AppRecord>, listed: &BTreeMap<String, ListedSecret>) -> Vec<Secret> {
    let state = |name: &str, sha256: &str| {
        let (Some(sent), Some(listed)) = (sent.and_then(|sent| sent.secrets.get(name)), listed.get(name)) else {
            return SecretState::Differs;
        };
        if sent.sha256 != sha256 || sent.digest != listed.digest {
            return SecretState::Differs;
        }
        match listed.status.as_deref() {
            Some("Deployed") => SecretState::Deployed,
            Some("Staged") => SecretState::Staged,
            Some("Partial") => SecretState::Partial,
            other => SecretState::Unknown(other.unwrap_or("none").to_owned()),
        }
    };
    let secret = |file: &tree::File| Secret {
        name: file.secret.clone(),
        phase: file.phase,
        state: state(&file.secret, &file.sha256()),
    };
    service.files.iter().map(secret).collect()
}

const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);
