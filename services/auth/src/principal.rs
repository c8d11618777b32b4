//! Who is asking: the result of authentication, and the peer it is bound to.

use std::collections::BTreeSet;
use std::fmt;

use gaia_api::SpiffeId;
use jiff::Timestamp;

/// Someone who acts or for whom something is done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A workload of the trust domain.
    Service(SpiffeId),
    /// The holder of an API key that no workload owns, by the id of its record.
    Key(String),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(id) => id.fmt(f),
            Self::Key(id) => write!(f, "key:{id}"),
        }
    }
}

/// What a principal may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scopes {
    /// Nothing was listed, so everything the service offers.
    All,
    /// These and no more.
    Only(BTreeSet<String>),
}

impl Scopes {
    /// From a list in which nothing means everything, as policies, grants and key records have it.
    #[must_use]
    pub fn from_list(list: &[String]) -> Self {
        if list.is_empty() { Self::All } else { Self::Only(list.iter().cloned().collect()) }
    }

    /// Whether `scope` is among them.
    #[must_use]
    pub fn allow(&self, scope: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(scopes) => scopes.contains(scope),
        }
    }

    /// What both allow.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::All, scopes) | (scopes, Self::All) => scopes.clone(),
            (Self::Only(a), Self::Only(b)) => Self::Only(a.intersection(b).cloned().collect()),
        }
    }
}

/// The one result of authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// For whom the request is.
    pub subject: Identity,
    /// Who is on the wire: the mTLS peer, else the owner of the API key.
    pub actor: Identity,
    /// What it may do.
    pub scopes: Scopes,
    /// What it was told by.
    pub credential: Credential,
}

/// The kind of credential that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Credential {
    /// None was presented.
    None,
    /// A service token.
    ServiceToken,
    /// An API key.
    ApiKey,
    /// The client certificate alone.
    Peer,
}

impl Credential {
    /// The text used as a metric label and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ServiceToken => "service_token",
            Self::ApiKey => "api_key",
            Self::Peer => "peer",
        }
    }
}

/// Who is at the other end of an mTLS connection. Made by a listener that has verified the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The SPIFFE id in the leaf.
    pub spiffe_id: SpiffeId,
    /// Lower-case hex SHA-256 of the leaf's DER.
    pub fingerprint: String,
    /// The leaf's serial number, lower-case hex.
    pub serial: String,
    /// When the leaf ends.
    pub not_after: Timestamp,
}

/// How a request came in. A listener puts one into the extensions of each request; without one, nothing is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connection {
    /// The transport.
    pub transport: Transport,
    /// The verified peer, on mTLS only.
    pub peer: Option<PeerIdentity>,
}

/// The transport of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Not encrypted.
    #[default]
    Plain,
    /// TLS without a client certificate.
    Tls,
    /// TLS with a client certificate.
    Mtls,
}

impl Transport {
    /// The text used as a metric label and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
            Self::Mtls => "mtls",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(scopes: &[&str]) -> Scopes {
        Scopes::Only(scopes.iter().map(|&s| s.to_owned()).collect())
    }

    #[test]
    fn two_limits_together_allow_what_both_allow() {
        assert_eq!(Scopes::All.and(&only(&["a"])), only(&["a"]));
        assert_eq!(only(&["a", "b"]).and(&Scopes::All), only(&["a", "b"]));
        assert_eq!(only(&["a", "b"]).and(&only(&["b", "c"])), only(&["b"]));
        assert!(!only(&["a"]).and(&only(&["b"])).allow("a"), "an empty intersection is nothing, not everything");
    }

    #[test]
    fn an_empty_list_means_everything() {
        assert_eq!(Scopes::from_list(&[]), Scopes::All);
        assert_eq!(Scopes::from_list(&["a".to_owned()]), only(&["a"]));
    }
}
