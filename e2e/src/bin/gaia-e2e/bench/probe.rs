//! Probes of many instances.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use gaia_api::crd::ServiceCertificate;
use gaia_api::sync::lock;
use gaia_e2e::{ServiceOptions, ServiceProcess, progress, wait};
use kube::Api;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Arguments;
use super::arena::{Arena, trust_domain};
use super::contest::LONG;
use super::report::Report;
use super::tally::number;

/// Real services answer; each has many addresses, all of them forwarded here, where the time is measured.
pub(super) async fn measure(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let namespaces: Vec<String> = (0..SERVICES).map(|index| format!("probed-{index}")).collect();
    let allowed = format!("  allowedEndpoints: [{{namespaces: [{}], cidrs: [127.0.0.0/8]}}]\n", namespaces.join(", "));
    let domain = trust_domain("{}") + &allowed;
    let arena = Arena::set_up(&domain, namespaces.clone()).await?;
    let operator = arena.operator().await?;
    let rounds = Arc::new(Round::default());
    let mut forwarding = JoinSet::new();
    let mut services = vec![];
    for (index, namespace) in namespaces.iter().enumerate() {
        let target = Arc::new(OnceLock::new());
        let mut endpoints = vec![];
        for instance in 0..INSTANCES {
            let address = Ipv4Addr::new(127, 0, u8::try_from(index + 1)?, u8::try_from(instance + 1)?);
            let listener = TcpListener::bind((address, 0)).await?;
            endpoints.push(listener.local_addr()?.to_string());
            forwarding.spawn(forward(listener, Arc::clone(&target), Arc::clone(&rounds)));
        }
        arena.select(namespace).await?;
        arena.cluster.apply(&gaia_service(namespace, &endpoints)).await?;
        let options = ServiceOptions::asset_service(&arena.cluster, namespace, "gaia");
        let service = ServiceProcess::start(&arena.cluster, options).await?;
        service.wait_ready(Duration::from_secs(60)).await?;
        let _ = target.set(service.mesh_address());
        services.push(service);
    }
    let all = SERVICES * INSTANCES;
    until_served(&arena, &namespaces).await?;
    operator.sigterm(Duration::from_secs(30)).await?;
    let (mut seconds, mut processor) = (vec![], vec![]);
    for _ in 0..arguments.rounds {
        progress::say(format_args!("the operator starts and looks at {all} instances"));
        rounds.clear();
        let operator = arena.operator().await?;
        let processes = arena.processes(&operator);
        wait::until_true(&format!("{all} instances have answered"), LONG, async || {
            anyhow::Ok(rounds.answered() == all)
        })
        .await?;
        seconds.push(rounds.seconds().context("nobody was asked")?);
        processor.push(processes.operator_ms()?);
        until_served(&arena, &namespaces).await?;
        operator.sigterm(Duration::from_secs(30)).await?;
    }
    report.section(format!("{all} instances are asked what they use"));
    // The target is two seconds; a slow machine takes longer, so it is no bound.
    report.figure("from the first connection to the last answer", "s", &seconds);
    report.figure("  the operator's processor time since its start", "ms", &processor);
    report.figure("  instances", "", &[number(all)]);
    Ok(())
}

/// The times of the first probe of each instance in this round, and of its answer.
#[derive(Default)]
struct Round(Mutex<HashMap<SocketAddr, (Instant, Option<Instant>)>>);

impl Round {
    fn clear(&self) {
        lock(&self.0).clear();
    }

    fn answered(&self) -> usize {
        lock(&self.0).values().filter(|(_, answered)| answered.is_some()).count()
    }

    fn seconds(&self) -> Option<f64> {
        let times = lock(&self.0);
        let first = times.values().map(|(asked, _)| *asked).min()?;
        let last = times.values().filter_map(|(_, answered)| *answered).max()?;
        Some((last - first).as_secs_f64())
    }
}

/// Forwards connections, and records their begin and end.
async fn forward(listener: TcpListener, target: Arc<OnceLock<SocketAddr>>, round: Arc<Round>) -> Result<()> {
    let address = listener.local_addr()?;
    loop {
        let (mut client, _) = listener.accept().await?;
        lock(&round.0).entry(address).or_insert((Instant::now(), None));
        let Some(target) = target.get().copied() else { continue };
        let round = Arc::clone(&round);
        tokio::spawn(async move {
            let Ok(mut service) = TcpStream::connect(target).await else { return };
            let copied = tokio::io::copy_bidirectional(&mut client, &mut service).await;
            // A connection that was cut off has no answer.
            if copied.is_ok_and(|(_, answer)| answer > 0)
                && let Some((_, answered)) = lock(&round.0).get_mut(&address)
            {
                answered.get_or_insert_with(Instant::now);
            }
        });
    }
}

/// Until every instance of every service serves the stored certificate.
async fn until_served(arena: &Arena, namespaces: &[String]) -> Result<()> {
    for namespace in namespaces {
        let certificates: Api<ServiceCertificate> = Api::namespaced(arena.client.clone(), namespace);
        wait::until_true(&format!("all instances in {namespace} are current"), LONG, async || {
            let status = certificates.get("asset-service").await?.status.unwrap_or_default();
            let current = status.served.map_or(0, |counts| counts.current);
            anyhow::Ok(usize::try_from(current) == Ok(INSTANCES))
        })
        .await?;
    }
    Ok(())
}

fn gaia_service(namespace: &str, endpoints: &[String]) -> String {
    let endpoints = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect::<Vec<_>>().join(", ");
    format!(
        "
apiVersion: gaia.dev/v1alpha1
kind: GaiaService
metadata: {{name: asset-service, namespace: {namespace}}}
spec: {{endpoints: [{endpoints}]}}
"
    )
}

const SERVICES: usize = 4;
const INSTANCES: usize = 50;
