//! Who is asking: the result of authentication, and the peer it is bound to.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gaia_api::SpiffeId;
use jiff::Timestamp;

/// Someone who acts or for whom something is done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A workload of the trust domain.
    Service(SpiffeId),
    /// The holder of an API key that no workload owns, by the id of its record.
    Key(String),
    /// A user, as an issuer of user tokens knows them.
    User {
        /// The issuer's short name in the policy.
        issuer: String,
        /// The `sub` of its tokens.
        sub: String,
    },
}

impl Identity {
    /// Reads the `sub` of a delegated token: `user:<issuer>:<sub>` or `key:<id>`, and nothing else. A workload acts for
    /// itself with a service token.
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

/// What may be in the name of a user or key: what prints, so that no two names look the same in a log.
pub(crate) fn is_subject_byte(byte: u8) -> bool {
    byte.is_ascii_graphic()
}

/// Longest name of a user or key.
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

/// What a principal may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scopes {
    /// Nothing was listed, so everything the service offers.
    All,
    /// These and no more.
    Only(Arc<BTreeSet<String>>),
}

impl Scopes {
    /// From a list in which nothing means everything, as policies, grants and key records have it.
    #[must_use]
    pub fn from_list(list: &[String]) -> Self {
        if list.is_empty() { Self::All } else { Self::Only(Arc::new(list.iter().cloned().collect())) }
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
            (Self::Only(a), Self::Only(b)) if a.is_superset(b) => Self::Only(Arc::clone(b)),
            (Self::Only(a), Self::Only(b)) => Self::Only(Arc::new(a.intersection(b).cloned().collect())),
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
    /// When the credential ends; none: it does not. A stream is not to outlive it.
    pub expires: Option<Timestamp>,
    /// Whether it is a user that nobody has signed in as. A route has to ask for them to get any.
    pub is_anonymous: bool,
}

impl Principal {
    /// How much is left of the credential at `now`, which is nothing after its end; none: it does not end.
    #[must_use]
    pub fn time_left(&self, now: Timestamp) -> Option<Duration> {
        self.expires.map(|end| Duration::try_from(end.duration_since(now)).unwrap_or_default())
    }
}

/// The kind of credential that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Credential {
    /// None was presented.
    None,
    /// A service token.
    ServiceToken,
    /// A token of a service that acts for someone else.
    DelegatedToken,
    /// A token of an outside issuer.
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

/// Who is at the other end of an mTLS connection. Made by a listener that has verified the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The SPIFFE id in the leaf.
    pub spiffe_id: SpiffeId,
    /// Lower-case hex SHA-256 of the leaf's DER.
    pub fingerprint: String,
    /// The leaf's serial number, lower-case hex.
    pub serial: Arc<str>,
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
    /// Where it came from.
    pub address: Option<IpAddr>,
    /// The listener that accepted it.
    pub listener: Listener,
}

/// The source that requests of one client are counted by: of IPv6 the /64 network, as one site has more addresses than
/// can be counted.
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
    /// The mesh port, whose transports `tls.mode` decides.
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
