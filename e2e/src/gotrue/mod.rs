//! A login server that speaks Supabase Auth's (GoTrue's) protocol, for tests and demos: real enough that what works
//! against it works against a project.
//!
//! It signs up users, gives sessions for a password, an authorization code (PKCE) or a refresh token, rotates refresh
//! tokens by GoTrue's rules, publishes its key, and answers errors with GoTrue's codes. Everything is in memory. A test
//! can make it fail, hang or answer nonsense ([`GoTrue::behave`]), and ask how often it was asked ([`GoTrue::requests`]).

mod admin;
mod api;
mod behaviour;
mod failure;
mod identity;
mod keys;
mod limit;
mod refresh_token;
mod sessions;
mod settings;
#[cfg(test)]
mod tests;
mod totp;
mod version;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context as _, Result};
use gaia_api::{Clock, SystemClock};
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::lock::lock;

pub use behaviour::Behaviour;
pub use identity::User;
pub use keys::Signing;
pub use settings::{ProjectSettings, RefreshTokens};
pub use totp::{totp, totp_secret};

use behaviour::Conduct;
use keys::Keys;
use limit::TokenLimit;
use sessions::Sessions;

/// How it is set up.
#[derive(Clone)]
pub struct GoTrueOptions {
    /// Where it listens; port 0: any that is free.
    pub address: SocketAddr,
    /// What its paths begin with, as `/auth/v1` does in a Supabase project.
    pub prefix: String,
    /// How access tokens are signed.
    pub signing: Signing,
    /// How long an access token lasts.
    pub token_life: SignedDuration,
    /// For how long a refresh token may be used again after it was exchanged.
    pub reuse_interval: SignedDuration,
    /// The settings that change what users can do.
    pub settings: ProjectSettings,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
}

impl Default for GoTrueOptions {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            prefix: "/auth/v1".to_owned(),
            signing: Signing::Es256,
            token_life: SignedDuration::from_hours(1),
            reuse_interval: SignedDuration::from_secs(10),
            settings: ProjectSettings::default(),
            clock: Arc::new(SystemClock),
        }
    }
}

/// A running login server. It ends with this value.
pub struct GoTrue {
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

/// What the handlers work with.
struct Shared {
    base_url: String,
    prefix: String,
    clock: Arc<dyn Clock>,
    token_life: SignedDuration,
    anon_key: String,
    service_role_key: String,
    settings: ProjectSettings,
    token_limit: Mutex<TokenLimit>,
    keys: Mutex<Keys>,
    sessions: Mutex<Sessions>,
    conduct: Mutex<Conduct>,
}

impl fmt::Debug for GoTrue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GoTrue").field("base_url", &self.shared.base_url).finish_non_exhaustive()
    }
}

impl Drop for GoTrue {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl GoTrue {
    /// Starts one.
    ///
    /// # Errors
    /// If the address is taken, or there is no randomness.
    pub async fn start(options: GoTrueOptions) -> Result<Self> {
        let listener = TcpListener::bind(options.address).await;
        let listener = listener.with_context(|| format!("{} is not to be had", options.address))?;
        let now = options.clock.now();
        let keys = Keys::new(options.signing)?;
        let shared = Arc::new(Shared {
            base_url: format!("http://{}{}", listener.local_addr()?, options.prefix),
            prefix: options.prefix,
            clock: options.clock,
            token_life: options.token_life,
            anon_key: keys.project_key("anon", now),
            service_role_key: keys.project_key("service_role", now),
            keys: Mutex::new(keys),
            sessions: Mutex::new(Sessions::new(options.reuse_interval, &options.settings)),
            settings: options.settings,
            token_limit: Mutex::default(),
            conduct: Mutex::default(),
        });
        let app = api::router(&shared);
        let server = tokio::spawn(async move {
            let app = app.into_make_service_with_connect_info::<SocketAddr>();
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "the login server ended");
            }
        });
        Ok(Self { shared, server })
    }

    /// The issuer of its tokens, below which all paths are.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.shared.base_url
    }

    /// Where its keys are.
    #[must_use]
    pub fn jwks_url(&self) -> String {
        format!("{}{}", self.shared.base_url, api::JWKS_PATH)
    }

    /// The project's public key, for the header `apikey`. It is a token, but names no user.
    #[must_use]
    pub fn anon_key(&self) -> &str {
        &self.shared.anon_key
    }

    /// The project's administrator key.
    #[must_use]
    pub fn service_role_key(&self) -> &str {
        &self.shared.service_role_key
    }

    /// Signs up a user who has confirmed the address, unless there is one already, and gives the user's id.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn add_user(&self, email: &str, password: &str) -> Result<String> {
        Ok(self.shared.sessions().user_or_new(email, password, self.shared.clock.now())?.id)
    }

    /// Bans a user from signing in and refreshing for so many hours.
    ///
    /// # Errors
    /// If there is no such user.
    pub fn ban(&self, email: &str, hours: i64) -> Result<()> {
        let until = self.shared.clock.now() + SignedDuration::from_hours(hours);
        self.change(email, |user| user.banned_until = Some(until))
    }

    /// Adds to the metadata of a user, which stands in each access token.
    ///
    /// # Errors
    /// If there is no such user.
    pub fn add_metadata(&self, email: &str, name: &str, value: Value) -> Result<()> {
        self.change(email, |user| drop(user.metadata.insert(name.to_owned(), value)))
    }

    /// Takes back the confirmation of a user's address.
    ///
    /// # Errors
    /// If there is no such user.
    pub fn unconfirm(&self, email: &str) -> Result<()> {
        self.change(email, |user| user.confirmed = None)
    }

    /// Deletes a user with all sessions.
    ///
    /// # Errors
    /// If there is no such user.
    pub fn delete(&self, email: &str) -> Result<()> {
        let mut sessions = self.shared.sessions();
        let id = sessions.by_email(email).map(|user| user.id.clone());
        let id = id.with_context(|| format!("there is no user {email}"))?;
        sessions.delete(&id);
        Ok(())
    }

    fn change(&self, email: &str, change: impl FnOnce(&mut User)) -> Result<()> {
        let mut sessions = self.shared.sessions();
        let id = sessions.by_email(email).map(|user| user.id.clone());
        let user = id.and_then(|id| sessions.users.get_mut(&id));
        change(user.with_context(|| format!("there is no user {email}"))?);
        Ok(())
    }

    /// What a user who signs in at an outside provider comes back with: a code that is good once, with the verifier of
    /// `code_challenge` (RFC 7636, S256).
    ///
    /// # Errors
    /// If there is no such user, or no randomness.
    pub fn authorize(&self, email: &str, code_challenge: &str) -> Result<String> {
        let now = self.shared.clock.now();
        let code = self.shared.sessions().authorize(email, code_challenge, now)?;
        code.with_context(|| format!("there is no user {email}"))
    }

    /// From now on, requests whose path below the prefix begins with `path` get this; the longest such path counts.
    pub fn behave(&self, path: &str, behaviour: Behaviour) {
        self.shared.conduct().set(path, behaviour);
    }

    /// How many requests came whose path below the prefix, with `?grant_type=…` where there is one, begins with `path`.
    #[must_use]
    pub fn requests(&self, path: &str) -> u64 {
        self.shared.conduct().requests(path)
    }

    /// Signs with a new key from now on. The old one stays published until [`GoTrue::revoke_old_keys`].
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn rotate_key(&self) -> Result<()> {
        self.shared.keys().rotate()
    }

    /// Publishes and accepts only the key that signs.
    pub fn revoke_old_keys(&self) {
        self.shared.keys().revoke_old();
    }

    /// Signs any claims with its key: tokens that it would never give.
    ///
    /// # Errors
    /// If signing fails.
    pub fn sign(&self, claims: &Value) -> Result<String> {
        self.shared.keys().sign(claims)
    }

    /// What is written in a policy or a TrustDomain's `userTokenIssuers` for it.
    #[must_use]
    pub fn issuer_entry(&self, name: &str) -> Value {
        match self.shared.keys().signing() {
            Signing::Es256 => json!({
                "name": name,
                "issuer": self.base_url(),
                "verification": "JWKS",
                "jwksURL": self.jwks_url(),
            }),
            Signing::Hs256 => json!({ "name": name, "issuer": self.base_url(), "verification": "Remote" }),
        }
    }

    /// Serves until the process ends or the listener fails.
    pub async fn serve(mut self) {
        // A panic of the server is told by the runtime.
        let _ = (&mut self.server).await;
    }
}

impl Shared {
    fn keys(&self) -> MutexGuard<'_, Keys> {
        lock(&self.keys)
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        lock(&self.sessions)
    }

    fn token_limit(&self) -> MutexGuard<'_, TokenLimit> {
        lock(&self.token_limit)
    }

    fn conduct(&self) -> MutexGuard<'_, Conduct> {
        lock(&self.conduct)
    }
}
