//! `gaia local init`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use gaia_operator::directory::{self, Environment, InitOptions};
use serde::Serialize;

use super::{failure, settings};
use crate::cli::Context;
use crate::output::{Report, Table, print};
use crate::{Exit, Failure};

/// Options of `gaia local init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Manifests of a TrustDomain and its GaiaServices to use in place of the five services.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "environment")]
    from: Vec<PathBuf>,
    /// The environment (dev, staging or production; default dev). It is part of the trust domain's name.
    #[arg(long, value_name = "NAME")]
    environment: Option<Environment>,
    /// Take over the CA and the signing key of a tree that the old scripts made. Services accept API keys only, and
    /// accept plain HTTP and TLS; no key is replaced until `gaia rotate`.
    #[arg(long, conflicts_with = "from")]
    adopt: bool,
    /// The group that may read the service directories.
    #[arg(long, value_name = "GID")]
    group: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Initialised {
    dir: String,
    is_new: bool,
    trust_domain: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    issued: Vec<Issued>,
    waiting: Vec<Waiting>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Issued {
    service: String,
    not_after: String,
}

#[derive(Serialize)]
struct Waiting {
    service: String,
    message: String,
}

impl Report for Initialised {
    const KIND: &'static str = "LocalInit";

    fn text(&self, _: bool) -> String {
        let mut table = Table::new(&["SERVICE", "EXPIRES"]);
        for Issued { service, not_after } in &self.issued {
            table.row([service.clone(), not_after.clone()]);
        }
        let mut text = table.to_string();
        for Waiting { service, message } in &self.waiting {
            let _ = writeln!(text, "{service}: {message}");
        }
        text
    }

    fn names(&self) -> Vec<String> {
        self.issued.iter().map(|issued| issued.service.clone()).collect()
    }
}

pub(super) async fn run(args: InitArgs, context: &mut Context) -> Result<Exit, Failure> {
    let mut from = vec![];
    for path in args.from {
        let text = std::fs::read_to_string(&path);
        let text = text.map_err(|error| Failure::usage(format!("--from {}: {error}", path.display())))?;
        from.push((path, text));
    }
    let mut engine = settings(context);
    engine.group = args.group;
    let options = InitOptions { environment: args.environment, from, adopt: args.adopt, engine };
    let path = context.dir();
    let done = directory::init(&path, options).await.map_err(|error| failure(&error))?;
    let issued = done.issued.into_iter();
    let report = Initialised {
        dir: path.display().to_string(),
        is_new: done.is_new,
        trust_domain: done.trust_domain,
        warnings: done.warnings,
        issued: issued.map(|(service, until)| Issued { service, not_after: until.to_string() }).collect(),
        waiting: done.waiting.into_iter().map(|(service, message)| Waiting { service, message }).collect(),
    };
    let what = if report.is_new { "created" } else { "checked" };
    context.console.progress(&format!("{what} {} for the trust domain {}", report.dir, report.trust_domain));
    if report.is_new {
        context.console.progress("keys: keep this directory out of version control; back up its .gaia");
    }
    for warning in &report.warnings {
        context.console.progress(&format!("warning: {warning}"));
    }
    if args.adopt {
        context.console.progress("next: gaia keys import, then gaia rotate ca and gaia rotate signing-key");
    }
    let format = context.format();
    print(&mut context.console, format, &report)?;
    Ok(if report.waiting.is_empty() { Exit::Done } else { Exit::Failing })
}
