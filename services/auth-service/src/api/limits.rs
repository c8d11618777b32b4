//! How many tokens there are for whom. A limit is charged to the requester: the subject, then the client's address. The
//! peer that forwards requests of others has one of its own, far above.

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
    /// Delegated tokens, by the client's address, as the peer names it.
    clients: Limit,
    /// Exchanges that are refused, by the client's address: they have no verified subject.
    refusals: Limit,
    /// Delegated tokens of a peer as a whole, by peer and its address.
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
    /// Charges a service token to the peer that asks for it.
    pub(super) fn check_caller(&self, peer: &PeerIdentity, connection: &Connection) -> Result<(), Denial> {
        self.callers.check(&(&peer.spiffe_id, connection.address)).map_err(Denial::TooMany)
    }

    /// Charges a delegated token to its subject, the client and the peer. Whoever exceeds a limit draws on none of the
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

    /// Charges a refused exchange to the client that it came from, and to no other.
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
