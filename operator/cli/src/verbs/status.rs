//! `gaia status`: TrustDomains with their rings, services with mode and certificate, and changes that verbs made.

use std::fmt::Write as _;

use clap::Args;
use gaia_api::crd::condition::{self, warning};
use gaia_api::crd::{
    Condition, GaiaService, GenerationStatus, Laggard, ServiceCertificate, TrustDomain, TrustDomainStatus,
    find_condition,
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::cli::Context;
use crate::output::{self, Report, Table, printable};
use crate::source::Source;
use crate::source::directory::{cannot_read, read_bounded};
use crate::{Exit, Failure};

/// Arguments of `gaia status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Only this TrustDomain and its services.
    trust_domain: Option<String>,
}

/// The state of a platform.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    trust_domains: Vec<DomainView>,
    services: Vec<ServiceView>,
    /// The patches in `gaia.changes.yaml`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<Value>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DomainView {
    name: String,
    ready: String,
    reason: String,
    message: String,
    rotating: String,
    instances: String,
    generations: Vec<GenerationView>,
    laggards: Vec<Laggard>,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct GenerationView {
    /// `CA` or `signing key`.
    ring: &'static str,
    #[serde(flatten)]
    generation: GenerationStatus,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceView {
    namespace: String,
    name: String,
    ready: String,
    reason: String,
    message: String,
    mode: String,
    tls: String,
    expires: Option<Timestamp>,
    renews: Option<Timestamp>,
    served: String,
    legacy_used: String,
    warnings: Vec<String>,
}

/// Prints the state. Exit code 1: warnings, 2: an object is stalled or not ready.
pub(crate) async fn run(args: &StatusArgs, context: &mut Context) -> Result<Exit, Failure> {
    let source = context.source()?.ok_or_else(|| {
        Failure::usage("status: the platform is not named").next("gaia status --dir certs, for a directory")
    })?;
    let is_wanted = |name: &str| args.trust_domain.as_deref().is_none_or(|wanted| wanted == name);
    let mut domains = source.list::<TrustDomain>().await?.objects;
    domains.retain(|domain| is_wanted(domain.metadata.name.as_deref().unwrap_or_default()));
    if domains.is_empty() && args.trust_domain.is_some() {
        let wanted = args.trust_domain.as_deref().unwrap_or_default();
        return Err(Failure::usage(format!("{}: there is no TrustDomain {wanted}", source.name()))
            .next("gaia status without a name lists all"));
    }
    let services = source.list::<GaiaService>().await?.objects;
    let certificates = source.list::<ServiceCertificate>().await?.objects;
    let of_domain = certificates.iter().filter(|it| is_wanted(&it.spec.trust_domain_ref.name));
    let services = of_domain.map(|certificate| {
        let meta = &certificate.metadata;
        let is_its = |service: &&GaiaService| {
            (&service.metadata.namespace, &service.metadata.name) == (&meta.namespace, &meta.name)
        };
        ServiceView::of(certificate, services.iter().find(is_its))
    });
    let status = Status {
        trust_domains: domains.iter().map(DomainView::of).collect(),
        services: services.collect(),
        changes: changes(&source)?,
    };
    let format = context.format();
    output::print(&mut context.console, format, &status)?;
    Ok(status.exit())
}

/// The patches that verbs made.
fn changes(source: &Source) -> Result<Vec<Value>, Failure> {
    let Source::Directory(directory) = source;
    let path = directory.path().join("gaia.changes.yaml");
    let text = match read_bounded(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(cannot_read(&path, &error)),
    };
    let value: Value = serde_yaml_ng::from_slice(&text)
        .map_err(|error| Failure::failing(format!("{}: {error}", path.display())).next("correct the file"))?;
    Ok(value.get("patches").and_then(Value::as_array).cloned().unwrap_or_default())
}

/// Status, reason and message of the condition that decides.
fn ready(conditions: &[Condition]) -> (String, String, String) {
    let stalled = find_condition(conditions, condition::STALLED).filter(|found| found.status == "True");
    let ready = find_condition(conditions, condition::READY);
    let status = ready.map_or("Unknown", |found| found.status.as_str()).to_owned();
    match stalled.or(ready) {
        Some(found) if stalled.is_some() || status != "True" => (status, found.reason.clone(), found.message.clone()),
        _ => (status, String::new(), String::new()),
    }
}

fn warnings(conditions: &[Condition]) -> Vec<String> {
    let warned =
        conditions.iter().filter(|found| found.status == "True" && warning::ALL.contains(&found.type_.as_str()));
    warned.map(|found| format!("{}: {}", found.type_, found.message)).collect()
}

impl DomainView {
    fn of(domain: &TrustDomain) -> Self {
        let status = domain.status.clone().unwrap_or_default();
        let (ready, reason, message) = ready(&status.conditions);
        let warnings = warnings(&status.conditions);
        let TrustDomainStatus { ca, signing_keys, instances, rotating, laggards, .. } = status;
        let mut generations = vec![];
        for (name, ring) in [("CA", ca), ("signing key", signing_keys)] {
            let ring = ring.unwrap_or_default();
            let all = ring.active.into_iter().chain(ring.next).chain(ring.retiring).chain(ring.distrusted);
            generations.extend(all.map(|generation| GenerationView { ring: name, generation }));
        }
        Self {
            name: domain.metadata.name.clone().unwrap_or_default(),
            ready,
            reason,
            message,
            rotating: rotating.unwrap_or_else(|| "-".to_owned()),
            instances: instances.map_or_else(|| "-".to_owned(), |counts| counts.summary),
            generations,
            laggards,
            warnings,
        }
    }
}

impl ServiceView {
    fn of(certificate: &ServiceCertificate, service: Option<&GaiaService>) -> Self {
        let meta = &certificate.metadata;
        let own = certificate.status.clone().unwrap_or_default();
        let of_service = service.and_then(|service| service.status.clone());
        let conditions = of_service.as_ref().map_or(&own.conditions, |status| &status.conditions);
        let (ready, reason, message) = ready(conditions);
        let mut warned = warnings(conditions);
        warned.extend(warnings(&own.conditions).into_iter().filter(|_| of_service.is_some()));
        let text = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned));
        let encode = |mode: Option<Value>| text(mode).unwrap_or_else(|| "-".to_owned());
        let of_service = of_service.unwrap_or_default();
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            ready,
            reason,
            message,
            mode: encode(of_service.auth.and_then(|auth| serde_json::to_value(auth.mode).ok())),
            tls: encode(of_service.tls.and_then(|tls| serde_json::to_value(tls.mode).ok())),
            expires: own.not_after,
            renews: own.renewal_time,
            served: own.served.map_or_else(|| "-".to_owned(), |served| served.summary),
            legacy_used: of_service.legacy.and_then(|legacy| legacy.last_used_date).unwrap_or_else(|| "-".to_owned()),
            warnings: warned,
        }
    }
}

impl Status {
    fn exit(&self) -> Exit {
        let of = |ready: &str, reason: &str, warnings: &[String]| match (ready, reason) {
            ("True", "") if warnings.is_empty() => Exit::Done,
            ("True", "") => Exit::Warnings,
            _ => Exit::Failing,
        };
        let domains = self.trust_domains.iter().map(|it| of(&it.ready, &it.reason, &it.warnings));
        domains.chain(self.services.iter().map(|it| of(&it.ready, &it.reason, &it.warnings))).collect()
    }
}

impl Report for Status {
    const KIND: &'static str = "Status";

    fn text(&self, is_wide: bool) -> String {
        let mut text = String::new();
        let time = |time: Option<Timestamp>| time.map_or_else(|| "-".to_owned(), |time| time.to_string());
        for domain in &self.trust_domains {
            let DomainView { name, ready, rotating, instances, .. } = domain;
            let _ = writeln!(text, "TrustDomain {name}: ready {ready}, rotating {rotating}, instances {instances}");
            append(&mut text, &domain.reason, &domain.message, &domain.warnings);
            let mut table = Table::new(&["RING", "GENERATION", "STATE", "SINCE", "EXPIRES", "REMOVED-AFTER"]);
            for GenerationView { ring, generation } in &domain.generations {
                let GenerationStatus { id, state, since, not_after, safe_to_remove_time, .. } = generation;
                let (expires, removed) = (time(*not_after), time(*safe_to_remove_time));
                table.row([(*ring).to_owned(), id.clone(), state.clone(), since.to_string(), expires, removed]);
            }
            let _ = writeln!(text, "{table}");
            for Laggard { namespace, pod, reason, .. } in &domain.laggards {
                let _ = writeln!(text, "  lagging: {}", printable(&format!("{namespace}/{pod}: {reason}")));
            }
        }
        let mut heading = vec!["SERVICE", "READY", "MODE", "TLS", "EXPIRES", "SERVED", "LEGACY-USED"];
        heading.extend(is_wide.then_some("RENEWS"));
        let mut table = Table::new(&heading);
        for it in &self.services {
            let name = format!("{}/{}", it.namespace, it.name);
            let mut row = vec![name, it.ready.clone(), it.mode.clone(), it.tls.clone(), time(it.expires)];
            row.extend([it.served.clone(), it.legacy_used.clone()]);
            row.extend(is_wide.then(|| time(it.renews)));
            table.row(row);
        }
        let _ = write!(text, "{table}");
        for it in self.services.iter().filter(|it| !it.reason.is_empty() || !it.warnings.is_empty()) {
            let _ = writeln!(text, "{}/{}:", printable(&it.namespace), printable(&it.name));
            append(&mut text, &it.reason, &it.message, &it.warnings);
        }
        for change in &self.changes {
            let _ = writeln!(text, "changed by gaia.changes.yaml: {change}");
        }
        text
    }

    fn names(&self) -> Vec<String> {
        self.services.iter().map(|it| printable(&format!("{}/{}", it.namespace, it.name))).collect()
    }
}

fn append(text: &mut String, reason: &str, message: &str, warnings: &[String]) {
    if !reason.is_empty() {
        let _ = writeln!(text, "  {}: {}", printable(reason), printable(message));
    }
    for warning in warnings {
        let _ = writeln!(text, "  warning: {}", printable(warning));
    }
}
