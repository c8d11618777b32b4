//! Authentication: turns credentials into one [`Principal`] by token rules, API keys and policy.
//!
//! A listener puts an `Arc<`[`Connection`]`>` into the extensions of each request. An [`AuthLayer`] in front of each
//! route then calls the [`Authenticator`], which decides by the current [`Rules`]: the service's policy, the platform's
//! public keys, the denylist and the API keys, all loaded from the credential directory. The handler gets a
//! [`Principal`], or the client gets a response that reveals only its status.
//!
//! This crate reads no file, clock or network: all inputs are arguments.

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
