//! Records of audit lines.

use std::io::{self, Write};
use std::sync::{Arc, LazyLock, Mutex};

use tracing::Dispatch;
use tracing::subscriber::{DefaultGuard, Subscriber};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::observability::audit_log::audit_log;

/// A writer whose clones share one buffer.
#[derive(Debug, Clone, Default)]
pub struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    /// Returns the text written so far.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes `subscriber` this thread's own until the guard is dropped.
///
/// While a process has one dispatcher, a callsite that another thread meets first takes its interest from that thread's
/// subscriber, which is none, and stays off. A second dispatcher makes each callsite ask all of them.
pub(crate) fn set_recorder(subscriber: impl Subscriber + Send + Sync + 'static) -> DefaultGuard {
    static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(tracing_subscriber::registry()));
    LazyLock::force(&SECOND);
    tracing::subscriber::set_default(subscriber)
}

/// Returns the audit lines that this thread writes during `what`.
pub fn audit_lines(what: impl FnOnce()) -> Vec<serde_json::Value> {
    let lines = AuditLines::record();
    what();
    lines.written()
}

/// The audit lines that this thread writes until it is dropped, those of tasks on a single-threaded runtime included.
#[derive(Debug)]
pub struct AuditLines {
    written: Written,
    _guard: DefaultGuard,
}

impl AuditLines {
    /// Records from now on.
    #[must_use]
    pub fn record() -> Self {
        let written = Written::default();
        let subscriber = tracing_subscriber::registry().with(audit_log(written.clone()));
        Self { written, _guard: set_recorder(subscriber) }
    }

    /// Returns the lines written so far.
    #[must_use]
    pub fn written(&self) -> Vec<serde_json::Value> {
        self.written.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
