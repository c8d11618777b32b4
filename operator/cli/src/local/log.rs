//! The log of the engine, on stderr.

use std::io::IsTerminal as _;

use gaia_api::logging::LogFilter;
use tracing_subscriber::filter::{EnvFilter, FilterFn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::Failure;

/// Starts the log. Lines of client libraries can hold private keys; they are not written, whatever the filter is.
pub(super) fn start(filter: &str) -> Result<(), Failure> {
    let LogFilter { directives, .. } = LogFilter::of(filter);
    let parsed = EnvFilter::try_new(directives);
    let parsed = parsed.map_err(|_| Failure::usage(format!("--log: {filter:?} is not a tracing filter")))?;
    let own = FilterFn::new(|metadata| LogFilter::is_loggable(metadata.target()));
    let is_terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(is_terminal).with_target(false);
    // A second command of one process, in tests, keeps the first log.
    let _ = tracing_subscriber::registry().with(lines.with_filter(parsed).with_filter(own)).try_init();
    Ok(())
}
