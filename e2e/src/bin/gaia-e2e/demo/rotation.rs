//! The demo's last step: the CA and the signing key are replaced under a load of a hundred requests a second.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gaia_api::SystemClock;
use gaia_api::crd::TrustDomain;
use gaia_e2e::control_plane::ports;
use gaia_e2e::load::{Caller, CallerOptions, Load, LoadOptions, Negative, Traffic};
use gaia_e2e::progress::tell;
use gaia_e2e::wait::{self, Seen};
use gaia_e2e::{ControlPlane, ServiceProcess};
use kube::{Api, Client};
use serde_json::Value;
use tokio::time::Instant;

use super::platform::{OPERATOR_NAMESPACE, Services, TRUST_DOMAIN};
use super::shell::Shell;

/// Rotates both rings under load.
///
/// # Errors
/// If a request fails, if a removed credential is still accepted, or if the rotations do not end.
pub(super) async fn show(plane: &ControlPlane, shell: &Shell, services: &Services) -> Result<()> {
    let client = plane.admin().await?;
    let caller = Arc::new(start_caller(shell.dir(), services).await?);
    list_instances(shell, services, &caller).await?;
    let everybody = async || match status(&client).await {
        Ok(status) if status["instances"]["summary"] == "3/3" => Seen::Yes(()),
        other => Seen::NotYet(format!("{other:?}")),
    };
    wait::until("every instance reports what it uses", SOON, everybody).await?;
    let stolen = [
        Negative::with_ca(&client, OPERATOR_NAMESPACE, TRUST_DOMAIN, None, Arc::clone(&caller)).await?,
        Negative::with_signing_key(&client, OPERATOR_NAMESPACE, TRUST_DOMAIN, None, Arc::clone(&caller)).await?,
    ];
    let load = Load::start(load(shell.dir(), services, &caller)?)?;
    let patch = r#"{"spec":{"ca":{"rotationRevision":2},"tokens":{"rotationRevision":2}}}"#;
    shell.show(&format!("kubectl patch trustdomain gaia --type=merge -p '{patch}'")).await?;
    watch(&client, &load).await?;
    shell.show("kubectl get trustdomains,servicecertificates -n shop").await?;
    for gone in &stolen {
        let said = gone.expect_refused(services.assets.server_name(), services.assets.mesh_address()).await?;
        tell(format_args!("   A client with the old {} is refused: {said}", gone.key()));
    }
    let report = load.stop().await;
    for line in report.to_string().lines() {
        tell(format_args!("   {line}"));
    }
    let total = &report.total;
    tell(format_args!(
        "   Requests: made {}, failed {}, wrongly accepted {}.",
        total.made, total.failed, total.wrongly_accepted
    ));
    ensure!(report.is_clean(), "requests failed while everything was replaced");
    // The caller ends with this step: later steps must not wait for it.
    shell.show(r#"kubectl patch gaiaservice -n shop web --type=merge -p '{"spec":{"endpoints":null}}'"#).await.map(drop)
}

async fn start_caller(dir: &Path, services: &Services) -> Result<Caller> {
    let [port]: [u16; 1] = ports::free()?;
    let hosts = [&services.auth, &services.assets];
    let hosts = hosts.into_iter().map(|service| (service.server_name().to_owned(), service.mesh_address())).collect();
    Caller::start(CallerOptions {
        service: "web".to_owned(),
        dir: dir.join("web"),
        mesh_address: ([127, 0, 0, 1], port).into(),
        hosts,
        clock: Arc::new(SystemClock),
    })
    .await
}

/// There are no pods here for the operator to find, so `spec.endpoints` lists the instances.
async fn list_instances(shell: &Shell, services: &Services, caller: &Caller) -> Result<()> {
    tell("   There are no pods here, so spec.endpoints lists the instances:");
    let instances = [
        ("auth-service", services.auth.mesh_address()),
        ("asset-service", services.assets.mesh_address()),
        ("web", caller.mesh_address()),
    ];
    for (name, address) in instances {
        let patch = format!(r#"{{"spec":{{"endpoints":["{address}"]}}}}"#);
        shell.show(&format!("kubectl patch gaiaservice -n shop {name} --type=merge -p '{patch}'")).await?;
    }
    Ok(())
}

fn load(dir: &Path, services: &Services, caller: &Arc<Caller>) -> Result<LoadOptions> {
    let url = |service: &ServiceProcess| format!("https://{}", service.server_name()).parse();
    let header = std::fs::read_to_string(dir.join("api-key.header"))?;
    let key = header.strip_prefix("X-API-Key: ").context("there is no API key")?.trim();
    Ok(LoadOptions {
        caller: Arc::clone(caller),
        auth_url: url(&services.auth)?,
        asset_url: url(&services.assets)?,
        api_key: Some(key.into()),
        traffic: Traffic::Both,
        rate: 100,
        workers: 8,
        duration: LONG,
    })
}

/// Prints each step of the rotations, until both are over.
async fn watch(client: &Client, load: &Load) -> Result<()> {
    let before = status(client).await?;
    let old = |ring: &str| before[ring]["active"]["id"].clone();
    let (ca, key) = (old("ca"), old("signingKeys"));
    let started = Instant::now();
    let mut told: Vec<String> = Vec::new();
    let look = async || {
        let Ok(status) = status(client).await else { return Seen::NotYet("the API server does not answer".to_owned()) };
        let lines = what_happens(&status);
        if lines != told {
            for line in lines.iter().filter(|line| !told.contains(*line)) {
                let (at, counts) = (started.elapsed().as_secs(), load.counts());
                tell(format_args!("   {at:>3} s  {:>6} requests, {} failed  {line}", counts.made, counts.failed));
            }
            told = lines;
        }
        let is_new = status["ca"]["active"]["id"] != ca && status["signingKeys"]["active"]["id"] != key;
        // A removed generation is removed from the mounted files shortly after.
        let is_over = is_new && status["rotating"] == "-" && status["instances"]["summary"] == "3/3";
        if is_over { Seen::Yes(()) } else { Seen::NotYet(status.to_string()) }
    };
    wait::until("both rotations are over", LONG, look).await
}

fn what_happens(status: &Value) -> Vec<String> {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let rotating = conditions.filter(|condition| {
        condition["status"] == "True"
            && ["CARotating", "SigningKeysRotating"].iter().any(|type_| condition["type"] == *type_)
    });
    rotating
        .map(|condition| {
            let text = |field: &str| condition[field].as_str().unwrap_or_default();
            format!("{}: {}", text("reason"), text("message"))
        })
        .collect()
}

async fn status(client: &Client) -> Result<Value> {
    let domains: Api<TrustDomain> = Api::all(client.clone());
    Ok(serde_json::to_value(domains.get(TRUST_DOMAIN).await?.status)?)
}

const SOON: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(240);
