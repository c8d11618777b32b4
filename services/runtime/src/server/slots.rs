//! Connection slots of a listener, shared among sources.
//!
//! Any source may use free slots. If there are none, a new connection replaces one of the source that has the most: its
//! oldest without a request in progress, otherwise its newest if the new source has at least two fewer. So a source
//! never excludes another one, however many addresses it has, and a busy proxy alone may use all slots.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use gaia_api::sync::lock;
use tokio_util::sync::CancellationToken;

use crate::client_ip::site;

/// The slots of one listener.
#[derive(Debug, Clone)]
pub(crate) struct Slots(Arc<Mutex<Table>>);

#[derive(Debug)]
struct Table {
    open: usize,
    free: usize,
    next: u64,
    /// In order of age; a source without connections has no entry.
    by_source: HashMap<IpAddr, Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    state: Arc<SlotState>,
}

/// State shared by the listener and a connection.
#[derive(Debug, Default)]
pub(crate) struct SlotState {
    under_way: AtomicUsize,
    /// Cancelled when the slot is given to another connection.
    pub(crate) displaced: CancellationToken,
}

/// The slot of one open connection.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Slots,
    source: IpAddr,
    id: u64,
    state: Arc<SlotState>,
}

impl Slots {
    pub(crate) fn new(count: usize) -> Self {
        Self(Arc::new(Mutex::new(Table { open: 0, free: count, next: 0, by_source: HashMap::new() })))
    }

    /// Returns a slot for a connection from this address. If none is free, another connection is displaced. `None` if
    /// the source has used its share.
    pub(crate) fn take(&self, from: IpAddr) -> Option<Slot> {
        let source = site(from.to_canonical());
        let mut table = lock(&self.0);
        if table.free == 0 && !table.displace_for(source) {
            return None;
        }
        Some(self.put(table, source))
    }

    /// Returns a free slot.
    pub(crate) fn take_free(&self, from: IpAddr) -> Option<Slot> {
        let table = lock(&self.0);
        (table.free > 0).then(|| self.put(table, site(from.to_canonical())))
    }

    /// Returns the number of open connections, including displaced ones that have not ended.
    pub(crate) fn open(&self) -> usize {
        lock(&self.0).open
    }

    fn put(&self, mut table: MutexGuard<'_, Table>, source: IpAddr) -> Slot {
        table.free -= 1;
        table.open += 1;
        table.next += 1;
        let (id, state) = (table.next, Arc::<SlotState>::default());
        table.by_source.entry(source).or_default().push(Entry { id, state: Arc::clone(&state) });
        Slot { slots: self.clone(), source, id, state }
    }
}

impl Table {
    fn displace_for(&mut self, source: IpAddr) -> bool {
        let own = self.by_source.get(&source).map_or(0, Vec::len);
        let Some((largest, most)) = self.by_source.iter().map(|(from, all)| (*from, all.len())).max_by_key(|(_, n)| *n)
        else {
            return false;
        };
        let from = if most > own { largest } else { source };
        let Some(entries) = self.by_source.get(&from) else { return false };
        let idle = entries.iter().find(|entry| entry.state.under_way.load(Ordering::Relaxed) == 0);
        let Some(entry) = idle.or_else(|| entries.last().filter(|_| most > own + 1)) else { return false };
        entry.state.displaced.cancel();
        let id = entry.id;
        self.remove(from, id);
        true
    }

    fn remove(&mut self, source: IpAddr, id: u64) {
        let Some(entries) = self.by_source.get_mut(&source) else { return };
        let before = entries.len();
        entries.retain(|entry| entry.id != id);
        let removed = before - entries.len();
        if entries.is_empty() {
            self.by_source.remove(&source);
        }
        self.free += removed;
    }
}

impl Slot {
    /// Returns the state in which the connection marks its requests, and by which it ends.
    pub(crate) fn state(&self) -> Arc<SlotState> {
        Arc::clone(&self.state)
    }
}

impl SlotState {
    pub(crate) fn begin_request(&self) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end_request(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // A displaced connection has been removed already.
        let mut table = lock(&self.slots.0);
        table.remove(self.source, self.id);
        table.open -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    fn is_displaced(slot: &Slot) -> bool {
        slot.state.displaced.is_cancelled()
    }

    #[test]
    fn one_source_or_fifty_never_keep_another_out() {
        for sources in [1, 50] {
            let slots = Slots::new(100);
            let mut attack: Vec<Slot> =
                (0..1000).filter_map(|n: u32| slots.take(source(u8::try_from(n % sources).unwrap()))).collect();
            attack.retain(|slot| !is_displaced(slot));
            assert_eq!(attack.len(), 100);
            for slot in &attack {
                slot.state.begin_request();
            }
            let others = [slots.take(source(200)), slots.take(source(201))];
            assert!(others.iter().all(Option::is_some), "{sources}");
            assert_eq!(attack.iter().filter(|slot| is_displaced(slot)).count(), 2);
            for n in 0..sources {
                assert!(slots.take(source(u8::try_from(n).unwrap())).is_none_or(|slot| !is_displaced(&slot)));
            }
            let left = others.iter().flatten().filter(|slot| is_displaced(slot)).count();
            assert_eq!(left, 0, "the attack displaces no other source");
            drop((attack, others));
            assert_eq!(slots.open(), 0);
            assert_eq!(lock(&slots.0).free, 100);
            assert!(lock(&slots.0).by_source.is_empty());
        }
    }

    #[test]
    fn more_sources_than_slots_leave_room_for_a_new_one() {
        let slots = Slots::new(64);
        let _attack: Vec<_> = (0..200).map(|n| slots.take(source(n))).collect();
        assert!(slots.take(source(240)).is_some());
    }

    #[test]
    fn idle_connections_go_first_and_the_oldest_of_them() {
        let slots = Slots::new(3);
        let first = slots.take(source(1)).unwrap();
        let second = slots.take(source(1)).unwrap();
        let third = slots.take(source(1)).unwrap();
        first.state.begin_request();
        let other = slots.take(source(2)).unwrap();
        assert_eq!([&first, &second, &third, &other].map(is_displaced), [false, true, false, false]);
        // Its own idle one.
        let fourth = slots.take(source(1)).unwrap();
        assert_eq!([&first, &third, &other].map(is_displaced), [false, true, false]);
        fourth.state.begin_request();
        assert!(slots.take(source(1)).is_none(), "the source has its share, and all of it is in use");
        first.state.end_request();
        assert!(slots.take(source(1)).is_some());
        assert!(is_displaced(&first));
    }

    #[test]
    fn a_source_is_a_site_of_ipv6_and_an_address_of_ipv4() {
        let slots = Slots::new(2);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = slots.take(address("2001:db8::1")).unwrap();
        let _second = slots.take(address("2001:db8::2")).unwrap();
        let _third = slots.take(address("::ffff:10.0.0.1")).unwrap();
        assert!(is_displaced(&first));
        assert_eq!(lock(&slots.0).by_source.get(&source(1)).map(Vec::len), Some(1));
    }

    #[test]
    fn only_free_ones_are_taken_at_the_stop() {
        let slots = Slots::new(1);
        let slot = slots.take_free(source(1)).unwrap();
        assert!(slots.take_free(source(2)).is_none());
        assert!(!is_displaced(&slot));
    }
}
