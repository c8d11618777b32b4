//! Memory budget for request heads and requests in progress, over all connections of a service.
//!
//! A source may use at most as much as is free: a source alone gets half of the budget, `n` sources get `1/(n + 1)` each,
//! and the same share stays free for the next one. The first 8 KiB of a connection are not charged, so ordinary requests
//! succeed while the budget is exhausted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::request::Parts;

use crate::client_ip::site;

/// The budget. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct HeadBudget(Arc<Mutex<Budget>>);

#[derive(Debug)]
struct Budget {
    free: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// The source of a connection has used its share of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the memory budget for request heads of this source is used up")]
pub(crate) struct HeadsExhausted;

impl HeadBudget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(Mutex::new(Budget { free: bytes, by_source: HashMap::new() })))
    }

    /// Opens the account of one connection.
    pub(crate) fn connection(&self, source: IpAddr) -> ConnectionHeads {
        let account = Account { budget: self.clone(), source: site(source), held: Mutex::default() };
        ConnectionHeads(Arc::new(account))
    }

    /// Returns the number of uncharged bytes.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.budget().free
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        // No code panics while it holds this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, source: IpAddr, bytes: usize) -> Result<(), HeadsExhausted> {
        let mut budget = self.budget();
        let used = budget.by_source.get(&source).copied().unwrap_or_default();
        if used + bytes > budget.free {
            return Err(HeadsExhausted);
        }
        budget.free -= bytes;
        budget.by_source.insert(source, used + bytes);
        Ok(())
    }

    fn give_back(&self, source: IpAddr, bytes: usize) {
        let mut budget = self.budget();
        budget.free += bytes;
        if let Some(used) = budget.by_source.get_mut(&source) {
            *used -= bytes;
            if *used == 0 {
                budget.by_source.remove(&source);
            }
        }
    }
}

/// The account of one connection. Its bytes are released when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionHeads(Arc<Account>);

#[derive(Debug)]
struct Account {
    budget: HeadBudget,
    source: IpAddr,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// Bytes of incomplete TLS records.
    records: usize,
    /// Bytes of incomplete heads or frames.
    unfinished: usize,
    /// Requests in progress, with their heads.
    requests: usize,
    charged: usize,
}

/// One request in progress.
#[derive(Debug)]
pub(crate) struct RequestHead {
    heads: ConnectionHeads,
    bytes: usize,
}

impl ConnectionHeads {
    /// Sets the bytes of an unfinished TLS record or handshake message.
    ///
    /// # Errors
    /// [`HeadsExhausted`]: then the connection must be closed.
    pub(crate) fn set_records(&self, bytes: usize) -> Result<(), HeadsExhausted> {
        self.change(|held| held.records = bytes)
    }

    /// Adds bytes of an unfinished TLS record or handshake message.
    ///
    /// # Errors
    /// [`HeadsExhausted`]: then the connection must be closed.
    pub(crate) fn add_records(&self, bytes: usize) -> Result<(), HeadsExhausted> {
        self.change(|held| held.records += bytes)
    }

    /// Sets the bytes of an unfinished head or frame.
    ///
    /// # Errors
    /// [`HeadsExhausted`]: then nothing more of it may be read.
    pub(crate) fn set_unfinished(&self, bytes: usize) -> Result<(), HeadsExhausted> {
        self.change(|held| held.unfinished = bytes)
    }

    /// Charges a request until the result is dropped.
    ///
    /// # Errors
    /// [`HeadsExhausted`]: then it must be refused.
    pub(crate) fn request(&self, head: &Parts) -> Result<RequestHead, HeadsExhausted> {
        let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES);
        let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
        let bytes = REQUEST_BYTES + target + fields.sum::<usize>();
        self.change(|held| held.requests += bytes)?;
        Ok(RequestHead { heads: self.clone(), bytes })
    }

    /// Changes the account; it is unchanged on error.
    fn change(&self, change: impl FnOnce(&mut Held)) -> Result<(), HeadsExhausted> {
        let mut held = self.0.held();
        let before = Held { ..*held };
        change(&mut held);
        let charged = (held.records + held.unfinished + held.requests).saturating_sub(FREE_BYTES);
        let changed = match charged.checked_sub(before.charged) {
            Some(0) => Ok(()),
            Some(more) => self.0.budget.take(self.0.source, more),
            None => {
                self.0.budget.give_back(self.0.source, before.charged - charged);
                Ok(())
            }
        };
        match changed {
            Ok(()) => held.charged = charged,
            Err(HeadsExhausted) => *held = before,
        }
        changed
    }
}

impl Account {
    fn held(&self) -> MutexGuard<'_, Held> {
        // No code panics while it holds this lock.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let charged = self.held().charged;
        self.budget.give_back(self.source, charged);
    }
}

impl Drop for RequestHead {
    fn drop(&mut self) {
        let bytes = self.bytes;
        // Releasing bytes always succeeds.
        let _ = self.heads.change(|held| held.requests -= bytes);
    }
}

/// Bytes of a connection that are not charged: the size of hyper's first buffer.
const FREE_BYTES: usize = 8 * 1024;
/// Memory for a request in progress in addition to its head.
const REQUEST_BYTES: usize = 4 * 1024;
/// Memory for a header field in addition to its text.
const FIELD_BYTES: usize = 96;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    #[test]
    fn a_source_alone_gets_half_and_fifty_leave_a_share_for_the_next() {
        let total = 16 * 1024 * 1024;
        for (sources, share) in [(1, total / 2), (50, total / 51)] {
            let budget = HeadBudget::new(total);
            let mut held = Vec::new();
            loop {
                let before = held.len();
                for number in 0..sources {
                    let heads = budget.connection(source(number));
                    if heads.set_unfinished(FREE_BYTES + 1024).is_ok() {
                        held.push(heads);
                    }
                }
                if held.len() == before {
                    break;
                }
            }
            let left = budget.free();
            assert!(left.abs_diff(share) < 100 * 1024, "{sources} sources leave {left}, not {share}");
            assert_eq!(budget.connection(source(200)).set_unfinished(64 * 1024), Ok(()), "another source has a share");
            drop(held);
            assert_eq!(budget.free(), total);
            assert!(budget.budget().by_source.is_empty());
        }
    }

    #[test]
    fn ordinary_requests_are_served_when_the_budget_is_used_up() {
        let budget = HeadBudget::new(0);
        let heads = budget.connection(source(1));
        let (head, ()) = http::Request::get("/assets/a").header("host", "x").body(()).unwrap().into_parts();
        let request = heads.request(&head).unwrap();
        assert_eq!(heads.request(&head).map(drop), Err(HeadsExhausted), "the second one at the same time is not");
        drop(request);
        assert!(heads.request(&head).is_ok());
        assert_eq!(heads.set_unfinished(FREE_BYTES + 1), Err(HeadsExhausted));
    }

    proptest! {
        #[test]
        fn everything_is_given_back(steps in proptest::collection::vec((0u8..4, 0u8..4, 0usize..40_000), 0..100)) {
            let budget = HeadBudget::new(256 * 1024);
            let connections: Vec<_> = (0..4).map(|number| budget.connection(source(number / 2))).collect();
            for (number, kind, bytes) in steps {
                let heads = &connections[usize::from(number)];
                let _ = match kind {
                    0 => heads.set_records(bytes),
                    1 => heads.set_unfinished(bytes),
                    2 => heads.set_unfinished(0),
                    _ => heads.add_records(bytes / 8),
                };
                let used: usize = budget.budget().by_source.values().sum();
                prop_assert_eq!(used + budget.free(), 256 * 1024);
            }
            drop(connections);
            prop_assert_eq!(budget.free(), 256 * 1024);
        }
    }
}
