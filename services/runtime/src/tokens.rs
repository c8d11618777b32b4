//! The tokens that this service calls others with: one for each target, and one for each credential and target.
//!
//! They outlive the credentials snapshot that they were requested with: a change of the mounted files drops the tokens
//! that it revokes and no other. They are renewed beside the calls before half their life has passed, at times that
//! differ, so that tokens which were requested together are not renewed together.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gaia_auth::jwt::HeldToken;
use gaia_pki::sha256_hex;
use http::{StatusCode, Uri};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, timeout};

use crate::client::CallError;
use crate::generation::Generation;
use crate::issuance::{OnBehalf, ServiceToken, Subject, TokenRequest};
use crate::random::{jittered, random};
use crate::shares::Shares;

/// The tokens of one caller.
pub(crate) struct Tokens {
    /// The service's own, by target.
    own: Mutex<HashMap<Key, Arc<Slot>>>,
    delegated: Mutex<Shares<Key, Arc<Slot>>>,
    /// Definitive refusals, kept for [`REFUSAL_MEMORY`]: a repeated request costs the token issuer nothing.
    refusals: Mutex<Shares<RefusalKey, (Instant, CallError)>>,
}

/// Which token is wanted.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) target: &'a str,
    /// For whom; none: for the service itself.
    pub(crate) subject: Option<OnBehalf<'a>>,
}

/// What a token is kept under. The credential itself is kept nowhere.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    /// The SPIFFE ID that the token is bound to.
    own: String,
    target: String,
    /// SHA-256 of the subject's credential.
    subject: Option<String>,
}

/// A refusal holds for one credential, peer and target, and for the files that were in force.
#[derive(Clone, PartialEq, Eq, Hash)]
struct RefusalKey {
    key: Key,
    context: Arc<str>,
}

/// One token. The lock is held while it is asked for, so that this is done once.
#[derive(Default)]
struct Slot {
    state: AsyncMutex<State>,
    /// Held by the one who renews a token beside the calls.
    renewing: Arc<AsyncMutex<()>>,
}

#[derive(Default)]
struct State {
    kept: Option<Kept>,
    /// When it was last asked for in vain, and why: who waited meanwhile need not ask again.
    failed: Option<(Instant, CallError)>,
}

impl State {
    fn has_just_failed(&self, now: Instant) -> bool {
        self.failed.as_ref().is_some_and(|(failed, _)| now < *failed + RETRY_PAUSE)
    }

    /// Asks for the next token. While auth-service is away the one before does, if it still holds.
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
        // Whose credential has ended gets no more calls out of a token that has not.
        let ends = |kept: &mut Kept| matches!(error, CallError::SubjectRefused { .. }) || Instant::now() >= kept.end;
        drop(self.kept.take_if(ends));
        let Some(kept) = &self.kept else { return Err(error) };
        tracing::warn!(target, %error, "renewing a token failed");
        Ok(Arc::clone(&kept.token))
    }
}

struct Kept {
    token: Arc<str>,
    /// None of a text that is no platform token.
    held: Option<HeldToken>,
    /// When a call renews it in the background: before `half`.
    due: Instant,
    /// From here on a call for someone else waits for the next token.
    half: Instant,
    end: Instant,
}

impl Kept {
    /// Whether it is still good, as far as the files of `generation` say.
    fn is_good(&self, generation: &Generation, now: Instant) -> bool {
        let Some(held) = &self.held else { return now < self.end };
        let policy = generation.policy();
        let keys = generation.keys();
        now < self.end
            && held.check(&policy.service.spiffe_id, &policy.tokens.issuer, generation.denied(), keys).is_ok()
    }
}

/// Whom to ask, and in whose name.
#[derive(Clone, Copy)]
pub(crate) struct Issuer<'a> {
    pub(crate) generation: &'a Arc<Generation>,
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
            delegated: Mutex::new(Shares::new(MAX_SLOTS, MAX_SLOTS_OF_A_SOURCE)),
            refusals: Mutex::new(Shares::new(MAX_REFUSALS, MAX_REFUSALS_OF_A_SOURCE)),
        }
    }
}

impl Wanted<'_> {
    fn key(self, generation: &Generation) -> Key {
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
    /// A token that is not `refused`.
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
            // What begins for someone else may go on until their token ends: it gets one that has most of its life left.
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

    /// Does not give out `refused` again.
    pub(crate) async fn forget(&self, generation: &Generation, wanted: Wanted<'_>, refused: &str) {
        let slot = self.slot(&wanted.key(generation), wanted);
        drop(slot.state.lock().await.kept.take_if(|kept| *kept.token == *refused));
    }

    fn slot(&self, key: &Key, wanted: Wanted<'_>) -> Arc<Slot> {
        let Some(subject) = wanted.subject else {
            let mut own = lock(&self.own);
            // A service that is renamed keeps no tokens of its old name.
            own.retain(|kept, _| kept.own == key.own);
            return Arc::clone(own.entry(key.clone()).or_default());
        };
        let mut slots = lock(&self.delegated);
        if let Some(slot) = slots.get(key) {
            return Arc::clone(slot);
        }
        if slots.is_full() {
            let now = Instant::now();
            // One that is locked is being asked for.
            let holds = |state: &State| state.kept.as_ref().is_some_and(|kept| now < kept.end);
            slots.retain(|slot| slot.state.try_lock().map_or(true, |state| holds(&state)));
        }
        let slot = Arc::<Slot>::default();
        slots.insert(subject.source(), key.clone(), Arc::clone(&slot));
        slot
    }

    fn refusal(&self, key: &Key, generation: &Generation, now: Instant) -> Option<CallError> {
        key.subject.as_ref()?;
        let key = RefusalKey { key: key.clone(), context: generation.context() };
        let refusals = lock(&self.refusals);
        refusals.get(&key).filter(|(until, _)| now < *until).map(|(_, error)| error.clone())
    }

    fn remember(&self, key: Key, generation: &Generation, wanted: Wanted<'_>, error: &CallError) {
        let Some(subject) = wanted.subject.filter(|_| is_definitive(error)) else { return };
        let now = Instant::now();
        let mut refusals = lock(&self.refusals);
        if refusals.is_full() {
            refusals.retain(|(until, _)| now < *until);
        }
        let key = RefusalKey { key, context: generation.context() };
        refusals.insert(subject.source(), key, (now + REFUSAL_MEMORY, error.clone()));
    }

    /// Asks for the next token beside the calls, which go on with the one there is.
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
            // The calls go on with what is kept: what this gives them is nothing new.
            let _ = slot.state.lock().await.settle(asked, &target);
            if let Some(error) = error {
                this.remember(key, &generation, wanted, &error);
                // Not with every call, while auth-service is away.
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            drop(renewing);
        });
    }
}

/// Nothing panics while one of them is held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the same request would be refused again: a failure, too many requests and a key that is not known yet may
/// pass at any time.
fn is_definitive(error: &CallError) -> bool {
    match error {
        CallError::SubjectRefused { is_definitive, .. } => *is_definitive,
        CallError::Refused { status, .. } => *status == StatusCode::FORBIDDEN,
        _ => false,
    }
}

/// Asks for a token, and again where there is no answer: two of them do no harm.
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
    // Its life begins at the latest when it was asked for.
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
/// Where there is still a token, a call does not wait for long.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(2);
/// While auth-service starts anew, a caller can wait for it.
const ASK_PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// More than any token has.
const MAX_LIFE_SECONDS: u64 = 24 * 3600;
/// A user who is signed out, or a key that is revoked, is not acted for much longer.
const MAX_DELEGATED_LIFE_SECONDS: u64 = 5 * 60;
/// For how long a definitive refusal is repeated without asking.
const REFUSAL_MEMORY: Duration = Duration::from_secs(5);
const MAX_SLOTS: usize = 8192;
const MAX_SLOTS_OF_A_SOURCE: usize = 64;
const MAX_REFUSALS: usize = 4096;
const MAX_REFUSALS_OF_A_SOURCE: usize = 64;
