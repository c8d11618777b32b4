//! Observer of all decisions, which feeds the metrics and the audit log.

use std::sync::Arc;
use std::thread;

use gaia_auth::audit::{self, AuditQueue};
use gaia_auth::{Decision, Observer};

use crate::observability::metrics::Metrics;
use crate::panics::essential_thread;

/// Counts and audits a decision.
pub(crate) struct AuditObserver {
    metrics: Arc<Metrics>,
    audit: Arc<AuditQueue>,
}

impl AuditObserver {
    /// Creates an observer with its audit thread, and the queue in front of it.
    pub(crate) fn new(metrics: Arc<Metrics>) -> std::io::Result<(Self, Arc<AuditQueue>)> {
        let (queue, writer) = audit::queue();
        // The thread ends when the queue is closed.
        drop(thread::Builder::new().name("audit".to_owned()).spawn(move || {
            essential_thread();
            writer.run();
        })?);
        let queue = Arc::new(queue);
        Ok((Self { metrics, audit: Arc::clone(&queue) }, queue))
    }
}

impl Observer for AuditObserver {
    fn decided(&self, decision: &Decision<'_>) {
        self.metrics.decided(decision);
        if self.audit.put(decision).is_err() {
            self.metrics.audit_dropped();
        }
    }

    fn key_used(&self, key_id: &str) {
        self.metrics.key_used(key_id);
    }
}

#[cfg(test)]
mod tests {

    use gaia_api::mount::AuthMode;
    use gaia_api::{Clock as _, SystemClock};
    use gaia_auth::audit::Record;
    use gaia_auth::{Credential, Reason, Trace, Transport};
    use jiff::SignedDuration;
    use serde_json::Value;

    use super::*;
    use crate::observability::audit_log::tests::written;

    fn decision(trace: &Trace) -> Decision<'_> {
        Decision {
            route: "/assets",
            transport: Transport::Plain,
            mode: Some(AuthMode::Dual),
            credential: Credential::ServiceToken,
            principal: None,
            refused: Some(Reason::PeerMissing),
            trace,
            peer: None,
            key_id: None,
            would_deny: None,
            would_pass: None,
            request_id: Some("r-1"),
            address: Some("::ffff:192.0.2.7".parse().unwrap()),
            time: SystemClock.now(),
            took: SignedDuration::ZERO,
        }
    }

    #[test]
    fn a_line_says_who_how_and_what_became_of_it() {
        let trace = Trace { kid: Some("k1".into()), jti: Some("j1".into()), ..Trace::default() };
        let writes = written(|| Record::from(&decision(&trace)).write());
        let line: Value = serde_json::from_str(&writes.concat()).unwrap();
        for (name, value) in [
            ("target", "gaia.audit"),
            ("event", "request"),
            ("result", "refused"),
            ("reason", "peer_missing"),
            ("how", "plain"),
            ("credential", "service_token"),
            ("mode", "Dual"),
            ("kid", "k1"),
            ("jti", "j1"),
            ("route", "/assets"),
            ("request_id", "r-1"),
            ("address", "192.0.2.7"),
        ] {
            assert_eq!(line[name], value, "{line}");
        }
        assert_eq!(line.get("who"), None, "no identity: {line}");
    }

    #[test]
    fn lines_that_come_together_are_written_together_and_none_waits_for_another() {
        let trace = |number: usize| Trace { jti: Some(number.to_string().into()), ..Trace::default() };
        let (queue, writer) = audit::queue();
        (0..100).for_each(|number| queue.put(&decision(&trace(number))).unwrap());
        drop(queue);
        let writes = written(|| writer.run());
        assert_eq!(writes.len(), 1, "{} writes", writes.len());
        let text = writes.concat();
        let jtis: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["jti"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(jtis, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
        let alone = written(|| Record::from(&decision(&trace(0))).write());
        assert_eq!(alone.len(), 1, "the last line of a thread is written at once");
    }
}
