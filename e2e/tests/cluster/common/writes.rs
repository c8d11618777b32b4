//! The operator's writes, from the API server's audit log.

use std::time::Duration;

use gaia_e2e::AuditRecord;
use gaia_e2e::audit::AuditMark;
use tokio::time::Instant;

use super::{OPERATOR, Scene};

impl Scene {
    /// The present end of the audit log.
    pub async fn mark(&self) -> AuditMark {
        self.plane.audit().settle(&self.client).await.unwrap()
    }

    /// The operator's writes about this scene since then, the lease apart.
    pub async fn writes_now(&self, since: AuditMark) -> Vec<AuditRecord> {
        self.plane.audit().settle(&self.client).await.unwrap();
        let mut writes = self.plane.audit().writes_by(OPERATOR, since).unwrap();
        writes.retain(|write| write.resource != "leases" && self.is_about(write));
        writes
    }

    /// As [`Self::writes_now`], once nothing has been added for some time; as `verb resource name`, sorted. Failed ones
    /// have their status appended, and Events the name of their object.
    pub async fn writes(&self, since: AuditMark) -> Vec<String> {
        let mut seen = self.writes_now(since).await;
        // A number of polls, not time: a machine that is paused writes nothing.
        let mut quiet_looks = 0;
        while quiet_looks < QUIET_LOOKS {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = self.writes_now(since).await;
            quiet_looks = if now.len() == seen.len() { quiet_looks + 1 } else { 0 };
            seen = now;
        }
        let mut writes: Vec<String> = seen.iter().map(|write| self.describe(write)).collect();
        writes.sort();
        writes
    }

    /// The operator writes exactly this about the scene. It may be delayed: Events wait for
    /// those about other scenes.
    pub async fn wrote(&self, since: AuditMark, wanted: &[&str]) {
        self.wrote_but(since, wanted, |_| false).await;
    }

    /// As [`Self::wrote`], where some writes are optional.
    pub async fn wrote_but(&self, since: AuditMark, wanted: &[&str], but: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + EVENTS;
        loop {
            let mut writes = self.writes(since).await;
            writes.retain(|write| !but(write));
            let late = wanted.iter().any(|wanted| !writes.contains(&(*wanted).to_owned()));
            if !late || Instant::now() > deadline {
                assert_eq!(writes, wanted, "all that the operator writes");
                return;
            }
        }
    }

    fn is_about(&self, write: &AuditRecord) -> bool {
        write.namespace == self.namespace || write.name.starts_with(&self.domain)
    }

    /// `verb resource name`; the scene's TrustDomain is `td`.
    pub fn describe(&self, write: &AuditRecord) -> String {
        // A request that is refused before it is parsed has no name.
        let cut = write.name.rsplit_once('.').filter(|_| write.resource == "events");
        let name = cut.map_or(write.name.as_str(), |(about, _)| about);
        let name = name.replace(&self.domain, "td");
        let slash = if write.subresource.is_empty() { "" } else { "/" };
        let failed = if write.succeeded() { String::new() } else { format!(" -> {}", write.code) };
        format!("{} {}{slash}{} {name}{failed}", write.verb, write.resource, write.subresource)
    }
}

/// Events are sent in the background, statuses after the objects: both within far fewer polls, at ten a second.
const QUIET_LOOKS: u32 = 15;
const EVENTS: Duration = Duration::from_secs(15);
