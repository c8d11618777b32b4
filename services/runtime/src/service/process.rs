//! A service as a process, from its arguments to its exit code.

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use gaia_api::{Clock, SystemClock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;

use crate::config::{self, ConfigError, RuntimeConfig};
use crate::panics;
use crate::service::telemetry;

/// Resolves when the process receives SIGTERM, or SIGINT from a terminal.
pub type StopSignal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs a service as a process: reads its configuration from flags and environment, sets up logging, starts it, and
/// serves until shutdown, on a thread for each processor. A service's `main` only calls this function or
/// [`main_on_threads`].
///
/// A fatal error is reported as one line, in the log if it is set up, so that JSON log collectors find it, and without
/// a backtrace whatever `RUST_BACKTRACE` says.
pub fn main<C, S, E>(
    start: impl AsyncFnOnce(C, Arc<dyn Clock>) -> Result<S, E>,
    serve: impl AsyncFnOnce(S, StopSignal),
) -> ExitCode
where
    C: Parser + AsMut<RuntimeConfig>,
    E: std::error::Error,
{
    main_by(&mut Builder::new_multi_thread(), start, serve)
}

/// The same as [`main`] with this number of threads.
pub fn main_on_threads<C, S, E>(
    threads: usize,
    start: impl AsyncFnOnce(C, Arc<dyn Clock>) -> Result<S, E>,
    serve: impl AsyncFnOnce(S, StopSignal),
) -> ExitCode
where
    C: Parser + AsMut<RuntimeConfig>,
    E: std::error::Error,
{
    main_by(Builder::new_multi_thread().worker_threads(threads), start, serve)
}

#[expect(clippy::print_stderr, reason = "logging is not set up yet")]
fn main_by<C, S, E>(
    builder: &mut Builder,
    start: impl AsyncFnOnce(C, Arc<dyn Clock>) -> Result<S, E>,
    serve: impl AsyncFnOnce(S, StopSignal),
) -> ExitCode
where
    C: Parser + AsMut<RuntimeConfig>,
    E: std::error::Error,
{
    let ended = match builder.enable_all().build() {
        Ok(runtime) => runtime.block_on(run(start, serve)),
        Err(error) => Err(format!("failed to start threads: {error}")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if tracing::dispatcher::has_been_set() => {
            tracing::error!(error, "ended");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run<C, S, E>(
    start: impl AsyncFnOnce(C, Arc<dyn Clock>) -> Result<S, E>,
    serve: impl AsyncFnOnce(S, StopSignal),
) -> Result<(), String>
where
    C: Parser + AsMut<RuntimeConfig>,
    E: std::error::Error,
{
    let (mut config, unknown) = match config::read::<C>() {
        // Usage, help and version are printed by clap.
        Err(ConfigError::Arguments(error)) => error.exit(),
        read => read.map_err(|error| error.to_string())?,
    };
    gaia_api::process::forbid_core_dumps().map_err(|error| format!("cannot forbid core dumps: {error}"))?;
    raise_open_files();
    panics::install_hook();
    telemetry::start(config.as_mut()).map_err(|error| error.to_string())?;
    for name in unknown {
        tracing::warn!(name, "unknown variable; it has no effect");
    }
    let stop = stop_signal().map_err(|error| format!("failed to install the signal handlers: {error}"))?;
    let service = start(config, Arc::new(SystemClock)).await.map_err(|error| error.to_string())?;
    serve(service, Box::pin(stop)).await;
    Ok(())
}

/// Raises the soft limit of open files to the hard one: with the usual 1024, connections of one source could use up all
/// descriptors. Without permission the limit stays unchanged.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Returns a future that resolves when the process receives SIGTERM, or SIGINT from a terminal.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
