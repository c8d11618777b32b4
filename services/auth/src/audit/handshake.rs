//! The audit line of a handshake that failed, or that ended without a peer though a certificate was presented.

use std::net::IpAddr;

use jiff::Timestamp;

use super::{AUDIT_TARGET, AuditQueue, Dropped, Entry};

/// The side that ended a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// This service.
    Local,
    /// The other side.
    Peer,
}

impl By {
    /// As in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Peer => "peer",
        }
    }
}

/// What one line says of a handshake. Nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedHandshake {
    /// When it failed.
    pub time: Timestamp,
    /// The listener: `mesh` or `ingress`.
    pub listener: &'static str,
    /// `failed`, or `unverified`: the connection goes on without a peer.
    pub result: &'static str,
    /// The side that ended it.
    pub by: By,
    /// Bounded.
    pub reason: &'static str,
    /// The name in the certificate that was presented, which nothing vouches for.
    pub presented: Option<String>,
    /// The source address.
    pub address: IpAddr,
    /// Lines of this source that were left out before this one; [`AuditQueue::put_handshake`] sets it.
    pub skipped: u64,
}

impl FailedHandshake {
    pub(super) fn write(&self) {
        tracing::info!(
            target: AUDIT_TARGET,
            event = "tls_handshake",
            time = %self.time,
            result = self.result,
            by = self.by.as_str(),
            reason = self.reason,
            listener = self.listener,
            presented_unverified = self.presented,
            address = %self.address.to_canonical(),
            skipped = (self.skipped > 0).then_some(self.skipped),
        );
    }
}

impl AuditQueue {
    /// Puts a handshake that failed into the queue, without waiting, if it is in the sample of its source. Returns what is
    /// written.
    ///
    /// # Errors
    /// [`Dropped`] if there is no room.
    pub fn put_handshake(&self, mut failed: FailedHandshake) -> Result<Option<FailedHandshake>, Dropped> {
        let sampled = self.handshakes().admit(Some(failed.address), failed.time);
        let Some(skipped) = sampled else { return Ok(None) };
        failed.skipped = skipped;
        self.sender.try_send(Entry::Handshake(Box::new(failed.clone()))).map_err(|_| Dropped)?;
        Ok(Some(failed))
    }
}
