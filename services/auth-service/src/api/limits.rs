//! Rate limits of issued tokens. Requests are charged to the requester: the subject, then the client's address. A peer
//! that forwards requests of others has a separate, much higher limit.

use std::net::IpAddr;
use std::num::NonZeroU32;

use gaia_auth::{Connection, PeerIdentity};
use gaia_runtime::rate::Limit;

use crate::denial::Denial;

/// The limits of both token endpoints.
#[derive(Debug)]
pub(crate) struct TokenLimits {
    /// Service tokens, by peer and its address.
    callers: Limit,
    /// Delegated tokens, by subject.
    subjects: Limit,
    /// Delegated tokens, by the client's address as reported by the peer.
    clients: Limit,
    /// Refused exchanges, by the client's address: they have no verified subject.
    refusals: Limit,
    /// All delegated tokens of a peer, by peer and its address.
    forwarders: Limit,
}

impl Default for TokenLimits {
    fn default() -> Self {
        Self {
            callers: Limit::new(number(20), number(100)),
            subjects: Limit::new(number(20), number(100)),
            clients: Limit::new(number(500), number(5000)),
            refusals: Limit::new(number(5), number(50)),
            forwarders: Limit::new(number(5000), number(20_000)),
        }
    }
}

impl TokenLimits {
    /// Charges a service token to the requesting peer.
    pub(super) fn check_caller(&self, peer: &PeerIdentity, connection: &Connection) -> Result<(), Denial> {
        self.callers.check(&(&peer.spiffe_id, connection.address)).map_err(Denial::TooMany)
    }

    /// Charges a delegated token to its subject, the client and the peer. Exceeding a limit charges none of the
    /// following ones.
    pub(super) fn check_exchange(
        &self,
        subject: &str,
        peer: &PeerIdentity,
        client: Option<IpAddr>,
        connection: &Connection,
    ) -> Result<(), Denial> {
        self.subjects.check(&subject).map_err(Denial::TooMany)?;
        if let Some(client) = client {
            self.clients.check(&(&peer.spiffe_id, client)).map_err(Denial::TooMany)?;
        }
        self.forwarders.check(&(&peer.spiffe_id, connection.address)).map_err(Denial::TooMany)
    }

    /// Charges a refused exchange to the client only.
    pub(super) fn check_refused(
        &self,
        peer: &PeerIdentity,
        client: Option<IpAddr>,
        connection: &Connection,
    ) -> Result<(), Denial> {
        self.refusals.check(&(&peer.spiffe_id, client, connection.address)).map_err(Denial::TooMany)
    }
}

const fn number(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}
