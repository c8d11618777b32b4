//! The audit line of a handshake that failed, or that ended without a verified peer although a certificate was
//! presented.

use std::net::IpAddr;

use jiff::Timestamp;

use super::{AuditQueue, Dropped, Entry, Origin};
use crate::audit_line;

/// The side that ended a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// This service.
    Local,
    /// The remote side.
    Peer,
}

impl By {
    /// Returns the value used in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Peer => "peer",
        }
    }
}

/// The fields of one audit line for a handshake. None of them is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedHandshake {
    /// Time of the failure.
    pub time: Timestamp,
    /// The listener: `mesh` or `ingress`.
    pub listener: &'static str,
    /// `failed`, or `unverified`: the connection continues without a peer identity.
    pub result: &'static str,
    /// The side that ended it.
    pub by: By,
    /// The reason, from a fixed set.
    pub reason: &'static str,
    /// The unverified name in the presented certificate.
    pub presented: Option<String>,
    /// The source address.
    pub address: IpAddr,
    /// Number of skipped lines of this source before this one; set by [`AuditQueue::put_handshake`].
    pub skipped: u64,
}

impl FailedHandshake {
    pub(super) fn write(&self) {
        audit_line!(
            Origin::of_connection(self.address),
            event = "tls_handshake",
            time = %self.time,
            result = self.result,
            by = self.by.as_str(),
            reason = self.reason,
            listener = self.listener,
            presented_unverified = self.presented,
            skipped = (self.skipped > 0).then_some(self.skipped),
        );
    }
}

impl AuditQueue {
    /// Puts a failed handshake into the queue without blocking, if it is in the sample of its source. Returns the entry
    /// that will be written.
    ///
    /// # Errors
    /// [`Dropped`] if the queue is full.
    pub fn put_handshake(&self, mut failed: FailedHandshake) -> Result<Option<FailedHandshake>, Dropped> {
        let sampled = self.handshakes().admit(Some(failed.address), failed.time);
        let Some(skipped) = sampled else { return Ok(None) };
        failed.skipped = skipped;
        self.sender.try_send(Entry::Handshake(Box::new(failed.clone()))).map_err(|_| Dropped)?;
        Ok(Some(failed))
    }
}
