//! External issuers of user tokens: fetches their keys in the background, and queries issuers that verify tokens
//! themselves.

mod remote_verify;

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gaia_api::Clock;
use gaia_api::mount::{UserTokenIssuer, UserTokenVerification};
use gaia_api::names;
use gaia_api::sync::lock;
use gaia_auth::issuers::{Ask, Freshness, Question, Source};
use gaia_auth::tokens::KeySet;
use gaia_auth::{Reason, UserKeys};
use http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use http::{HeaderValue, StatusCode};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::client::external::{self, Fetched};
use crate::credentials::snapshot::SnapshotReceiver;
use crate::random::random;
use remote_verify::{QuestionHash, Remotes};

/// All external issuers of one service.
#[derive(Clone)]
pub(crate) struct Outside {
    keys: UserKeys,
    clock: Arc<dyn Clock>,
    /// The directory in which `issuer-<name>.key` may be mounted.
    dir: PathBuf,
    /// By the issuer's short name, which is unique in the policy. Locked while keys are set.
    known: Arc<Mutex<HashMap<String, Arc<Known>>>>,
    remotes: Arc<Remotes>,
}

/// One issuer with a key set URL. A changed configuration creates a new entry.
struct Known {
    issuer: UserTokenIssuer,
    /// Held during a fetch, so that at most one is in progress.
    flight: tokio::sync::Mutex<()>,
    freshness: Mutex<Freshness>,
}

impl Known {
    fn of(issuer: &UserTokenIssuer) -> Arc<Self> {
        let (flight, freshness) = (tokio::sync::Mutex::default(), Mutex::default());
        Arc::new(Self { issuer: issuer.clone(), flight, freshness })
    }
}

impl Outside {
    pub(crate) fn new(keys: UserKeys, clock: Arc<dyn Clock>, dir: PathBuf) -> Self {
        Self { keys, clock, dir, known: Arc::default(), remotes: Arc::default() }
    }

    /// Fetches due keys, without end.
    pub(crate) async fn run(self, generations: SnapshotReceiver) {
        self.follow(generations, |generation| &generation.policy().user_tokens.issuers).await;
    }

    /// Like `run`, for any source of issuers. A change cancels the current round: a slow issuer must not keep removed
    /// keys of another one in use.
    async fn follow<T>(&self, mut newest: watch::Receiver<Option<Arc<T>>>, issuers: impl Fn(&T) -> &[UserTokenIssuer]) {
        let mut ticks = tokio::time::interval(LOOKED_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let current = newest.borrow_and_update().clone();
            let round = async {
                if let Some(current) = &current {
                    self.refresh(issuers(current)).await;
                }
                ticks.tick().await;
            };
            tokio::select! {
                () = round => {}
                changed = newest.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Fetches due keys, and removes those that are stale or of issuers no longer configured.
    pub(crate) async fn refresh(&self, issuers: &[UserTokenIssuer]) {
        self.remotes.forget_all_but(issuers);
        for known in self.take(issuers) {
            let issuer = &known.issuer;
            let is_due = lock(&known.freshness).is_due(self.clock.now());
            if is_due {
                let _flight = known.flight.lock().await;
                self.fetch(&known).await;
            }
            let is_stale = lock(&known.freshness).is_stale(self.clock.now());
            if is_stale && self.keys.get(&issuer.name).is_some() {
                tracing::warn!(
                    issuer = issuer.name,
                    "the JWT verification keys of the issuer are stale: its tokens get a 503"
                );
                self.keys.remove(&issuer.name);
            }
        }
    }

    /// Replaces the set of issuers. Keys of removed issuers are dropped immediately.
    fn take(&self, issuers: &[UserTokenIssuer]) -> Vec<Arc<Known>> {
        let mut table = lock(&self.known);
        table.retain(|name, known| {
            let stays = issuers.contains(&known.issuer);
            if !stays {
                self.keys.remove(name);
            }
            stays
        });
        let is_fetched = |issuer: &&UserTokenIssuer| issuer.verification == UserTokenVerification::JWKS;
        let known = |issuer: &UserTokenIssuer| {
            Arc::clone(table.entry(issuer.name.clone()).or_insert_with(|| Known::of(issuer)))
        };
        issuers.iter().filter(is_fetched).map(known).collect()
    }

    /// Returns the entry of an issuer named by a request. None if another issuer has that name: the request uses rules
    /// that were replaced, or the new ones are not loaded here yet.
    fn known(&self, issuer: &UserTokenIssuer) -> Option<Arc<Known>> {
        let mut table = lock(&self.known);
        let known = table.entry(issuer.name.clone()).or_insert_with(|| Known::of(issuer));
        (known.issuer == *issuer).then(|| Arc::clone(known))
    }

    /// Sets the keys of an issuer, unless its entry was replaced during the fetch.
    fn set(&self, known: &Arc<Known>, keys: KeySet) {
        let table = lock(&self.known);
        if table.get(&known.issuer.name).is_some_and(|current| Arc::ptr_eq(current, known)) {
            let name = &known.issuer.name;
            if self.keys.get(name).is_none_or(|old| old.hash() != keys.hash()) {
                tracing::info!(
                    issuer = name,
                    kids = keys.kids().join(" "),
                    "JWT verification keys of the issuer loaded"
                );
            }
            self.keys.set(name, &Arc::new(keys));
        }
    }

    async fn fetch(&self, known: &Arc<Known>) {
        let issuer = &known.issuer;
        let url = issuer.jwks_url.as_deref().unwrap_or_default();
        let fetched = match external::get(url, HeaderMap::new(), issuer.ca_bundle.as_deref()).await {
            Ok(Fetched { status: StatusCode::OK, body, .. }) => {
                KeySet::parse_outside(&body, &issuer.algorithms).map_err(|error| error.to_string())
            }
            Ok(Fetched { status, .. }) => Err(format!("the server responded with {status}")),
            Err(error) => Err(error.to_string()),
        };
        match fetched {
            Ok(keys) => {
                let jitter = random::<1>().map_or(0, |[byte]| byte);
                lock(&known.freshness).succeeded(self.clock.now(), jitter);
                self.set(known, keys);
            }
            Err(error) => {
                tracing::warn!(
                    issuer = issuer.name,
                    error,
                    "failed to fetch the JWT verification keys of the issuer; the previous ones stay in use"
                );
                lock(&known.freshness).failed(self.clock.now());
            }
        }
    }

    /// Fetches the issuer's keys to find an unknown key, within the limits of [`Freshness`].
    async fn look_for(&self, issuer: &UserTokenIssuer, kid: &str) {
        let Some(known) = self.known(issuer) else { return };
        let has_it = || self.keys.get(&issuer.name).is_some_and(|keys| keys.contains(kid));
        let _flight = known.flight.lock().await;
        if has_it() || !lock(&known.freshness).may_force(kid, self.clock.now()) {
            return;
        }
        self.fetch(&known).await;
        if !has_it() {
            lock(&known.freshness).does_not_know(kid, self.clock.now());
        }
    }

    /// Queries whether a token is valid, unless the same query is in progress or was refused recently.
    async fn verify(&self, issuer: &UserTokenIssuer, token: &str, sub: &str, source: Source) -> Result<(), Reason> {
        let api_key = issuer_key(&self.dir, &issuer.name).await.ok();
        let api_key = api_key.as_deref();
        let question = QuestionHash::of(token, sub, api_key);
        let remote = self.remotes.of(issuer);
        remote.answer(question, source, &*self.clock, || ask_for_user(issuer, token, sub, api_key)).await
    }
}

/// Queries the user of a token in the form of GoTrue. Only a response of the issuer about the token is a refusal.
async fn ask_for_user(issuer: &UserTokenIssuer, token: &str, sub: &str, api_key: Option<&str>) -> Result<(), Reason> {
    let mut headers = HeaderMap::new();
    let mut secret = |name: HeaderName, text: &str| {
        if let Ok(mut value) = HeaderValue::from_str(text) {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    };
    secret(AUTHORIZATION, &format!("Bearer {token}"));
    if let Some(key) = api_key {
        secret(HeaderName::from_static("apikey"), key);
    }
    let url = format!("{}/user", issuer.issuer.trim_end_matches('/'));
    match external::get(&url, headers, issuer.ca_bundle.as_deref()).await {
        Ok(Fetched { status: StatusCode::OK, body, .. }) => {
            let user: Value = serde_json::from_slice(&body).map_err(|_| Reason::IssuerUnavailable)?;
            match user["id"].as_str() {
                Some(id) if id == sub => Ok(()),
                Some(_) => Err(Reason::IssuerRefused),
                None => Err(Reason::IssuerUnavailable),
            }
        }
        Ok(Fetched { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. }) => Err(Reason::IssuerRefused),
        Ok(Fetched { status, .. }) => {
            tracing::warn!(issuer = issuer.name, %status, "the issuer failed to verify a token");
            Err(Reason::IssuerUnavailable)
        }
        Err(error) => {
            tracing::warn!(issuer = issuer.name, %error, "failed to query the issuer about a token");
            Err(Reason::IssuerUnavailable)
        }
    }
}

/// Reads the API key of an external issuer from `issuer-<name>.key` in `dir`.
///
/// # Errors
/// If the file cannot be read.
pub async fn issuer_key(dir: &Path, issuer: &str) -> std::io::Result<String> {
    let name = names::issuer_key(issuer);
    let text = match tokio::fs::read_to_string(dir.join("..data").join(&name)).await {
        Ok(text) => text,
        // A plain directory, or a file outside the directories that kubelet swaps.
        Err(_) => tokio::fs::read_to_string(dir.join(&name)).await?,
    };
    Ok(text.trim().to_owned())
}

impl Ask for Outside {
    fn ask(&self, question: Question) -> Pin<Box<dyn Future<Output = Result<(), Reason>> + Send>> {
        let outside = self.clone();
        Box::pin(async move {
            match question {
                Question::Key { issuer, kid } => {
                    outside.look_for(&issuer, &kid).await;
                    Ok(())
                }
                Question::Token { issuer, token, sub, source } => outside.verify(&issuer, &token, &sub, source).await,
            }
        })
    }
}

const LOOKED_EVERY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
