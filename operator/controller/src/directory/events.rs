//! Events of a directory: a log line each, and one line of JSON for a program of the user.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use gaia_api::Clock;
use tokio::io::AsyncWriteExt as _;

use crate::observability::events::{Notice, Sink};

/// See the module.
pub(crate) struct LocalEvents {
    program: Option<PathBuf>,
    clock: Arc<dyn Clock>,
}

impl LocalEvents {
    pub(crate) fn new(program: Option<PathBuf>, clock: Arc<dyn Clock>) -> Self {
        Self { program, clock }
    }
}

impl Sink for LocalEvents {
    async fn send(&self, notice: &Notice) -> Result<(), String> {
        let Notice { about, warning, reason, message } = notice;
        let kind = about.kind.as_deref().unwrap_or_default();
        let (namespace, name) = (about.namespace.as_deref(), about.name.as_deref().unwrap_or_default());
        if *warning {
            tracing::warn!(kind, namespace, name, reason, message, "event");
        } else {
            tracing::info!(kind, namespace, name, reason, message, "event");
        }
        let Some(program) = &self.program else { return Ok(()) };
        let event = serde_json::json!({
            "schemaVersion": 1,
            "time": self.clock.now().to_string(),
            "type": if *warning { "Warning" } else { "Normal" },
            "reason": reason,
            "message": message,
            "kind": kind,
            "namespace": namespace,
            "name": name,
        });
        let told = tokio::time::timeout(PATIENCE, tell(program, format!("{event}\n")));
        let named = |why: String| format!("--on-event {}: {why}", program.display());
        match told.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(named(why)),
            Err(_) => Err(named(format!("no end within {} s", PATIENCE.as_secs()))),
        }
    }
}

/// Runs the program without a shell and without this process's environment, apart from its search path.
async fn tell(program: &PathBuf, line: String) -> Result<(), String> {
    let mut command = tokio::process::Command::new(program);
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    let mut child = command.spawn().map_err(|error| format!("cannot start it: {error}"))?;
    if let Some(mut input) = child.stdin.take() {
        // A program that reads nothing has still got its event.
        let _ = input.write_all(line.as_bytes()).await;
    }
    let status = child.wait().await.map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("it ended with {status}")) }
}

const PATIENCE: Duration = Duration::from_secs(10);
