//! Output of audit lines: JSON, one complete line each, several in one write if they arrive together.

use std::fmt;
use std::io::Write;
use std::sync::Mutex;

use gaia_api::sync::lock;
use gaia_api::{Clock as _, SystemClock};
use gaia_auth::audit::{AUDIT_TARGET, more_follow};
use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, LevelFilter};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Returns the subscriber layer that writes audit lines, and no other events, to `to`, which should not buffer. A line
/// has the format of other JSON log lines, so that one program can parse both.
pub fn audit_log<S>(to: impl Write + Send + 'static) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let is_audit = FilterFn::new(|metadata| metadata.target() == AUDIT_TARGET);
    let log = AuditLog { log: Mutex::new(Log { to, waiting: Vec::new() }) };
    log.with_filter(is_audit.with_max_level_hint(LevelFilter::INFO))
}

struct AuditLog<W> {
    log: Mutex<Log<W>>,
}

struct Log<W> {
    to: W,
    /// Complete lines that are not written yet.
    waiting: Vec<u8>,
}

impl<S: Subscriber, W: Write + Send + 'static> Layer<S> for AuditLog<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields { line: Vec::with_capacity(USUAL_LINE_BYTES) };
        // Writing to a Vec cannot fail.
        let _ =
            write!(fields.line, r#"{{"timestamp":"{:.6}","level":"{}""#, SystemClock.now(), event.metadata().level());
        event.record(&mut fields);
        fields.put("target", AUDIT_TARGET);
        fields.line.extend_from_slice(b"}\n");
        // The buffer contains complete lines only.
        let mut log = lock(&self.log);
        log.waiting.append(&mut fields.line);
        if !more_follow() || log.waiting.len() >= MAX_WAITING_BYTES {
            log.write();
        }
    }
}

impl<W: Write> Log<W> {
    fn write(&mut self) {
        // A failed write cannot be reported anywhere, and requests do not depend on it.
        let _ = self.to.write_all(&self.waiting).and_then(|()| self.to.flush());
        self.waiting.clear();
    }
}

/// Appends the fields of one event to its line.
struct Fields {
    line: Vec<u8>,
}

impl Fields {
    fn put<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        self.line.push(b',');
        self.put_json(name);
        self.line.push(b':');
        self.put_json(value);
    }

    /// Values without a JSON form become `null`, so that the line is written in any case.
    fn put_json<T: Serialize + ?Sized>(&mut self, value: &T) {
        let start = self.line.len();
        if serde_json::to_writer(&mut self.line, value).is_err() {
            self.line.truncate(start);
            self.line.extend_from_slice(b"null");
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), &value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), &value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), &value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), &value);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), &format_args!("{value:?}"));
    }
}

const USUAL_LINE_BYTES: usize = 512;
/// Size from which the buffer is written without waiting for more lines.
const MAX_WAITING_BYTES: usize = 64 * 1024;

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Writes(Arc<Mutex<Vec<String>>>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().push(String::from_utf8(bytes.to_vec()).unwrap());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Returns the audit lines written during `what`, one string per write.
    pub(crate) fn written(what: impl FnOnce()) -> Vec<String> {
        let writes = Writes::default();
        let log = audit_log(writes.clone());
        let _recorder = crate::testing::set_recorder(tracing_subscriber::registry().with(log));
        what();
        writes.0.lock().unwrap().clone()
    }

    #[test]
    fn each_kind_of_value_has_its_form_and_no_text_breaks_a_line() {
        let hostile = "\"}\n{\"who\":\"admin\"";
        let writes = written(|| {
            tracing::info!(
                target: AUDIT_TARGET,
                who = hostile,
                at = %hostile,
                expires = -1_i64,
                skipped = 2_u64,
                is = true,
                share = 0.5,
                nothing = None::<&str>,
            );
            tracing::info!("no audit line");
        });
        let [line] = writes.as_slice() else { panic!("{writes:?}") };
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        let mut line: Value = serde_json::from_str(line).unwrap();
        let time = line.as_object_mut().unwrap().remove("timestamp").unwrap();
        assert!(time.as_str().is_some_and(|time| time.parse::<jiff::Timestamp>().is_ok()), "{time}");
        let expected = json!({
            "level": "INFO", "target": AUDIT_TARGET, "who": hostile, "at": hostile,
            "expires": -1, "skipped": 2, "is": true, "share": 0.5,
        });
        assert_eq!(line, expected);
    }
}
