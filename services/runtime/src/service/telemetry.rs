//! Logging to standard output.

use std::io::IsTerminal as _;

use gaia_api::logging::LogFilter;
use tracing_subscriber::filter::{EnvFilter, FilterFn, ParseError};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Layer as _, Registry};

use crate::config::{LogFormat, RuntimeConfig};

pub use crate::observability::audit_log::audit_log;
use gaia_auth::audit::AUDIT_TARGET;

/// Reason why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is invalid.
    #[error("GAIA_LOG (--log) is not a tracing filter: {0}")]
    Filter(#[from] ParseError),
    /// A subscriber is already set.
    #[error("logging is already set up: {0}")]
    Twice(#[from] TryInitError),
}

/// Sets up logging of this process.
///
/// # Errors
/// [`TelemetryError`] if the filter is invalid or logging is already set up.
pub fn start(config: &RuntimeConfig) -> Result<(), TelemetryError> {
    let LogFilter { directives, ignored } = LogFilter::of(&config.log);
    let filter = EnvFilter::builder().parse(directives)?;
    let lines = match config.log_format {
        LogFormat::Json => tracing_subscriber::fmt::layer().json().flatten_event(true).boxed(),
        LogFormat::Text => tracing_subscriber::fmt::layer().with_ansi(std::io::stdout().is_terminal()).boxed(),
    };
    // Lines of client libraries can contain keys and tokens, so they are never written, whatever the filter says.
    let own = |target: &str| LogFilter::is_loggable(target) && target != AUDIT_TARGET;
    let lines = lines.with_filter(filter).with_filter(FilterFn::new(move |metadata| own(metadata.target())));
    Registry::default().with(lines).with(audit_log(std::io::stdout())).try_init()?;
    for directive in ignored {
        tracing::warn!(directive, "GAIA_LOG: only targets gaia_* can be logged; this directive has no effect");
    }
    Ok(())
}
