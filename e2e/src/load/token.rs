//! Service tokens in a caller's cache: one per generation, renewed at half its validity.

use std::sync::Arc;

use gaia_runtime::{CredentialsSnapshot, TokenRequest};
use http::Uri;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::account::{Account, Connection, Kind, Outcome, Record};
use super::call::in_words;
use super::caller::Caller;
use crate::services::AUTH_SERVICE;

/// The token of one caller for one service, shared by all its workers.
pub(super) struct Tokens {
    caller: Arc<Caller>,
    account: Account,
    auth_url: Uri,
    target: &'static str,
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    /// The credentials it was requested with; the token is dropped with them.
    generation: Arc<CredentialsSnapshot>,
    token: Arc<str>,
    half: Timestamp,
    end: Timestamp,
}

impl Tokens {
    pub(super) fn new(caller: Arc<Caller>, account: Account, auth_url: Uri, target: &'static str) -> Self {
        Self { caller, account, auth_url, target, kept: Mutex::default() }
    }

    /// The token to call with under a generation. None if none can be obtained; this is in the results already.
    pub(super) async fn get(&self, generation: &Arc<CredentialsSnapshot>) -> Option<Arc<str>> {
        self.newer_than(generation, None).await
    }

    /// Another token than the refused one.
    pub(super) async fn instead_of(&self, refused: &str, generation: &Arc<CredentialsSnapshot>) -> Option<Arc<str>> {
        self.newer_than(generation, Some(refused)).await
    }

    async fn newer_than(&self, generation: &Arc<CredentialsSnapshot>, refused: Option<&str>) -> Option<Arc<str>> {
        let mut slot = self.kept.lock().await;
        let now = self.caller.clock().now();
        let of_no_use = |kept: &mut Kept| {
            !Arc::ptr_eq(&kept.generation, generation) || refused == Some(&*kept.token) || now >= kept.end
        };
        drop(slot.take_if(of_no_use));
        if let Some(kept) = slot.as_ref().filter(|kept| now < kept.half) {
            return Some(Arc::clone(&kept.token));
        }
        if let Some(kept) = self.ask(generation, now).await {
            *slot = Some(kept);
        }
        // The previous one may still be valid: it has the other half of its validity.
        slot.as_ref().map(|kept| Arc::clone(&kept.token))
    }

    async fn ask(&self, generation: &Arc<CredentialsSnapshot>, now: Timestamp) -> Option<Kept> {
        let wanted = TokenRequest {
            service_name: self.caller.service(),
            target_service: Some(self.target),
            scope: None,
            expires_in: None,
        };
        let started = Instant::now();
        let client = generation.client(AUTH_SERVICE);
        let asking = client.service_token(&self.auth_url, &wanted);
        let (outcome, kept) = match tokio::time::timeout(super::TIMEOUT, asking).await {
            Ok(Ok(token)) => {
                let life = i64::try_from(token.expires_in).unwrap_or(i64::MAX);
                let after = |seconds| now + SignedDuration::from_secs(seconds);
                let (generation, half, end) = (Arc::clone(generation), after(life / 2), after(life));
                (Outcome::Ok, Some(Kept { generation, token: token.access_token.into(), half, end }))
            }
            Ok(Err(error)) => (Outcome::Failed(in_words(&error)), None),
            Err(_) => (Outcome::Failed(format!("no token within {} s", super::TIMEOUT.as_secs())), None),
        };
        let target = "POST auth-service".to_owned();
        let took = started.elapsed();
        self.account.record(Record { kind: Kind::Token, target, connection: Connection::Kept, outcome, took });
        kept
    }
}
