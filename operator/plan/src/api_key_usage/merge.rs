//! Merges the entries of several instances: the latest day of each key and caller.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use gaia_api::ledger::{LedgerCaller, LedgerEntry, MAX_CALLERS};
use jiff::civil::Date;

/// Both lists merged, sorted. Known entries keep their place; entries for which there is no room are summarised in one
/// entry with the latest day. Merging twice gives the same result as merging once, and the number of callers stays
/// bounded.
pub(super) fn merged<'a>(known: &[LedgerEntry], seen: impl IntoIterator<Item = &'a LedgerEntry>) -> Vec<LedgerEntry> {
    let mut keys: BTreeMap<&str, BTreeMap<&LedgerCaller, Date>> = BTreeMap::new();
    let mut seen: Vec<&LedgerEntry> = seen.into_iter().collect();
    // The order in which instances are listed must not change which callers are kept.
    seen.sort_by_key(|entry| (&entry.key, &entry.caller, entry.date));
    for entry in known.iter().chain(seen) {
        let callers = keys.entry(&entry.key).or_default();
        let is_full = callers.len() >= MAX_CALLERS - 1 && !callers.contains_key(&entry.caller);
        let caller = if is_full { &LedgerCaller::Others } else { &entry.caller };
        let day = callers.entry(caller).or_insert(entry.date);
        *day = entry.date.max(*day);
    }
    let all = keys.into_iter().flat_map(|(key, callers)| {
        callers.into_iter().map(|(caller, date)| LedgerEntry { key: key.to_owned(), caller: caller.clone(), date })
    });
    let mut all: Vec<LedgerEntry> = all.collect();
    if all.len() > MAX_ENTRIES {
        // The latest are what counts.
        all.sort_by(latest_first);
        all.truncate(MAX_ENTRIES);
        all.sort_by(|a, b| (&a.key, &a.caller).cmp(&(&b.key, &b.caller)));
    }
    all
}

/// The order in which the latest uses come first.
pub(super) fn latest_first(a: &LedgerEntry, b: &LedgerEntry) -> Ordering {
    (b.date, &a.key, &a.caller).cmp(&(a.date, &b.key, &b.caller))
}

/// The number of entries that fit into a ConfigMap.
const MAX_ENTRIES: usize = 2_000;

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;
    use jiff::civil::date;
    use proptest::prelude::*;

    use super::*;

    fn entries(keys: u8, callers: u8, length: usize) -> impl Strategy<Value = Vec<LedgerEntry>> {
        let entry = (0..keys, 0..callers, 0i32..5).prop_map(|(key, caller, day)| LedgerEntry {
            key: format!("key{key}"),
            caller: LedgerCaller::Unknown { address: None, user_agent: None, route: format!("/{caller}") },
            date: date(2026, 3, 1).saturating_add(day.days()),
        });
        prop::collection::vec(entry, 0..length)
    }

    fn latest(entries: &[LedgerEntry], key: &str) -> Option<Date> {
        entries.iter().filter(|entry| entry.key == key).map(|entry| entry.date).max()
    }

    proptest! {
        #[test]
        fn nothing_seen_is_lost_nothing_is_made_up_and_the_order_of_reports_does_not_matter(
            known in entries(3, 60, 80),
            a in entries(3, 60, 80),
            b in entries(3, 60, 80),
        ) {
            let known = merged(&[], &known);
            let both = merged(&known, a.iter().chain(&b));
            prop_assert_eq!(&both, &merged(&known, b.iter().chain(&a)));
            prop_assert_eq!(&both, &merged(&both, a.iter().chain(&b)), "merging twice changes nothing");
            for key in ["key0", "key1", "key2"] {
                let all: Vec<LedgerEntry> = known.iter().chain(&a).chain(&b).cloned().collect();
                prop_assert_eq!(latest(&both, key), latest(&all, key), "the latest day of each key");
                prop_assert!(both.iter().filter(|entry| entry.key == key).count() <= MAX_CALLERS);
            }
            for entry in &known {
                let still = both.iter().find(|found| (&found.key, &found.caller) == (&entry.key, &entry.caller));
                prop_assert!(still.is_some_and(|found| found.date >= entry.date), "a known caller keeps its place");
            }
        }
    }

    #[test]
    fn the_latest_uses_stay_where_there_is_no_room_for_all() {
        let entry = |number: u32, day| LedgerEntry {
            key: format!("key{number:05}"),
            caller: LedgerCaller::Others,
            date: date(2026, 3, day),
        };
        let many: Vec<LedgerEntry> =
            (0..3_000).map(|number| entry(number, if number % 2 == 0 { 2 } else { 1 })).collect();
        let found = merged(&[], &many);
        assert_eq!(found.len(), MAX_ENTRIES);
        assert_eq!(found.iter().filter(|entry| entry.date == date(2026, 3, 2)).count(), 1_500);
        assert!(found.is_sorted_by_key(|entry| entry.key.clone()));
    }
}
