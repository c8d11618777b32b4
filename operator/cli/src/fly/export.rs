//! `gaia export fly`.

use std::path::Path;

use clap::Args;

use super::names::{self, Missing};
use super::plan::Phase;
use super::tree::{self, Assignment, Service};
use crate::cli::Context;
use crate::{Exit, Failure};

/// Arguments of `gaia export fly`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("form").required(true))]
pub(crate) struct ExportArgs {
    /// A service and its app, such as gateway=gaia-gateway-production; once for each.
    #[arg(long = "app", required = true, value_name = "SERVICE=APP")]
    apps: Vec<Assignment>,
    /// Print the input of `fly secrets import --stage` for one app. It has private keys, and is not printed to a terminal.
    #[arg(long, group = "form")]
    secrets: bool,
    /// Print the parts of fly.toml.
    #[arg(long, group = "form")]
    files: bool,
}

/// Prints the secrets or the configuration of apps. Names that a certificate lacks are a warning.
pub(crate) fn run(args: &ExportArgs, dir: &Path, context: &mut Context) -> Result<Exit, Failure> {
    if args.secrets && context.console.is_terminal {
        let app = args.apps.first().map(|one| one.app.as_str()).unwrap_or_default();
        return Err(Failure::usage("--secrets prints private keys, which are not written to a terminal")
            .next(format!("pipe it: gaia export fly … --secrets | fly secrets import --stage -a {app}")));
    }
    if args.secrets && args.apps.len() != 1 {
        return Err(Failure::usage("--secrets prints the secrets of one app: name one --app"));
    }
    let services = tree::read_all(dir, &args.apps, context.console.clock.now())?;
    let mut missing = vec![];
    for one in &args.apps {
        let Some(service) = services.get(&one.service) else { continue };
        if args.secrets {
            context.console.print(&service.stream(&[Phase::Publish, Phase::Switch]))?;
            let names: Vec<&str> = service.files.iter().map(|file| file.secret.as_str()).collect();
            context.console.progress(&format!("app {}: {} secrets: {}", one.app, names.len(), names.join(", ")));
            context.console.progress(&format!("next: read the names back with `fly secrets list -a {}`", one.app));
        } else {
            context.console.print(&configuration(&one.app, service))?;
        }
        missing.extend(Missing::of(one, service));
    }
    if missing.is_empty() {
        return Ok(Exit::Done);
    }
    for one in &missing {
        context.console.progress(&format!("warning: {one}"));
    }
    context.console.progress(&names::patch(dir, &missing));
    Ok(Exit::Warnings)
}

/// The parts of fly.toml for an app.
fn configuration(app: &str, service: &Service) -> String {
    let mut text = format!(
        "# {app}: the parts of fly.toml for {service}. A change of [[files]] needs one `fly deploy`.
kill_signal = \"SIGTERM\"
kill_timeout = 35

[env]
  GAIA_DIR = \"{MOUNT}\"
  GAIA_MESH_ADDRESS = \"[::]:8443\"
  GAIA_ADMIN_ADDRESS = \"[::]:9090\"

[checks.gaia]
  type = \"http\"
  port = 9090
  method = \"get\"
  path = \"/readyz\"
  interval = \"10s\"
  timeout = \"2s\"
  grace_period = \"30s\"
",
        service = service.name,
    );
    for file in &service.files {
        text +=
            &format!("\n[[files]]\n  guest_path = \"{MOUNT}/{}\"\n  secret_name = \"{}\"\n", file.name, file.secret);
    }
    text + "\n"
}

const MOUNT: &str = "/etc/gaia";
