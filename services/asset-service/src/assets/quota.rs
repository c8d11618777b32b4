//! Quotas: maximum bytes and assets per subject, and maximum bytes in total.
//!
//! An account is counted by listing the store at the first upload after a start, and then updated by the writes of this
//! instance. Other instances may write to the same store, so an account is recounted after a minute, before a refusal,
//! and after this instance has admitted a quarter of the space that the last count left. Of instances that write at the
//! same time, each exceeds a quota by at most that quarter and its unfinished uploads. An upload reserves space for its
//! bytes before it buffers them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::TryStreamExt as _;
use gaia_api::sync::lock;
use gaia_auth::Identity;
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::time::Instant;

use crate::asset_path::folder;
use crate::error::AssetError;

/// The quotas of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum bytes per subject.
    pub bytes: u64,
    /// Maximum number of assets per subject.
    pub assets: u64,
    /// Maximum bytes of all subjects, in disk blocks.
    pub total_bytes: u64,
}

/// The accounts of all subjects of a store.
#[derive(Debug, Clone)]
pub(crate) struct Quotas {
    store: Arc<dyn ObjectStore>,
    limits: Limits,
    subjects: Arc<Mutex<HashMap<Path, Arc<Account>>>>,
    total: Option<Arc<Account>>,
}

/// Bytes and assets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    bytes: u64,
    assets: u64,
}

#[derive(Debug)]
struct Account {
    /// The counted folder; none for the whole store.
    folder: Option<Path>,
    limit: Usage,
    kind: Kind,
    /// Held while the store is listed.
    counting: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Subject,
    Total,
}

#[derive(Debug, Default)]
struct State {
    used: Usage,
    reserved: Usage,
    /// Time of the last count, and the space that it left.
    counted: Option<(Instant, Usage)>,
    /// Space admitted since the last count.
    admitted: Usage,
    /// Space written during a count, which may have missed it.
    meanwhile: Usage,
}

/// The decision on a request for space.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Admit,
    Count,
    Refuse,
}

/// Space reserved by an upload until it is completed or abandoned.
#[derive(Debug)]
pub(crate) struct Reservation {
    store: Arc<dyn ObjectStore>,
    entries: Vec<Entry>,
    /// Bytes received so far.
    size: u64,
}

#[derive(Debug)]
struct Entry {
    account: Arc<Account>,
    reserved: Usage,
    /// The asset that the upload replaces.
    replaced: Usage,
}

impl Quotas {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, limits: Limits) -> Self {
        let limit = Usage { bytes: limits.total_bytes, assets: u64::MAX };
        let total = (limits.total_bytes < u64::MAX).then(|| Account::new(None, limit, Kind::Total));
        Self { store, limits, subjects: Arc::default(), total }
    }

    /// Reserves space for an upload of `announced` bytes, or of unknown size. `replaced` is the size of the asset that
    /// it replaces.
    ///
    /// # Errors
    /// [`AssetError::QuotaExceeded`], [`AssetError::StoreFull`], or an error of the store while listing.
    pub(crate) async fn reserve(
        &self,
        subject: &Identity,
        announced: Option<u64>,
        replaced: Option<u64>,
    ) -> Result<Reservation, AssetError> {
        let mut reservation = self.unlimited();
        let replaced = replaced.map(|bytes| Usage { bytes, assets: 1 });
        let subjects = (self.limits.bytes < u64::MAX || self.limits.assets < u64::MAX).then(|| self.account(subject));
        for account in subjects.into_iter().chain(self.total.clone()) {
            let replaced = if account.kind == Kind::Subject { replaced.unwrap_or_default() } else { Usage::default() };
            let need = account.usage(announced.unwrap_or_default());
            reservation.entries.push(Entry { account, reserved: Usage::default(), replaced });
            if let Some(entry) = reservation.entries.last_mut() {
                entry.reserve(self.store.as_ref(), need).await?;
            }
        }
        Ok(reservation)
    }

    /// Subtracts a deleted asset of this size from the accounts.
    pub(crate) fn deleted(&self, subject: &Identity, bytes: u64) {
        let account = lock(&self.subjects).get(&folder(subject)).cloned();
        for account in account.into_iter().chain(self.total.clone()) {
            let usage = account.usage(bytes);
            let mut state = account.state();
            state.used = state.used.less(usage);
        }
    }

    /// A reservation for bytes that the store holds already.
    pub(crate) fn unlimited(&self) -> Reservation {
        Reservation { store: Arc::clone(&self.store), entries: Vec::new(), size: 0 }
    }

    /// Counts the assets of a subject again before its next upload: some were moved.
    pub(crate) fn count_again(&self, subject: &Identity) {
        let account = lock(&self.subjects).get(&folder(subject)).cloned();
        if let Some(account) = account {
            account.state().counted = None;
        }
    }

    fn account(&self, subject: &Identity) -> Arc<Account> {
        let folder = folder(subject);
        let mut subjects = lock(&self.subjects);
        if subjects.len() >= MAX_ACCOUNTS && !subjects.contains_key(&folder) {
            // Accounts without an unfinished upload are recounted at their next use.
            subjects.retain(|_, account| Arc::strong_count(account) > 1);
        }
        let limit = Usage { bytes: self.limits.bytes, assets: self.limits.assets };
        let new = || Account::new(Some(folder.clone()), limit, Kind::Subject);
        Arc::clone(subjects.entry(folder.clone()).or_insert_with(new))
    }
}

impl Reservation {
    /// Reserves space for received bytes, unless they were announced.
    ///
    /// # Errors
    /// As [`Quotas::reserve`].
    pub(crate) async fn received(&mut self, bytes: u64) -> Result<(), AssetError> {
        self.size = self.size.saturating_add(bytes);
        for entry in &mut self.entries {
            let missing = entry.account.usage(self.size).bytes.saturating_sub(entry.reserved.bytes);
            if missing == 0 {
                continue;
            }
            // In larger steps, because each may list the store.
            let step = Usage { bytes: missing.max(STEP_BYTES), assets: 0 };
            if entry.reserve(self.store.as_ref(), step).await.is_err() {
                entry.reserve(self.store.as_ref(), Usage { bytes: missing, assets: 0 }).await?;
            }
        }
        Ok(())
    }

    /// Records the completed upload, which replaced an asset of `replaced` bytes.
    pub(crate) fn commit(self, replaced: Option<u64>) {
        for entry in &self.entries {
            let account = &entry.account;
            let new = account.usage(self.size);
            let mut state = account.state();
            state.meanwhile = state.meanwhile.plus(new);
            state.used = state.used.plus(new);
            if let Some(bytes) = replaced {
                state.used = state.used.less(account.usage(bytes));
            }
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = self.account.state();
        state.reserved = state.reserved.less(self.reserved);
    }
}

impl Entry {
    async fn reserve(&mut self, store: &dyn ObjectStore, need: Usage) -> Result<(), AssetError> {
        let account = Arc::clone(&self.account);
        match self.try_reserve(need) {
            Decision::Admit => return Ok(()),
            Decision::Refuse => return Err(account.refusal()),
            Decision::Count => {}
        }
        let _counting = account.counting.lock().await;
        // Another upload may have recounted in the meantime.
        if self.try_reserve(need) == Decision::Admit {
            return Ok(());
        }
        account.count(store).await?;
        if self.try_reserve(need) == Decision::Admit { Ok(()) } else { Err(account.refusal()) }
    }

    fn try_reserve(&mut self, need: Usage) -> Decision {
        let account = &self.account;
        let mut state = account.state();
        let decision = account.decide(&state, need, self.reserved, self.replaced, Instant::now());
        if decision == Decision::Admit {
            state.reserved = state.reserved.plus(need);
            state.admitted = state.admitted.plus(need);
            self.reserved = self.reserved.plus(need);
        }
        decision
    }
}

impl Account {
    fn new(folder: Option<Path>, limit: Usage, kind: Kind) -> Arc<Self> {
        Arc::new(Self { folder, limit, kind, counting: tokio::sync::Mutex::default(), state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Returns the usage of one asset. A disk uses whole blocks, and one more for names.
    fn usage(&self, bytes: u64) -> Usage {
        match self.kind {
            Kind::Subject => Usage { bytes, assets: 1 },
            Kind::Total => Usage { bytes: bytes.div_ceil(BLOCK_BYTES).saturating_add(1) * BLOCK_BYTES, assets: 1 },
        }
    }

    fn refusal(&self) -> AssetError {
        match self.kind {
            Kind::Subject => AssetError::QuotaExceeded,
            Kind::Total => AssetError::StoreFull("the quota of all assets is used up".to_owned()),
        }
    }

    /// Decides on `need` for an upload that already holds `held` and replaces `replaced`.
    fn decide(&self, state: &State, need: Usage, held: Usage, replaced: Usage, now: Instant) -> Decision {
        let Some((counted, left)) = state.counted else { return Decision::Count };
        let age = now.saturating_duration_since(counted);
        let (fresh_for, before_refusal) = match self.kind {
            Kind::Subject => (Duration::from_secs(60), Duration::from_secs(2)),
            // The total is written by this service only.
            Kind::Total => (Duration::from_secs(3600), Duration::from_secs(30)),
        };
        let whole = held.plus(need);
        if self.kind == Kind::Subject && whole.fits(replaced) {
            // An upload that does not increase usage is admitted, even above the quota.
            return Decision::Admit;
        }
        if !state.used.plus(state.reserved).plus(need).less(replaced).fits(self.limit) {
            return if age > before_refusal { Decision::Count } else { Decision::Refuse };
        }
        let quarter = Usage { bytes: left.bytes / 4, assets: left.assets / 4 };
        let is_first = state.admitted == Usage::default();
        let is_much = self.kind == Kind::Subject && !is_first && !state.admitted.plus(need).fits(quarter);
        if age > fresh_for || is_much { Decision::Count } else { Decision::Admit }
    }

    async fn count(&self, store: &dyn ObjectStore) -> Result<(), AssetError> {
        self.state().meanwhile = Usage::default();
        let mut found = Usage::default();
        let mut listed = store.list(self.folder.as_ref());
        while let Some(meta) = listed.try_next().await? {
            found = found.plus(self.usage(meta.size));
            // The quota is already exceeded.
            if !found.fits(self.limit) {
                break;
            }
        }
        let mut state = self.state();
        state.used = found.plus(state.meanwhile);
        state.admitted = Usage::default();
        state.counted = Some((Instant::now(), self.limit.less(state.used.plus(state.reserved))));
        Ok(())
    }
}

impl Usage {
    fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), assets: self.assets.saturating_add(other.assets) }
    }

    fn less(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_sub(other.bytes), assets: self.assets.saturating_sub(other.assets) }
    }

    fn fits(self, limit: Self) -> bool {
        self.bytes <= limit.bytes && self.assets <= limit.assets
    }
}

const BLOCK_BYTES: u64 = 4096;
const STEP_BYTES: u64 = 1024 * 1024;
/// An account uses about 200 bytes of memory.
const MAX_ACCOUNTS: usize = 10_000;
