//! Authentication: turns credentials into one [`Principal`] by token rules, API keys and policy.
//!
//! A listener puts an `Arc<`[`Connection`]`>` into the extensions of each request. An [`AuthLayer`] in front of each
//! route then calls the [`Authenticator`], which decides by the current [`Rules`]: the service's policy, the platform's
//! public keys, the denylist and the API keys, all loaded from the credential directory. The handler gets a
//! [`Principal`], or the client gets a response that reveals only its status.
//!
//! This crate reads no file, clock or network: all inputs are arguments.

pub mod audit;
mod bounded;
mod decision;
mod denylist;
#[cfg(test)]
mod fixtures;
mod hash;
mod introspect;
pub mod issue;
pub mod issuers;
mod policy;
mod principal;
mod request;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tokens;
pub mod usage;

pub use bounded::{BoundedMap, Expiring};
pub use decision::access::Access;
pub use decision::authenticator::{Authenticator, Decision, Observer, Passed, REQUEST_ID_HEADER, Refused, request_id};
pub use decision::layer::{AuthLayer, AuthService};
pub use denylist::Denied;
pub use hash::{sha256, sha256_hex};
pub use introspect::Introspected;
pub use policy::api_key::{ApiKeyTable, ApiKeyTableError};
pub use policy::rules::{PolicyError, Rules, Verdict, check_policy};
pub use principal::{Connection, Credential, Identity, Listener, PeerIdentity, Principal, Scopes, Transport, site};
pub use request::client::{CLIENT_IP_HEADER, Client, KNOWN_CLIENT_HEADER};
pub use request::extract_credentials::{API_KEY_HEADER, ExtractedCredentials};
pub use request::refusal::{Claimed, Reason, Refusal, Trace, problem, problem_with};
pub use tokens::external_keys::UserKeys;
pub use tokens::scope::parse_scope;
