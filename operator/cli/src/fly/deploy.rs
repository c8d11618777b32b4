//! `gaia fly deploy`.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::plan::{self, App, Phase, Step, Stop};
use super::record::{Held, Record, Sent};
use super::site::{Site, SiteArgs};
use super::window::Window;
use crate::cli::Context;
use crate::output::{self, Report};
use crate::{Exit, Failure};

/// Arguments of `gaia fly deploy`.
#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// Restart machines only then, such as `02:00-04:00` or `Sat,Sun 22:00-02:00 Europe/Berlin`; else in UTC.
    #[arg(long, value_name = "WINDOW")]
    within: Option<Window>,
    /// Also deploy apps with one started machine, which a restart interrupts.
    #[arg(long)]
    allow_single: bool,
    /// Keep the secrets of the old scripts, such as GATEWAY_KEY.
    #[arg(long)]
    keep_old: bool,
    /// Remove the secrets of the old scripts without a question.
    #[arg(long, conflicts_with = "keep_old")]
    yes: bool,
    /// Print the steps, and take none.
    #[arg(long)]
    dry_run: bool,
}

/// The steps of a deployment.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Deployment {
    /// True if no step is left.
    is_complete: bool,
    /// The steps that were taken, or with `--dry-run` would be.
    steps: Vec<String>,
}

impl Report for Deployment {
    const KIND: &'static str = "FlyDeployment";

    fn text(&self, _is_wide: bool) -> String {
        let lines = self.steps.iter().map(|step| format!("{step}\n"));
        let end = match (self.is_complete, self.steps.is_empty()) {
            (true, true) => "nothing to do: each started machine has the files of the directory\n",
            (true, false) => "complete: each started machine has the files of the directory\n",
            (false, _) => "",
        };
        lines.collect::<String>() + end
    }

    fn names(&self) -> Vec<String> {
        self.steps.clone()
    }
}

/// Deploys the files of the directory.
pub(crate) async fn run(args: &DeployArgs, dir: &Path, context: &mut Context) -> Result<Exit, Failure> {
    let site = Site::new(&args.site, dir, context.console.clock.clone())?;
    if args.dry_run {
        let apps = observe(args, &site, &Record::read(dir)?).await?;
        let steps = plan::forecast(&apps, args.allow_single).map_err(failure)?;
        let report =
            Deployment { is_complete: steps.is_empty(), steps: steps.iter().map(ToString::to_string).collect() };
        let format = context.format();
        output::print(&mut context.console, format, &report)?;
        return Ok(Exit::Done);
    }
    let mut held = Held::take(dir)?;
    let mut apps = observe(args, &site, &held.record).await?;
    confirm(args, &apps, context)?;
    let mut taken = HashSet::new();
    let mut report = Deployment { is_complete: false, steps: vec![] };
    let exit = loop {
        let Some(step) = plan::next(&apps, args.allow_single).map_err(failure)? else {
            report.is_complete = true;
            break Exit::Done;
        };
        if !taken.insert(step.clone()) {
            return Err(failure(repeated(&apps, &step)));
        }
        if let Some(window) = &args.within
            && !matches!(step, Step::Stage(..))
            && !window.contains(context.console.clock.now())
        {
            context.console.progress(&format!("waits for the window {window}: {step}"));
            context.console.progress("next: run the command again in the window; until then everything stays trusted");
            break Exit::Warnings;
        }
        context.console.progress(&step.to_string());
        take(&step, &site, &mut held).await?;
        report.steps.push(step.to_string());
        apps = observe(args, &site, &held.record).await?;
    };
    let format = context.format();
    output::print(&mut context.console, format, &report)?;
    Ok(exit)
}

async fn observe(args: &DeployArgs, site: &Site, record: &Record) -> Result<Vec<App>, Failure> {
    let mut apps = site.observe(record).await?;
    if args.keep_old {
        apps.iter_mut().for_each(|app| app.old_names.clear());
    }
    Ok(apps)
}

/// Asks before secrets are removed.
fn confirm(args: &DeployArgs, apps: &[App], context: &mut Context) -> Result<(), Failure> {
    let old: Vec<String> = apps
        .iter()
        .filter(|app| !app.old_names.is_empty())
        .map(|app| format!("{} of app {}", app.old_names.join(", "), app.name))
        .collect();
    if old.is_empty() || args.yes {
        return Ok(());
    }
    let question = format!("after the last step these secrets are removed: {}", old.join("; "));
    if context.console.can_ask {
        context.console.progress(&format!("{question}. Continue? [y/N]"));
        let mut answer = [0; 1];
        let is_yes =
            context.console.stdin.read(&mut answer).is_ok_and(|read| read == 1) && matches!(answer[0], b'y' | b'Y');
        if is_yes {
            return Ok(());
        }
    }
    Err(Failure::usage(question).next("add --yes to remove them, or --keep-old to keep them"))
}

/// Takes a step, and waits until it is complete.
async fn take(step: &Step, site: &Site, held: &mut Held) -> Result<(), Failure> {
    match step {
        Step::Stage(app, phase) => stage(app, *phase, site, held).await,
        Step::Unset(app, names) => site.fly.unset(app, names).await,
        Step::Deploy(app, phase) => {
            // Whether it failed or not, what the machines show decides.
            let ended = site.fly.deploy(app).await;
            let deadline = Instant::now() + if ended.is_ok() { site.time } else { Duration::ZERO };
            loop {
                let Some(lack) = site.observe_app(app, &held.record).await?.lacks(*phase) else { return Ok(()) };
                if Instant::now() >= deadline {
                    let mut stop = lack.stop(app);
                    if let Err(error) = ended {
                        let error = error.to_string();
                        stop.cause = format!("{} ({})", stop.cause, error.lines().next().unwrap_or_default());
                    }
                    return Err(failure(stop));
                }
                sleep(POLL).await;
            }
        }
    }
}

/// Stages the secrets of a phase, and reads their names back.
async fn stage(app: &str, phase: Phase, site: &Site, held: &mut Held) -> Result<(), Failure> {
    let service = site.service(app).ok_or_else(|| Failure::bug(format!("app {app} has no service")))?;
    let instances =
        site.fly.machines(app).await?.into_iter().map(|machine| (machine.id, machine.instance_id)).collect();
    // Recorded before the secrets are staged: a machine that restarts from here on has them.
    let record = held.record.apps.entry(app.to_owned()).or_default();
    record.staged_at.insert(phase, instances);
    for file in service.files.iter().filter(|file| file.phase == phase) {
        record.secrets.remove(&file.secret);
    }
    held.save()?;
    site.fly.stage(app, &service.stream(&[phase])).await?;
    let listed = site.fly.secrets(app).await?;
    let record = held.record.apps.entry(app.to_owned()).or_default();
    for file in service.files.iter().filter(|file| file.phase == phase) {
        let Some(secret) = listed.get(&file.secret) else {
            let cause = format!("app {app}: secret {} is missing after `fly secrets import`", file.secret);
            return Err(Failure::failing(cause).next(format!("fly secrets list -a {app}; then run the command again")));
        };
        let sent = Sent { sha256: file.sha256(), digest: secret.digest.clone() };
        record.secrets.insert(file.secret.clone(), sent);
    }
    held.save()
}

/// The end if a step that was taken is needed again.
fn repeated(apps: &[App], step: &Step) -> Stop {
    let lack = match step {
        Step::Stage(name, phase) | Step::Deploy(name, phase) => {
            apps.iter().find(|app| app.name == *name).and_then(|app| Some((name, app.lacks(*phase)?)))
        }
        Step::Unset(..) => None,
    };
    match lack {
        Some((app, lack)) => lack.stop(app),
        None => Stop {
            exit: Exit::Failing,
            cause: format!("the step has no effect: {step}"),
            next: "fly secrets list; then run the command again".to_owned(),
        },
    }
}

pub(super) fn failure(stop: Stop) -> Failure {
    let cause = format!("{}. No certificate in use has lost its trust", stop.cause);
    let failure = match stop.exit {
        Exit::Unknown => Failure::unknown(cause),
        Exit::Usage => Failure::usage(cause),
        _ => Failure::failing(cause),
    };
    failure.next(stop.next)
}

const POLL: Duration = Duration::from_secs(1);
