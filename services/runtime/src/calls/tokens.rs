//! Cache of the tokens for calls to other services: one for each target, and one for each credential and target.
//!
//! Tokens stay valid across credentials snapshots: a change of the mounted files drops only the tokens that it revokes.
//! They are renewed in the background before half of their validity has passed, at jittered times, so that tokens
//! requested together are not renewed together.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gaia_api::sync::lock;
use gaia_auth::tokens::HeldToken;
use gaia_auth::{BoundedMap, Expiring};
use gaia_pki::sha256_hex;
use http::Uri;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, timeout};

use crate::calls::exchange::{OnBehalf, ServiceToken, Source, Subject, TokenRequest};
use crate::client::mesh_client::CallError;
use crate::credentials::snapshot::CredentialsSnapshot;
use crate::random::{jittered, random};

/// The tokens of one caller.
pub(crate) struct Tokens {
    /// The service's own tokens, by target.
    own: Mutex<HashMap<Key, Arc<Slot>>>,
    delegated: Mutex<BoundedMap<Key, Arc<Slot>, Source>>,
    /// Definitive refusals, cached for [`REFUSAL_MEMORY`], so that repeated requests cost the token issuer nothing.
    refusals: Mutex<BoundedMap<RefusalKey, Expiring<Instant, CallError>, Source>>,
}

/// The requested token.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) target: &'a str,
    /// The subject; none for a token of the service itself.
    pub(crate) subject: Option<OnBehalf<'a>>,
}

/// The cache key of a token. The credential itself is not stored.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    /// The SPIFFE ID that the token is bound to.
    own: String,
    target: String,
    /// SHA-256 of the subject's credential.
    subject: Option<String>,
}

/// A refusal applies to one credential, peer and target, and to the files loaded at that time.
#[derive(Clone, PartialEq, Eq, Hash)]
struct RefusalKey {
    key: Key,
    context: Arc<str>,
}

/// One token. The lock is held during a request, so that only one is sent.
#[derive(Default)]
struct Slot {
    state: AsyncMutex<State>,
    /// Held during a renewal in the background.
    renewing: Arc<AsyncMutex<()>>,
}

#[derive(Default)]
struct State {
    kept: Option<Kept>,
    /// Time and error of the last failed request; tasks waiting at that time do not repeat it.
    failed: Option<(Instant, CallError)>,
}

impl State {
    fn has_just_failed(&self, now: Instant) -> bool {
        self.failed.as_ref().is_some_and(|(failed, _)| now < *failed + RETRY_PAUSE)
    }

    /// Requests the next token. While auth-service is unavailable, the previous one is used until it expires.
    async fn ask(&mut self, issuer: Issuer<'_>, wanted: Wanted<'_>) -> Result<Arc<str>, CallError> {
        let asked = match self.kept {
            None => ask(issuer, wanted).await,
            Some(_) => timeout(RENEWAL_TIMEOUT, ask(issuer, wanted))
                .await
                .unwrap_or_else(|elapsed| Err(CallError::failed(issuer.auth_url, elapsed))),
        };
        self.settle(asked, wanted.target)
    }

    fn settle(&mut self, asked: Result<Kept, CallError>, target: &str) -> Result<Arc<str>, CallError> {
        let error = match asked {
            Ok(new) => {
                let token = Arc::clone(&new.token);
                *self = Self { kept: Some(new), failed: None };
                return Ok(token);
            }
            Err(error) => error,
        };
        self.failed = Some((Instant::now(), error.clone()));
        // A refused credential must not be used any longer through a token that is still valid.
        let ends = |kept: &mut Kept| matches!(error, CallError::SubjectRefused { .. }) || Instant::now() >= kept.end;
        drop(self.kept.take_if(ends));
        let Some(kept) = &self.kept else { return Err(error) };
        tracing::warn!(target, %error, "failed to renew a token");
        Ok(Arc::clone(&kept.token))
    }
}

struct Kept {
    token: Arc<str>,
    /// None if the text is not a platform token.
    held: Option<HeldToken>,
    /// Time at which a call renews it in the background, before `half`.
    due: Instant,
    /// Time from which a call on behalf of a subject waits for the next token.
    half: Instant,
    end: Instant,
}

impl Kept {
    /// Returns true if it is valid and not revoked by the files of `generation`.
    fn is_good(&self, generation: &CredentialsSnapshot, now: Instant) -> bool {
        let Some(held) = &self.held else { return now < self.end };
        let policy = generation.policy();
        let keys = generation.keys();
        now < self.end
            && held.check(&policy.service.spiffe_id, &policy.tokens.issuer, generation.denied(), keys).is_ok()
    }
}

/// The token issuer and the credentials for the request.
#[derive(Clone, Copy)]
pub(crate) struct Issuer<'a> {
    pub(crate) generation: &'a Arc<CredentialsSnapshot>,
    /// Its `name` or `namespace/name`.
    pub(crate) target: &'a str,
    pub(crate) auth_url: &'a Uri,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            own: Mutex::default(),
            delegated: Mutex::new(BoundedMap::new(MAX_SLOTS, MAX_SLOTS_OF_A_SOURCE)),
            refusals: Mutex::new(BoundedMap::new(MAX_REFUSALS, MAX_REFUSALS_OF_A_SOURCE)),
        }
    }
}

impl<'a> Wanted<'a> {
    /// The same for a call to `target`, with the ID of the request that the token is for.
    pub(crate) fn of_request(self, target: &'a str, request_id: Option<&'a str>) -> Self {
        let named = |subject: OnBehalf<'a>| OnBehalf { request_id: subject.request_id.or(request_id), ..subject };
        Self { target, subject: self.subject.map(named) }
    }

    fn key(self, generation: &CredentialsSnapshot) -> Key {
        let text = |subject: OnBehalf<'_>| match subject.credential {
            Subject::Token(text) | Subject::ApiKey(text) => sha256_hex(text.as_bytes()),
        };
        Key {
            own: generation.policy().service.spiffe_id.to_string(),
            target: self.target.to_owned(),
            subject: self.subject.map(text),
        }
    }
}

impl Tokens {
    /// Returns a token other than `refused`.
    pub(crate) async fn get(
        self: &Arc<Self>,
        issuer: Issuer<'_>,
        wanted: Wanted<'_>,
        refused: Option<&str>,
    ) -> Result<Arc<str>, CallError> {
        let began = Instant::now();
        let key = wanted.key(issuer.generation);
        if let Some(error) = self.refusal(&key, issuer.generation, began) {
            return Err(error);
        }
        let slot = self.slot(&key, wanted);
        let mut state = slot.state.lock().await;
        let now = Instant::now();
        drop(state.kept.take_if(|kept| refused == Some(&*kept.token) || !kept.is_good(issuer.generation, now)));
        if let Some(kept) = state.kept.as_ref() {
            // A delegated request may last until its token expires, so it gets a token with most of its validity left.
            let is_asked_for = now >= kept.half && wanted.subject.is_some() && !state.has_just_failed(now);
            if !is_asked_for {
                if now >= kept.due && !state.has_just_failed(now) {
                    self.renew(&slot, issuer, wanted, key);
                }
                return Ok(Arc::clone(&kept.token));
            }
        } else if let Some((_, error)) = state.failed.as_ref().filter(|(failed, _)| *failed > began) {
            return Err(error.clone());
        }
        let asked = state.ask(issuer, wanted).await;
        if let Some((_, error)) = &state.failed {
            self.remember(key, issuer.generation, wanted, error);
        }
        asked
    }

    /// Drops `refused` from the cache.
    pub(crate) async fn forget(&self, generation: &CredentialsSnapshot, wanted: Wanted<'_>, refused: &str) {
        let slot = self.slot(&wanted.key(generation), wanted);
        drop(slot.state.lock().await.kept.take_if(|kept| *kept.token == *refused));
    }

    fn slot(&self, key: &Key, wanted: Wanted<'_>) -> Arc<Slot> {
        let Some(subject) = wanted.subject else {
            let mut own = lock(&self.own);
            // A renamed service keeps no tokens of its old name.
            own.retain(|kept, _| kept.own == key.own);
            return Arc::clone(own.entry(key.clone()).or_default());
        };
        let mut slots = lock(&self.delegated);
        if let Some(slot) = slots.get(key) {
            return Arc::clone(slot);
        }
        if slots.is_full() {
            let now = Instant::now();
            // A locked slot has a request in progress.
            let holds = |state: &State| state.kept.as_ref().is_some_and(|kept| now < kept.end);
            slots.retain(|slot| slot.state.try_lock().map_or(true, |state| holds(&state)));
        }
        let slot = Arc::<Slot>::default();
        slots.insert(subject.source(), key.clone(), Arc::clone(&slot));
        slot
    }

    fn refusal(&self, key: &Key, generation: &CredentialsSnapshot, now: Instant) -> Option<CallError> {
        key.subject.as_ref()?;
        let key = RefusalKey { key: key.clone(), context: generation.context() };
        lock(&self.refusals).get_at(&key, now).cloned()
    }

    fn remember(&self, key: Key, generation: &CredentialsSnapshot, wanted: Wanted<'_>, error: &CallError) {
        let Some(subject) = wanted.subject.filter(|subject| is_definitive(error, subject.credential)) else { return };
        let now = Instant::now();
        let key = RefusalKey { key, context: generation.context() };
        lock(&self.refusals).insert_for(subject.source(), key, error.clone(), now..now + REFUSAL_MEMORY);
    }

    /// Requests the next token in the background while calls use the current one.
    fn renew(self: &Arc<Self>, slot: &Arc<Slot>, issuer: Issuer<'_>, wanted: Wanted<'_>, key: Key) {
        let Ok(renewing) = Arc::clone(&slot.renewing).try_lock_owned() else { return };
        let (this, slot, target) = (Arc::clone(self), Arc::clone(slot), wanted.target.to_owned());
        let (generation, auth_url) = (Arc::clone(issuer.generation), issuer.auth_url.clone());
        let issued_by = issuer.target.to_owned();
        let credential = wanted.subject.map(OnBehalf::to_owned);
        tokio::spawn(async move {
            let issuer = Issuer { generation: &generation, target: &issued_by, auth_url: &auth_url };
            let subject = credential.as_ref().map(|credential| credential.as_ref());
            let wanted = Wanted { target: &target, subject };
            let asked = ask(issuer, wanted).await;
            let error = asked.as_ref().err().cloned();
            // The result is stored; a failure is not returned because calls still have the current token.
            let _ = slot.state.lock().await.settle(asked, &target);
            if let Some(error) = error {
                this.remember(key, &generation, wanted, &error);
                // Limits requests while auth-service is unavailable.
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            drop(renewing);
        });
    }
}

/// Returns true if a retry would be refused too, as long as the files of this service do not change. Failures, rate limits
/// and unknown keys are temporary. Grants and API keys are files of auth-service, which caches those refusals itself.
fn is_definitive(error: &CallError, credential: Subject<'_>) -> bool {
    let CallError::SubjectRefused { is_definitive, .. } = error else { return false };
    *is_definitive && matches!(credential, Subject::Token(_))
}

/// Requests a token, with retries if there is no response; a duplicate request is harmless.
async fn ask(issuer: Issuer<'_>, wanted: Wanted<'_>) -> Result<Kept, CallError> {
    for pause in ASK_PAUSES {
        match ask_once(issuer, wanted).await {
            Err(CallError::Failed { .. }) => tokio::time::sleep(pause).await,
            settled => return settled,
        }
    }
    ask_once(issuer, wanted).await.map_err(|error| match error {
        CallError::Failed { uri, source } => CallError::AuthUnavailable { uri, source },
        error => error,
    })
}

async fn ask_once(issuer: Issuer<'_>, wanted: Wanted<'_>) -> Result<Kept, CallError> {
    // The validity is counted from the request, the earliest possible issue time.
    let asked = Instant::now();
    let asking = async {
        let Wanted { target, subject } = wanted;
        let client = issuer.generation.client(issuer.target);
        match subject {
            None => {
                let service_name = &issuer.generation.policy().service.name;
                let wanted = TokenRequest { service_name, target_service: Some(target), scope: None, expires_in: None };
                client.service_token(issuer.auth_url, &wanted).await
            }
            Some(subject) => client.exchange(issuer.auth_url, subject, target).await,
        }
    };
    let ServiceToken { access_token, expires_in } =
        timeout(ASK_TIMEOUT, asking).await.map_err(|elapsed| CallError::failed(issuer.auth_url, elapsed))??;
    let most = if wanted.subject.is_some() { MAX_DELEGATED_LIFE_SECONDS } else { MAX_LIFE_SECONDS };
    let life = Duration::from_secs(expires_in.min(most));
    let half = life / 2;
    Ok(Kept {
        held: HeldToken::read(&access_token, issuer.generation.keys()),
        token: access_token.into(),
        due: asked + jittered(half, random().unwrap_or_default()),
        half: asked + half,
        end: asked + life,
    })
}

const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// While there is a token, a call waits at most this long for the next one.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Retry delays that cover a restart of auth-service.
const ASK_PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// More than the validity of any token.
const MAX_LIFE_SECONDS: u64 = 24 * 3600;
/// Limits calls on behalf of a user who signed out or a key that was revoked.
const MAX_DELEGATED_LIFE_SECONDS: u64 = 5 * 60;
/// Time for which a definitive refusal is cached.
const REFUSAL_MEMORY: Duration = Duration::from_secs(5);
const MAX_SLOTS: usize = 8192;
const MAX_SLOTS_OF_A_SOURCE: usize = 64;
const MAX_REFUSALS: usize = 4096;
const MAX_REFUSALS_OF_A_SOURCE: usize = 64;
