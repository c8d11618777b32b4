//! Client certificates as presented in a handshake, and the verdicts on them.

use std::future::Future;
use std::sync::{Arc, Mutex};

use gaia_api::sync::lock;
use gaia_pki::Certificate;

use crate::credentials::peer::Seen;

/// The result of verifying a client certificate. rustls keeps the certificate but not the result.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    /// The certificate of a peer.
    Peer(Arc<Seen>),
    /// It proves nothing.
    NoPeer {
        /// Bounded, for labels.
        reason: &'static str,
        /// The first name in the certificate, unverified.
        presented: Option<String>,
    },
}

/// The client certificate of one handshake; none unless one was presented.
#[derive(Debug, Clone, Default)]
pub(crate) struct Presented(Arc<Mutex<Option<Verdict>>>);

tokio::task_local! {
    static PRESENTED: Presented;
}

impl Presented {
    /// Stores the result for the handshake of the current task. rustls calls its verifiers while that handshake is
    /// polled.
    ///
    /// # Errors
    /// The result, outside of a handshake.
    pub(crate) fn note(verdict: Verdict) -> Result<(), Verdict> {
        let noted = PRESENTED.try_with(Clone::clone);
        let Ok(presented) = noted else { return Err(verdict) };
        *lock(&presented.0) = Some(verdict);
        Ok(())
    }

    /// Returns true if the certificate in the handshake of the current task does not verify.
    pub(crate) fn is_no_peer() -> bool {
        PRESENTED.try_with(Self::verdict).is_ok_and(|verdict| matches!(verdict, Some(Verdict::NoPeer { .. })))
    }

    /// Returns the result; none if no certificate was presented.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        lock(&self.0).clone()
    }

    /// Runs a handshake whose verifiers note their verdicts here.
    pub(crate) fn scope<F: Future>(self, handshake: F) -> impl Future<Output = F::Output> {
        PRESENTED.scope(self, handshake)
    }

    /// The name that the client presented, which nothing vouches for unless it is a peer.
    pub(crate) fn unverified(&self) -> Option<String> {
        match self.verdict()? {
            Verdict::NoPeer { presented, .. } => presented,
            Verdict::Peer(seen) => Some(seen.identity.as_ref()?.spiffe_id.to_string()),
        }
    }
}

/// Returns the first name in a certificate: a URI, otherwise a DNS name, otherwise the subject.
pub(crate) fn presented_name(der: &[u8]) -> Option<String> {
    let certificate = Certificate::from_der(der).ok()?;
    let name = certificate.uris().first().or_else(|| certificate.dns_names().first()).cloned();
    let name = name.unwrap_or_else(|| certificate.subject());
    Some(name.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect())
}

const LONGEST_NAME: usize = 256;
