//! `gaia renew`.

use std::collections::BTreeMap;

use clap::Args;
use gaia_api::crd::ServiceCertificate;
use gaia_api::names::annotation;
use serde::Serialize;
use serde_json::json;

use crate::cli::Context;
use crate::local::change::change;
use crate::output::{self, Report, Table};
use crate::source::Source;
use crate::{Exit, Failure};

/// Arguments of `gaia renew`.
#[derive(Debug, Args)]
pub(crate) struct RenewArgs {
    /// Services.
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// All services.
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

/// The result of each service.
#[derive(Debug, Serialize)]
struct Renewals {
    services: Vec<Renewal>,
}

#[derive(Debug, Serialize)]
struct Renewal {
    name: String,
    /// `renewed`, or `requested` while the daemon has not issued it yet.
    result: &'static str,
}

impl Report for Renewals {
    const KIND: &'static str = "Renewals";

    fn text(&self, _is_wide: bool) -> String {
        let mut table = Table::new(&["SERVICE", "RESULT"]);
        for Renewal { name, result } in &self.services {
            table.row([name.clone(), (*result).to_owned()]);
        }
        table.to_string()
    }

    fn names(&self) -> Vec<String> {
        self.services.iter().map(|service| service.name.clone()).collect()
    }
}

/// Renews certificates now.
pub(crate) async fn run(args: &RenewArgs, context: &mut Context) -> Result<Exit, Failure> {
    let source = super::source(context)?;
    let before = serials(&source).await?;
    let names: Vec<&String> =
        if args.all { before.keys().map(|(_, name)| name).collect() } else { args.names.iter().collect() };
    let asked_at = context.console.clock.now().to_string();
    let mut actions = vec![];
    for name in &names {
        let (namespace, _) = before.keys().find(|(_, known)| known == *name).ok_or_else(|| {
            Failure::usage(format!("{}: there is no certificate {name}", source.name())).next("gaia status lists all")
        })?;
        let annotations = json!({ "metadata": { "annotations": { annotation::RENEW_REQUESTED_AT: asked_at } } });
        actions.push(super::patch("ServiceCertificate", namespace, name, annotations));
    }
    if actions.is_empty() {
        return Err(
            Failure::usage(format!("{}: there is no certificate", source.name())).next("gaia check names the cause")
        );
    }
    change(&context.dir(), actions, context).await?;
    let after = serials(&source).await?;
    let is_new = |name: &str| {
        let of = |all: &BTreeMap<_, Option<String>>| {
            all.iter().find(|((_, known), _): &(&(String, String), _)| known == name).map(|(_, serial)| serial.clone())
        };
        of(&before) != of(&after)
    };
    let result = |name: &str| if is_new(name) { "renewed" } else { "requested" };
    let services = names.iter().map(|name| Renewal { name: (*name).clone(), result: result(name) }).collect();
    let format = context.format();
    output::print(&mut context.console, format, &Renewals { services })?;
    Ok(Exit::Done)
}

/// The serial number of each certificate, by namespace and name.
async fn serials(source: &Source) -> Result<BTreeMap<(String, String), Option<String>>, Failure> {
    let certificates = source.list::<ServiceCertificate>().await?.objects.into_iter();
    let serial = |certificate: ServiceCertificate| {
        let meta = certificate.metadata;
        let key = (meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default());
        (key, certificate.status.and_then(|status| status.serial_number))
    };
    Ok(certificates.map(serial).collect())
}
