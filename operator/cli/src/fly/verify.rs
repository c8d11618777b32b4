//! `gaia fly verify`.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::names::Missing;
use super::plan::{App, Lack, Machine, Phase};
use super::record::Record;
use super::site::{Site, SiteArgs};
use crate::cli::Context;
use crate::output::{self, Report, Table};
use crate::{Exit, Failure};

/// Arguments of `gaia fly verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    site: SiteArgs,
}

/// The state of the apps.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verification {
    apps: Vec<AppRow>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AppRow {
    app: String,
    /// The first difference that a deployment would remove; none: the app has the files of the directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pending: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing_names: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    old_secrets: Vec<String>,
    machines: Vec<MachineRow>,
    #[serde(skip)]
    exit: Exit,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MachineRow {
    id: String,
    is_started: bool,
    certificate: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
}

impl Report for Verification {
    const KIND: &'static str = "FlyVerification";

    fn text(&self, _is_wide: bool) -> String {
        let mut table = Table::new(&["APP", "MACHINE", "CERTIFICATE", "DETAIL"]);
        for app in &self.apps {
            for machine in &app.machines {
                let cause = machine.cause.clone().unwrap_or_default();
                table.row([app.app.clone(), machine.id.clone(), machine.certificate.to_owned(), cause]);
            }
            let details = app.pending.iter().chain(&app.missing_names).cloned();
            let old = (!app.old_secrets.is_empty()).then(|| format!("old secrets: {}", app.old_secrets.join(", ")));
            for detail in details.chain(old) {
                table.row([app.app.clone(), "-".to_owned(), "-".to_owned(), detail]);
            }
        }
        table.to_string()
    }

    fn names(&self) -> Vec<String> {
        self.apps.iter().map(|app| app.app.clone()).collect()
    }
}

/// Compares the apps with the directory.
pub(crate) async fn run(args: &VerifyArgs, dir: &Path, context: &mut Context) -> Result<Exit, Failure> {
    let site = Site::new(&args.site, dir, context.console.clock.clone())?;
    let apps = site.observe(&Record::read(dir)?).await?;
    let rows: Vec<AppRow> = site
        .apps
        .iter()
        .zip(&apps)
        .map(|(one, app)| {
            let missing = site.service(&app.name).and_then(|service| Missing::of(one, service));
            row(app, missing.map(|missing| missing.to_string()))
        })
        .collect();
    let exit = rows.iter().map(|row| row.exit).collect();
    let format = context.format();
    output::print(&mut context.console, format, &Verification { apps: rows })?;
    Ok(exit)
}

fn row(app: &App, missing_names: Option<String>) -> AppRow {
    let lacks: Vec<Lack> = [Phase::Publish, Phase::Switch].into_iter().filter_map(|phase| app.lacks(phase)).collect();
    let pending = lacks.first().map(|lack| lack.stop(&app.name).cause);
    let of_lack = |lack: &Lack| match lack {
        // Not sent yet, or not from here: the next deployment sends it.
        Lack::NotSent(_) => Exit::Warnings,
        other => other.stop(&app.name).exit,
    };
    let is_running = app.started().next().is_some();
    let exits = [
        lacks.iter().map(of_lack).collect(),
        app.machines.iter().map(machine_exit).collect(),
        if is_running { Exit::Done } else { Exit::Failing },
        if missing_names.is_some() || !app.old_names.is_empty() { Exit::Warnings } else { Exit::Done },
    ];
    AppRow {
        app: app.name.clone(),
        pending,
        missing_names,
        old_secrets: app.old_names.clone(),
        machines: app.machines.iter().map(machine_row).collect(),
        exit: exits.into_iter().collect(),
    }
}

fn machine_exit(machine: &Machine) -> Exit {
    match &machine.handshake {
        _ if !machine.is_started => Exit::Done,
        Err(_) => Exit::Unknown,
        Ok(shown) if !shown.is_trusted || !shown.accepts => Exit::Failing,
        Ok(_) => Exit::Done,
    }
}

fn machine_row(machine: &Machine) -> MachineRow {
    let (certificate, cause) = match &machine.handshake {
        Err(cause) => ("-", Some(cause.clone())),
        Ok(shown) if !shown.is_trusted => ("untrusted", None),
        Ok(shown) if !shown.accepts => ("trusted", Some("it refuses the certificate of the directory".to_owned())),
        Ok(shown) if shown.is_current => ("current", None),
        Ok(_) => ("trusted", Some("it presents another certificate than that of the directory".to_owned())),
    };
    MachineRow { id: machine.id.clone(), is_started: machine.is_started, certificate, cause }
}
