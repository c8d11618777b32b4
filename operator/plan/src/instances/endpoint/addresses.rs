//! The addresses of one name. Each is an instance.
//!
//! Resolvers often return only some of the addresses. An instance is terminated only after its address has been absent
//! from all answers and has refused connections or presented another SPIFFE ID, both for `propagation.minDelay`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

use crate::pacing::backoff::saturating_add;

/// The known addresses of a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses(BTreeMap<IpAddr, Known>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    /// True if the last answer has it.
    is_answered: bool,
    /// The time since which it is absent from all answers and vacant.
    gone_since: Option<Timestamp>,
}

impl Addresses {
    /// The addresses, sorted.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.0.keys().copied()
    }

    /// True if no address is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an answer of a resolver, and returns true if an address was added. An answer without addresses is ignored.
    /// At most [`MAX_ADDRESSES`] are kept, known ones first.
    pub fn answered(&mut self, answer: &BTreeSet<IpAddr>) -> bool {
        if answer.is_empty() {
            return false;
        }
        for (address, known) in &mut self.0 {
            known.is_answered = answer.contains(address);
            if known.is_answered {
                known.gone_since = None;
            }
        }
        let before = self.0.len();
        for address in answer {
            if self.0.len() < MAX_ADDRESSES && !self.0.contains_key(address) {
                self.0.insert(*address, Known { is_answered: true, gone_since: None });
            }
        }
        self.0.len() > before
    }

    /// Records a probe of an address. `is_vacant`: it refused the connection, or presented another SPIFFE ID. Returns
    /// true if its instance has terminated; its address is removed then.
    pub fn probed(&mut self, address: IpAddr, is_vacant: bool, now: Timestamp, min_delay: Duration) -> bool {
        let Some(known) = self.0.get_mut(&address) else { return false };
        if known.is_answered || !is_vacant {
            known.gone_since = None;
            return false;
        }
        let since = *known.gone_since.get_or_insert(now);
        let has_ended = saturating_add(since, min_delay) <= now;
        if has_ended {
            self.0.remove(&address);
        }
        has_ended
    }
}

/// Addresses of a name that are instances.
pub const MAX_ADDRESSES: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn set(all: &[u8]) -> BTreeSet<IpAddr> {
        all.iter().map(|last| ip(*last)).collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    const P: Duration = Duration::from_secs(10);

    #[test]
    fn address_in_no_answer_ends_when_it_is_vacant_for_the_minimum_delay() {
        let mut addresses = Addresses::default();
        assert!(addresses.answered(&set(&[1, 2])));
        assert!(!addresses.answered(&set(&[2])), "an answer with some of the addresses changes nothing");
        assert!(!addresses.probed(ip(1), true, at(0), P));
        assert!(!addresses.probed(ip(1), true, at(9), P));
        assert!(!addresses.probed(ip(1), false, at(10), P), "it answers after all");
        assert!(!addresses.probed(ip(1), true, at(11), P));
        assert!(!addresses.probed(ip(1), true, at(20), P));
        assert!(addresses.probed(ip(1), true, at(21), P));
        assert_eq!(addresses.iter().collect::<Vec<_>>(), [ip(2)]);
        assert!(!addresses.probed(ip(2), true, at(1000), P), "an answer has it");
        assert!(!addresses.answered(&BTreeSet::new()), "a resolver that fails says nothing");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Answer(BTreeSet<IpAddr>),
        Probe(u8, bool),
        Wait(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            prop::collection::btree_set((0u8..80).prop_map(ip), 0..70).prop_map(Step::Answer),
            (0u8..80, any::<bool>()).prop_map(|(last, is_vacant)| Step::Probe(last, is_vacant)),
            (0i64..8).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// For all answers and probes: every address of an answer is an instance, up to the bound, and no address is
        /// removed that was in an answer, or reachable, within P.
        #[test]
        fn no_instance_is_dropped_by_a_partial_answer(steps in prop::collection::vec(step(), 1..120)) {
            let mut addresses = Addresses::default();
            let mut now = 0;
            let mut last_sign: BTreeMap<IpAddr, i64> = BTreeMap::new();
            let mut last_answer = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Answer(answer) => {
                        let before: BTreeSet<IpAddr> = addresses.iter().collect();
                        addresses.answered(&answer);
                        let after: BTreeSet<IpAddr> = addresses.iter().collect();
                        prop_assert!(after.is_superset(&before) && after.len() <= MAX_ADDRESSES);
                        prop_assert!(after.is_superset(&answer) || after.len() == MAX_ADDRESSES);
                        if !answer.is_empty() {
                            last_answer = answer;
                        }
                        last_sign.extend(last_answer.iter().map(|address| (*address, now)));
                    }
                    Step::Probe(last, is_vacant) => {
                        if !is_vacant {
                            last_sign.insert(ip(last), now);
                        }
                        let has_ended = addresses.probed(ip(last), is_vacant, at(now), P);
                        if has_ended {
                            prop_assert!(!last_answer.contains(&ip(last)));
                            prop_assert!(last_sign.get(&ip(last)).is_none_or(|sign| sign + 10 <= now));
                            prop_assert!(!addresses.iter().any(|address| address == ip(last)));
                        }
                    }
                    Step::Wait(seconds) => now += seconds,
                }
            }
        }
    }
}
