//! `gaia local up`: the whole platform on this machine, without containers and without a cluster.
//!
//! The engine runs in this process. The services are children that run this executable under their own names; the
//! stand-ins for the servers outside the platform are another executable.

mod back_off;
mod children;
mod data;
mod ports;
mod programs;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use gaia_operator::directory::{self, Directory, Engine, EngineSettings, Environment, InitOptions};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use self::children::Children;
use self::programs::{Layout, MAX_OFFSET, Provider};
use self::report::Platform;
use crate::cli::Context;
use crate::local::{failure, log, settings};
use crate::verbs::probe;
use crate::{Exit, Failure, output};

/// Arguments of `gaia local up`.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// The directory of assets and of session keys; it is created if it is missing.
    #[arg(long, value_name = "DIR", default_value = "gaia-data")]
    data: PathBuf,
    /// Run the services that are executables in DIR, in place of those in this executable.
    #[arg(long, value_name = "DIR")]
    services: Option<PathBuf>,
    /// The environment. Staging and production need real servers for login and chat.
    #[arg(long, value_name = "ENVIRONMENT")]
    environment: Option<Environment>,
    /// URL of a Supabase project for login, in place of the stand-in.
    #[arg(long, value_name = "URL", value_parser = outside_url)]
    supabase_url: Option<String>,
    /// File with the API key of that project.
    #[arg(long, value_name = "FILE", requires = "supabase_url")]
    supabase_key_file: Option<PathBuf>,
    /// URL of a provider of chat completions with its /v1, in place of the stand-in.
    #[arg(long, value_name = "URL")]
    provider_url: Option<String>,
    /// File with the provider's key.
    #[arg(long, value_name = "FILE", requires = "provider_url")]
    provider_key_file: Option<PathBuf>,
    /// Default model of the provider.
    #[arg(long, value_name = "MODEL", requires = "provider_url")]
    provider_model: Option<String>,
    /// Added to each port, for a second platform on this machine.
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=i64::from(MAX_OFFSET)))]
    port_offset: u16,
}

fn outside_url(text: &str) -> Result<String, String> {
    match text.parse() {
        Ok(uri) if gaia_runtime::is_outside_address(&uri) => Ok(text.to_owned()),
        _ => Err("must be an https URL, or http on loopback".to_owned()),
    }
}

/// Runs the platform until SIGTERM or Ctrl-C.
pub(crate) async fn run(args: &UpArgs, context: &mut Context) -> Result<Exit, Failure> {
    let start = Instant::now();
    log::start("warn")?;
    let layout = layout(args, &context.dir())?;
    ports::check(&layout.ports())?;
    let stop = stop_signal()?;
    data::prepare(&layout.data)?;
    let mut settings = settings(context);
    let address = |port: &ports::Port| vec![port.address.to_string()];
    settings.endpoints = layout.mesh().iter().map(|(name, port)| ((*name).to_owned(), address(port))).collect();
    initialise(args, &layout, settings.clone()).await?;
    copy_issuer_key(args, &layout)?;
    if args.supabase_url.is_some() || !has_own_login(&layout.dir)? {
        settings.user_token_issuers = Some(vec![issuer(args, &layout)]);
    } else if layout.has_login {
        let why = "gaia.yaml names a login server: its accounts sign in, not those of the stand-in";
        context.console.progress(why);
    }
    let mut engine = Engine::start(&layout.dir, settings).await.map_err(|error| failure(&error))?;
    let mut children = Children::start(layout.programs())?;
    let ended = tokio::select! {
        ended = serve(&layout, &mut engine, &mut children, context, start) => ended,
        () = stop => Ok(()),
    };
    context.console.progress("stopping; a second Ctrl-C ends it at once");
    let again = stop_signal()?;
    tokio::select! {
        () = children.stop() => {}
        () = again => drop(children),
    }
    engine.stop().await;
    ended.map(|()| Exit::Done)
}

/// Shows the addresses once all services are ready, and then keeps everything running.
async fn serve(
    layout: &Layout,
    engine: &mut Engine,
    children: &mut Children,
    context: &mut Context,
    start: Instant,
) -> Result<(), Failure> {
    let mut is_shown = false;
    let [mut check, mut beat, mut repair] = [CHECK, BEAT, REPAIR].map(|period| {
        let mut interval = interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    });
    let ready = ready(layout);
    tokio::pin!(ready);
    loop {
        tokio::select! {
            late = &mut ready, if !is_shown => {
                is_shown = true;
                for service in late {
                    context.console.progress(&format!("{service} is not ready {} s after its start", READY_WITHIN.as_secs()));
                }
                let format = context.format();
                output::print(&mut context.console, format, &Platform::of(layout))?;
                context.console.progress(&format!("started in {:.1} s", start.elapsed().as_secs_f64()));
            }
            _ = check.tick() => {
                for line in children.supervise() {
                    context.console.progress(&line);
                }
            }
            _ = beat.tick() => engine.tick().map_err(|error| failure(&error))?,
            _ = repair.tick() => engine.repair(),
        }
    }
}

/// Waits until all services are ready; returns those that are late.
async fn ready(layout: &Layout) -> Vec<&'static str> {
    let end = Instant::now() + READY_WITHIN;
    let mut late: Vec<_> = layout.programs().into_iter().filter_map(|it| Some((it.name, it.admin?.address))).collect();
    while !late.is_empty() && Instant::now() < end {
        let mut still = vec![];
        for (name, address) in late {
            if !probe::ask(address, "/readyz").await.is_ok_and(|(status, _)| status == 200) {
                still.push((name, address));
            }
        }
        late = still;
        sleep(CHECK).await;
    }
    late.into_iter().map(|(name, _)| name).collect()
}

/// Creates or repairs the directory. After any pause this issues what has expired.
async fn initialise(args: &UpArgs, layout: &Layout, engine: EngineSettings) -> Result<(), Failure> {
    let options = InitOptions { environment: args.environment, from: vec![], adopt: false, engine };
    let made = directory::init(&layout.dir, options).await.map_err(|error| failure(&error))?;
    let is_real = |environment: &Environment| made.trust_domain == environment.trust_domain();
    if let Some(environment) = [Environment::Staging, Environment::Production].iter().find(|it| is_real(it)) {
        refuse_stand_ins(*environment, layout)?;
    }
    match made.waiting.first() {
        Some((service, why)) => Err(Failure::failing(format!("{service} has no certificate: {why}"))
            .next(format!("correct {}", layout.dir.join("gaia.yaml").display()))),
        None => Ok(()),
    }
}

fn layout(args: &UpArgs, dir: &Path) -> Result<Layout, Failure> {
    let absolute = |path: &Path| {
        let absolute = std::path::absolute(path);
        absolute.map_err(|error| Failure::usage(format!("cannot use the directory {}: {error}", path.display())))
    };
    let provider = match &args.provider_url {
        None => Provider::StandIn,
        Some(url) => {
            let (key_file, model) = (args.provider_key_file.clone(), args.provider_model.clone());
            Provider::Url { url: url.clone(), key_file, model }
        }
    };
    let mut layout = Layout {
        dir: absolute(dir)?,
        data: absolute(&args.data)?,
        services: args.services.as_deref().map(absolute).transpose()?,
        offset: args.port_offset,
        has_login: args.supabase_url.is_none(),
        stand_ins: None,
        provider,
    };
    if let Some(environment @ (Environment::Staging | Environment::Production)) = args.environment {
        refuse_stand_ins(environment, &layout)?;
    }
    if needs_stand_ins(&layout) {
        layout.stand_ins = Some(programs::find_stand_ins()?);
    }
    Ok(layout)
}

fn needs_stand_ins(layout: &Layout) -> bool {
    layout.has_login || matches!(layout.provider, Provider::StandIn)
}

/// A stand-in accepts anyone, so it has no place in a real environment.
fn refuse_stand_ins(environment: Environment, layout: &Layout) -> Result<(), Failure> {
    if !needs_stand_ins(layout) {
        return Ok(());
    }
    let cause = format!("the environment is {environment}, where login and chat have no stand-ins: they accept anyone");
    Err(Failure::usage(cause).next("name the real servers with --supabase-url and --provider-url"))
}

/// Returns true if `gaia.yaml` names an issuer of user tokens that is no stand-in: not on this machine.
fn has_own_login(dir: &Path) -> Result<bool, Failure> {
    let domains = Directory::open(dir).and_then(|directory| directory.trust_domains());
    let domains = domains.map_err(|error| failure(&error))?;
    Ok(domains.iter().flat_map(|domain| &domain.spec.user_token_issuers).any(|it| it.issuer.starts_with("https://")))
}

/// The login server as the TrustDomain names it.
fn issuer(args: &UpArgs, layout: &Layout) -> Value {
    let base = match &args.supabase_url {
        Some(url) => format!("{}/auth/v1", url.trim_end_matches('/')),
        None => layout.login_url(),
    };
    let jwks_url = format!("{base}/.well-known/jwks.json");
    json!({ "name": ISSUER, "issuer": base, "verification": "JWKS", "jwksURL": jwks_url })
}

/// Copies the project's API key into the directory of auth-service. The engine removes only files of its own.
fn copy_issuer_key(args: &UpArgs, layout: &Layout) -> Result<(), Failure> {
    let file = layout.dir.join("auth-service").join(gaia_api::names::issuer_key(ISSUER));
    let Some(source) = &args.supabase_key_file else { return Ok(()) };
    data::copy_private(source, &file)
}

fn stop_signal() -> Result<impl Future<Output = ()> + Send, Failure> {
    let installed = gaia_runtime::stop_signal();
    installed.map_err(|error| Failure::failing(format!("cannot install the signal handlers: {error}")))
}

/// The short name of the login server.
const ISSUER: &str = "supabase";
const CHECK: Duration = Duration::from_millis(100);
const BEAT: Duration = Duration::from_secs(2);
const REPAIR: Duration = Duration::from_secs(10);
const READY_WITHIN: Duration = Duration::from_secs(30);
