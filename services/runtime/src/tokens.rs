//! The tokens of one generation: one for each target, and one for each subject and target. They are renewed at half
//! their life: a service's own beside the calls, and others by the first call that needs them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gaia_pki::sha256_hex;
use http::Uri;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, timeout};

use crate::client::{CallError, MeshClient};
use crate::issuance::{ServiceToken, Subject, TokenRequest};

/// The tokens that were asked for with one client. They go with it.
#[derive(Default)]
pub(crate) struct Tokens {
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
}

/// Which token is wanted.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) target: &'a str,
    /// For whom; none: for the service itself.
    pub(crate) subject: Option<Subject<'a>>,
}

/// What a token is kept under. The credential itself is kept nowhere.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    target: String,
    /// SHA-256 of the subject's credential.
    subject: Option<String>,
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
        tracing::warn!(target = wanted.target, %error, "renewing a token failed");
        Ok(Arc::clone(&kept.token))
    }
}

struct Kept {
    token: Arc<str>,
    half: Instant,
    end: Instant,
}

/// Whom to ask, and in whose name.
#[derive(Clone, Copy)]
pub(crate) struct Issuer<'a> {
    pub(crate) client: &'a MeshClient,
    pub(crate) auth_url: &'a Uri,
    pub(crate) service_name: &'a str,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl Wanted<'_> {
    fn key(self) -> Key {
        let text = |subject| match subject {
            Subject::Token(text) | Subject::ApiKey(text) => text,
        };
        let subject = self.subject.map(|subject| sha256_hex(text(subject).as_bytes()));
        Key { target: self.target.to_owned(), subject }
    }
}

impl Tokens {
    /// A token that is not `refused`.
    pub(crate) async fn get(
        &self,
        issuer: Issuer<'_>,
        wanted: Wanted<'_>,
        refused: Option<&str>,
    ) -> Result<Arc<str>, CallError> {
        let began = Instant::now();
        let slot = self.slot(wanted);
        let mut state = slot.state.lock().await;
        let now = Instant::now();
        drop(state.kept.take_if(|kept| refused == Some(&*kept.token) || now >= kept.end));
        if let Some(kept) = state.kept.as_ref() {
            let is_due = now >= kept.half;
            if is_due && wanted.subject.is_none() {
                renew(&slot, issuer, wanted.target);
            }
            // What begins for someone else may go on until their token ends: it gets one that has most of its life left.
            let is_asked_for = is_due && wanted.subject.is_some() && !state.has_just_failed(now);
            if !is_asked_for {
                return Ok(Arc::clone(&kept.token));
            }
        } else if let Some((_, error)) = state.failed.as_ref().filter(|(failed, _)| *failed > began) {
            return Err(error.clone());
        }
        state.ask(issuer, wanted).await
    }

    /// Does not give out `refused` again.
    pub(crate) async fn forget(&self, wanted: Wanted<'_>, refused: &str) {
        let slot = self.slot(wanted);
        drop(slot.state.lock().await.kept.take_if(|kept| *kept.token == *refused));
    }

    fn slot(&self, wanted: Wanted<'_>) -> Arc<Slot> {
        let key = wanted.key();
        // Nothing panics while it is held.
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MAX_SLOTS && !slots.contains_key(&key) {
            make_room(&mut slots);
        }
        Arc::clone(slots.entry(key).or_default())
    }
}

/// Drops what has ended, and where that is not enough some that has not: it can be asked for again.
fn make_room(slots: &mut HashMap<Key, Arc<Slot>>) {
    let now = Instant::now();
    let holds = |slot: &Slot| match slot.state.try_lock() {
        Ok(state) => state.kept.as_ref().is_some_and(|kept| now < kept.end),
        // It is being asked for.
        Err(_) => true,
    };
    slots.retain(|_, slot| holds(slot));
    let mut surplus = slots.len().saturating_sub(MAX_SLOTS - MAX_SLOTS / 8);
    slots.retain(|key, _| {
        let goes = surplus > 0 && key.subject.is_some();
        surplus -= usize::from(goes);
        !goes
    });
}

/// Asks for the service's own next token beside the calls, which go on with the one there is: it has the other half of
/// its life.
fn renew(slot: &Arc<Slot>, issuer: Issuer<'_>, target: &str) {
    let Ok(renewing) = Arc::clone(&slot.renewing).try_lock_owned() else { return };
    let (slot, target) = (Arc::clone(slot), target.to_owned());
    let Issuer { client, auth_url, service_name } = issuer;
    let (client, auth_url, service_name) = (client.clone(), auth_url.clone(), service_name.to_owned());
    tokio::spawn(async move {
        let issuer = Issuer { client: &client, auth_url: &auth_url, service_name: &service_name };
        match ask(issuer, Wanted { target: &target, subject: None }).await {
            Ok(new) => slot.state.lock().await.kept = Some(new),
            Err(error) => {
                tracing::warn!(target, %error, "renewing a token failed");
                // Not with every call, while auth-service is away.
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
        drop(renewing);
    });
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
        match subject {
            None => {
                let wanted =
                    TokenRequest { service_name: issuer.service_name, target_service: Some(target), scope: None };
                issuer.client.service_token(issuer.auth_url, &wanted).await
            }
            Some(subject) => issuer.client.exchange(issuer.auth_url, subject, target).await,
        }
    };
    let ServiceToken { access_token, expires_in } =
        timeout(ASK_TIMEOUT, asking).await.map_err(|elapsed| CallError::failed(issuer.auth_url, elapsed))??;
    let most = if wanted.subject.is_some() { MAX_DELEGATED_LIFE_SECONDS } else { MAX_LIFE_SECONDS };
    let life = Duration::from_secs(expires_in.min(most));
    Ok(Kept { token: access_token.into(), half: asked + life / 2, end: asked + life })
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
const MAX_SLOTS: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_an_end_to_what_is_kept_and_a_services_own_tokens_stay() {
        let tokens = Tokens::default();
        let own = tokens.slot(Wanted { target: "asset-service", subject: None });
        let hour = Instant::now() + Duration::from_secs(3600);
        let kept = || Some(Kept { token: "t".into(), half: hour, end: hour });
        own.state.try_lock().unwrap().kept = kept();
        for number in 0..2 * MAX_SLOTS {
            let credential = number.to_string();
            let slot = tokens.slot(Wanted { target: "asset-service", subject: Some(Subject::Token(&credential)) });
            slot.state.try_lock().unwrap().kept = kept();
        }
        assert!((MAX_SLOTS / 2..=MAX_SLOTS).contains(&tokens.slots.lock().unwrap().len()));
        let again = tokens.slot(Wanted { target: "asset-service", subject: None });
        assert!(Arc::ptr_eq(&own, &again));
    }

    #[test]
    fn what_has_ended_goes_before_what_has_not() {
        let tokens = Tokens::default();
        let hour = Instant::now() + Duration::from_secs(3600);
        for number in 0..MAX_SLOTS {
            let credential = number.to_string();
            let slot = tokens.slot(Wanted { target: "a", subject: Some(Subject::ApiKey(&credential)) });
            if number % 2 == 0 {
                slot.state.try_lock().unwrap().kept = Some(Kept { token: "t".into(), half: hour, end: hour });
            }
        }
        tokens.slot(Wanted { target: "a", subject: Some(Subject::ApiKey("one more")) });
        assert_eq!(tokens.slots.lock().unwrap().len(), MAX_SLOTS / 2 + 1);
    }
}
