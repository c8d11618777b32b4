//! A memory of refused requests for tokens: the same request is refused again at no cost to its asker.
//!
//! A refusal holds for a few seconds, for the same credential, peer, target and scope, and only while the files that it was
//! decided by are the same. Its memory is shared out over the askers: peers, and the clients that a peer forwards.

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use gaia_api::SpiffeId;
use gaia_api::sync::lock;
use gaia_auth::{BoundedMap, Connection, Expiring, PeerIdentity, UserKeys, sha256};
use gaia_runtime::sign_in_audit::FailureSample;
use tokio::time::Instant;

use super::IssuingInputs;
use crate::denial::Denial;
use crate::exchange::{ExchangeRequest, SubjectCredential};
use crate::issuer::TokenRequest;

/// The refusals of the last seconds.
#[derive(Debug)]
pub(crate) struct Refusals {
    remembered: Mutex<BoundedMap<RefusalKey, Expiring<Instant, Denial>, Asker>>,
    /// Of the audit lines of repeated refusals, which cost their asker nothing else.
    repeated: FailureSample,
}

/// SHA-256 of everything that a refusal depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RefusalKey([u8; 32]);

/// The peer and its client, or its own address where it names none.
type Asker = (SpiffeId, Option<IpAddr>);

/// A refusal of a request, as its audit line describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Decided now.
    New(Denial),
    /// Remembered.
    Repeated(Denial),
}

impl Default for Refusals {
    fn default() -> Self {
        let remembered = Mutex::new(BoundedMap::new(MAX_REFUSALS, MAX_REFUSALS_OF_AN_ASKER));
        Self { remembered, repeated: FailureSample::default() }
    }
}

impl From<Denial> for Refused {
    fn from(denial: Denial) -> Self {
        Self::New(denial)
    }
}

impl Refused {
    pub(super) fn denial(self) -> Denial {
        match self {
            Self::New(denial) | Self::Repeated(denial) => denial,
        }
    }
}

impl RefusalKey {
    /// The key of an exchange, decided by these files.
    pub(super) fn of_exchange(
        peer: &PeerIdentity,
        request: &ExchangeRequest,
        inputs: &IssuingInputs,
        user_keys: &UserKeys,
    ) -> Self {
        let (kind, text) = match &request.subject {
            SubjectCredential::Token(token) => ("token", token),
            SubjectCredential::ApiKey(key) => ("key", key),
        };
        let target = [kind, text, &request.audience];
        Self::of(peer, target.map(Some), request.scope.as_deref(), inputs, &user_keys.context())
    }

    /// The key of a request for a service token, decided by these files.
    pub(super) fn of_service_token(peer: &PeerIdentity, request: &TokenRequest, inputs: &IssuingInputs) -> Self {
        let target = [Some("service"), Some(&*request.service_name), request.target_service.as_deref()];
        Self::of(peer, target, request.scope.as_deref(), inputs, &[])
    }

    fn of(
        peer: &PeerIdentity,
        target: [Option<&str>; 3],
        scope: Option<&str>,
        IssuingInputs { grants, generation, .. }: &IssuingInputs,
        user_keys: &[u8],
    ) -> Self {
        let context = generation.context();
        let who = [Some(peer.spiffe_id.as_str()), Some(peer.fingerprint.as_str())];
        let texts = who.into_iter().chain(target).chain([scope, Some(&*context)]);
        let grants = grants.hash();
        let bytes = texts.map(|text| text.map(str::as_bytes)).chain([Some(&grants[..]), Some(user_keys)]);
        // Each by its hash, so that two parts cannot be taken for one. Absent and empty differ.
        let hashes: Vec<[u8; 32]> = bytes.map(|part| part.map_or([0; 32], sha256)).collect();
        Self(sha256(hashes.as_flattened()))
    }
}

impl Refusals {
    /// Fails with the refusal of the same request, if there was one in the last seconds.
    pub(super) fn check(&self, key: RefusalKey) -> Result<(), Refused> {
        let remembered = lock(&self.remembered);
        let denial = remembered.get_at(&key, Instant::now()).copied();
        denial.map_or(Ok(()), |denial| Err(Refused::Repeated(denial)))
    }

    /// Remembers a refusal that would be the same again.
    pub(super) fn remember(
        &self,
        key: RefusalKey,
        (peer, client, connection): (&PeerIdentity, Option<IpAddr>, &Connection),
        denial: Denial,
    ) {
        if !denial.is_definitive() {
            return;
        }
        let asker = (peer.spiffe_id.clone(), client.or(connection.address));
        let now = Instant::now();
        let mut remembered = lock(&self.remembered);
        remembered.insert_for(asker, key, denial, now..now + REMEMBERED);
    }

    /// Returns the number of skipped audit lines before this one, if the line of a refusal is to be written.
    pub(super) fn admit_line(&self, refused: Refused, source: Option<IpAddr>) -> Option<u64> {
        self.repeated.admit(source, matches!(refused, Refused::Repeated(_)))
    }
}

const REMEMBERED: Duration = Duration::from_secs(5);
const MAX_REFUSALS: usize = 4096;
const MAX_REFUSALS_OF_AN_ASKER: usize = 64;
