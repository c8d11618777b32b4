//! A login server with Supabase Auth's (GoTrue's) protocol, for tests and demos: a client that works
//! against it works against a project.
//!
//! It signs up users, issues sessions for a password, an authorization code (PKCE) or a refresh token, rotates refresh
//! tokens by GoTrue's rules, publishes its key, and answers errors with GoTrue's codes. Everything is in memory. A test
//! can make it fail, hang or answer nonsense ([`GoTrue::behave`]), and count requests ([`GoTrue::requests`]).

mod admin;
mod api;
mod behaviour;
mod failure;
mod identity;
mod keys;
mod limit;
mod sessions;
mod settings;
#[cfg(test)]
mod tests;
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

use gaia_api::sync::lock;

pub use behaviour::Behaviour;
pub use identity::User;
pub use identity::totp::{totp, totp_secret};
pub use keys::Signing;
pub use settings::{ProjectSettings, RefreshTokens};

use behaviour::Conduct;
use keys::Keys;
use limit::TokenLimit;
use sessions::Sessions;

/// Its options.
#[derive(Clone)]
pub struct GoTrueOptions {
    /// Listening address; port 0: any free port.
    pub address: SocketAddr,
    /// The base URL for its clients, with the prefix; none: by its address.
    pub base_url: Option<String>,
    /// The prefix of its paths, as `/auth/v1` in a Supabase project.
    pub prefix: String,
    /// Requests need the project's key, as the API gateway of a Supabase project requires it; GoTrue itself does not.
    pub requires_key: bool,
    /// The signing method of access tokens.
    pub signing: Signing,
    /// The validity of an access token.
    pub token_life: SignedDuration,
    /// The time in which a refresh token may be used again after it was exchanged.
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
            base_url: None,
            prefix: "/auth/v1".to_owned(),
            requires_key: true,
            signing: Signing::Es256,
            token_life: SignedDuration::from_hours(1),
            reuse_interval: SignedDuration::from_secs(10),
            settings: ProjectSettings::default(),
            clock: Arc::new(SystemClock),
        }
    }
}

/// A running login server. Dropping it stops it.
pub struct GoTrue {
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

/// The state of the handlers.
struct Shared {
    base_url: String,
    prefix: String,
    requires_key: bool,
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
        let listener = listener.with_context(|| format!("cannot listen on {}", options.address))?;
        let by_address = format!("http://{}{}", listener.local_addr()?, options.prefix);
        let base_url = options.base_url.unwrap_or(by_address);
        let now = options.clock.now();
        let keys = Keys::new(options.signing)?;
        let shared = Arc::new(Shared {
            base_url,
            prefix: options.prefix,
            requires_key: options.requires_key,
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

    /// The issuer of its tokens, and the base URL of all paths.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.shared.base_url
    }

    /// The URL of its keys.
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

    /// Signs up a user with a confirmed address, unless the user exists, and returns the user's id.
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

    /// Adds to the metadata of a user, which is in each access token.
    ///
    /// # Errors
    /// If there is no such user.
    pub fn add_metadata(&self, email: &str, name: &str, value: Value) -> Result<()> {
        self.change(email, |user| drop(user.metadata.insert(name.to_owned(), value)))
    }

    /// Removes the confirmation of a user's address.
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

    /// The result of a sign-in at an external provider: a code that is valid once, with the verifier of
    /// `code_challenge` (RFC 7636, S256).
    ///
    /// # Errors
    /// If there is no such user, or no randomness.
    pub fn authorize(&self, email: &str, code_challenge: &str) -> Result<String> {
        let now = self.shared.clock.now();
        let code = self.shared.sessions().authorize(email, code_challenge, now)?;
        code.with_context(|| format!("there is no user {email}"))
    }

    /// From now on, requests whose path below the prefix begins with `path` get this behaviour; the longest such path counts.
    pub fn behave(&self, path: &str, behaviour: Behaviour) {
        self.shared.conduct().set(path, behaviour);
    }

    /// The number of requests whose path below the prefix, with `?grant_type=…` where there is one, begins with `path`.
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

    /// Signs any claims with its key: tokens that it would never issue.
    ///
    /// # Errors
    /// If signing fails.
    pub fn sign(&self, claims: &Value) -> Result<String> {
        self.shared.keys().sign(claims)
    }

    /// Its entry in a policy or a TrustDomain's `userTokenIssuers`.
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
        // The runtime reports a panic of the server.
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
