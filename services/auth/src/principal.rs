//! Results of authentication: principal, identities, peer and connection.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gaia_api::SpiffeId;
use jiff::Timestamp;

/// An authenticated actor or subject.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A workload of the trust domain.
    Service(SpiffeId),
    /// The holder of an API key without an owner, by the ID of its record.
    Key(String),
    /// A user of an external issuer.
    User {
        /// The issuer's short name in the policy.
        issuer: String,
        /// The `sub` of its tokens.
        sub: String,
    },
}

impl Identity {
    /// Parses the `sub` of a delegated token: `user:<issuer>:<sub>` or `key:<id>`, and nothing else. A workload acts
    /// for itself with a service token.
    #[must_use]
    pub fn parse_delegated(text: &str) -> Option<Self> {
        let is_plain = |text: &str| (1..=MAX_SUBJECT_BYTES).contains(&text.len()) && text.bytes().all(is_subject_byte);
        if let Some(id) = text.strip_prefix("key:") {
            return is_plain(id).then(|| Self::Key(id.to_owned()));
        }
        let (issuer, sub) = text.strip_prefix("user:")?.split_once(':')?;
        let is_label = (1..=63).contains(&issuer.len())
            && issuer.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        (is_label && is_plain(sub)).then(|| Self::User { issuer: issuer.to_owned(), sub: sub.to_owned() })
    }
}

/// Returns true for printable ASCII, the bytes permitted in the name of a user or key: no two names look the same in a
/// log.
pub(crate) fn is_subject_byte(byte: u8) -> bool {
    byte.is_ascii_graphic()
}

/// Maximum length of the name of a user or key.
pub(crate) const MAX_SUBJECT_BYTES: usize = 255;

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(id) => id.fmt(f),
            Self::Key(id) => write!(f, "key:{id}"),
            Self::User { issuer, sub } => write!(f, "user:{issuer}:{sub}"),
        }
    }
}

/// Permissions of a principal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scopes {
    /// No scopes are listed: everything the service offers.
    All,
    /// Exactly these scopes.
    Only(Arc<BTreeSet<String>>),
}

impl Scopes {
    /// Converts a list in which empty means all, as in policies, grants and key records.
    #[must_use]
    pub fn from_list(list: &[String]) -> Self {
        if list.is_empty() { Self::All } else { Self::Only(Arc::new(list.iter().cloned().collect())) }
    }

    /// Returns true if `scope` is permitted.
    #[must_use]
    pub fn allow(&self, scope: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(scopes) => scopes.contains(scope),
        }
    }

    /// Returns the intersection.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::All, scopes) | (scopes, Self::All) => scopes.clone(),
            (Self::Only(a), Self::Only(b)) if a.is_superset(b) => Self::Only(Arc::clone(b)),
            (Self::Only(a), Self::Only(b)) => Self::Only(Arc::new(a.intersection(b).cloned().collect())),
        }
    }
}

/// The result of authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The subject of the request.
    pub subject: Identity,
    /// The caller: the mTLS peer, otherwise the owner of the API key.
    pub actor: Identity,
    /// The permitted scopes.
    pub scopes: Scopes,
    /// The credential that authenticated it.
    pub credential: Credential,
    /// Expiry of the credential; none if it does not expire. A stream must not exceed it.
    pub expires: Option<Timestamp>,
    /// Set for an anonymous user, created by the issuer without sign-in. Only routes that allow them get any.
    pub is_anonymous: bool,
}

impl Principal {
    /// Returns the remaining validity at `now`, zero after expiry; none if the credential does not expire.
    #[must_use]
    pub fn time_left(&self, now: Timestamp) -> Option<Duration> {
        self.expires.map(|end| Duration::try_from(end.duration_since(now)).unwrap_or_default())
    }
}

/// The kind of credential that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Credential {
    /// No credential was presented.
    None,
    /// A service token.
    ServiceToken,
    /// A token of a service that acts on behalf of another subject.
    DelegatedToken,
    /// A token of an external issuer.
    UserToken,
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
            Self::DelegatedToken => "delegated_token",
            Self::UserToken => "user_token",
            Self::ApiKey => "api_key",
            Self::Peer => "peer",
        }
    }
}

/// The peer of an mTLS connection. Created by a listener that has verified the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The SPIFFE ID in the leaf.
    pub spiffe_id: SpiffeId,
    /// Lower-case hex SHA-256 of the leaf's DER.
    pub fingerprint: String,
    /// The leaf's serial number, lower-case hex.
    pub serial: Arc<str>,
    /// Expiry of the leaf.
    pub not_after: Timestamp,
}

/// The connection of a request. The listener puts it into the extensions of each request; without it, nothing is known
/// about the caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connection {
    /// The transport.
    pub transport: Transport,
    /// The verified peer, on mTLS only.
    pub peer: Option<PeerIdentity>,
    /// The peer address.
    pub address: Option<IpAddr>,
    /// The listener that accepted it.
    pub listener: Listener,
}

/// Returns the source that requests of a client are counted by: for IPv6 the /64 network, because one site has more
/// addresses than can be counted.
#[must_use]
pub fn site(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
    }
}

/// A listener of a service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Listener {
    /// The mesh port, whose transports are set by `tls.mode`.
    #[default]
    Mesh,
    /// The ingress listener, for clients outside the mesh.
    Ingress,
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
        Scopes::Only(Arc::new(scopes.iter().map(|&s| s.to_owned()).collect()))
    }

    #[test]
    fn what_is_left_of_a_credential_is_never_less_than_nothing() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let principal = |expires| Principal {
            subject: Identity::Key("a".to_owned()),
            actor: Identity::Key("a".to_owned()),
            scopes: Scopes::All,
            credential: Credential::ApiKey,
            expires,
            is_anonymous: false,
        };
        assert_eq!(principal(Some(at(70))).time_left(at(10)), Some(Duration::from_secs(60)));
        assert_eq!(principal(Some(at(70))).time_left(at(80)), Some(Duration::ZERO));
        assert_eq!(principal(None).time_left(at(10)), None);
    }

    #[test]
    fn two_limits_together_allow_what_both_allow() {
        assert_eq!(Scopes::All.and(&only(&["a"])), only(&["a"]));
        assert_eq!(only(&["a", "b"]).and(&Scopes::All), only(&["a", "b"]));
        assert_eq!(only(&["a", "b"]).and(&only(&["b", "c"])), only(&["b"]));
        assert!(!only(&["a"]).and(&only(&["b"])).allow("a"), "an empty intersection is nothing, not everything");
    }

    #[test]
    fn the_subject_of_a_delegated_token_is_a_user_or_a_key_and_reads_back_the_same() {
        for text in ["user:supabase:3fa8", "user:a:b:c", "key:mobile"] {
            assert_eq!(Identity::parse_delegated(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "user:",
            "user:a",
            "user:a:",
            "user::b",
            "user:A:b",
            "user:a:b c",
            "key:",
            "key:a\n",
            "admin",
            "spiffe://a/b",
        ] {
            assert_eq!(Identity::parse_delegated(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_empty_list_means_everything() {
        assert_eq!(Scopes::from_list(&[]), Scopes::All);
        assert_eq!(Scopes::from_list(&["a".to_owned()]), only(&["a"]));
    }
}
