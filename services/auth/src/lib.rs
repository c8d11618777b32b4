//! Credentials to one [`Principal`]: token rules, API keys, policy.
//!
//! A listener puts an `Arc<`[`Connection`]`>` into the extensions of each request. An [`AuthLayer`] in front of each
//! route then asks the [`Authenticator`], which decides by the newest [`Rules`]: the service's policy, the platform's
//! public keys, the denylist and the API keys, as they were read from the mounted directory. The handler gets a
//! [`Principal`], or the caller one answer that says no more than its status.
//!
//! Nothing here reads a file, a clock or the network: what decides takes all of them as arguments.

mod api_key;
mod denylist;
mod hash;
pub mod issue;
pub mod jwt;
mod layer;
mod presented;
mod principal;
mod refusal;
mod rules;
mod scope;
mod strict_json;
#[cfg(test)]
mod testing;

pub use api_key::{ApiKeyTable, ApiKeyTableError};
pub use denylist::Denied;
pub use layer::{Access, AuthLayer, AuthService, Authenticator, Decision, Observer};
pub use presented::{API_KEY_HEADER, Presented};
pub use principal::{Connection, Credential, Identity, PeerIdentity, Principal, Scopes, Transport};
pub use refusal::{Reason, Refusal, Trace, problem};
pub use rules::{Rules, Verdict};
pub use scope::parse_scope;
