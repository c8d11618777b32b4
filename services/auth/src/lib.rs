//! Credentials to one [`Principal`]: token rules, API keys, policy.
//!
//! A listener puts an `Arc<`[`Connection`]`>` into the extensions of each request. An [`AuthLayer`] in front of each
//! route then asks the [`Authenticator`], which decides by the newest [`Rules`]: the service's policy, the platform's
//! public keys, the denylist and the API keys, as they were read from the mounted directory. The handler gets a
//! [`Principal`], or the caller one answer that says no more than its status.
//!
//! Nothing here reads a file, a clock or the network: what decides takes all of them as arguments.

mod api_key;
pub mod audit;
mod authenticator;
mod cache;
mod callers;
mod denylist;
mod examine;
mod extract;
#[cfg(test)]
mod fixtures;
mod hash;
pub mod issue;
pub mod jwt;
mod layer;
pub mod ledger;
mod mode;
mod notice;
pub mod outside;
mod presented;
mod principal;
mod refusal;
mod rules;
mod scope;
mod strict_json;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod user_keys;

pub use api_key::{ApiKeyTable, ApiKeyTableError};
pub use authenticator::{Access, Authenticator, Decision, Observer, Passed, REQUEST_ID_HEADER, Refused, request_id};
pub use denylist::Denied;
pub use examine::Examined;
pub use hash::{sha256, sha256_hex};
pub use layer::{AuthLayer, AuthService};
pub use presented::{API_KEY_HEADER, Presented};
pub use principal::{Connection, Credential, Identity, Listener, PeerIdentity, Principal, Scopes, Transport, site};
pub use refusal::{Claimed, Reason, Refusal, Trace, problem, problem_with};
pub use rules::{PolicyError, Rules, Verdict, check_policy};
pub use scope::parse_scope;
pub use user_keys::UserKeys;
