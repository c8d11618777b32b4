//! Fair shares of a limited number of slots: work of one namespace does not delay that of another.

use std::collections::{HashMap, VecDeque};

/// Waiting items by lane (a namespace; empty for cluster-scoped objects), and the slots that each lane holds.
///
/// A lane below its share, a quarter of the slots, is served first: the one that holds the fewest slots, and of several
/// the next in order. Free slots go to any lane with items. A slot beyond the share of its lane is lent: it takes no
/// slot from a lane that comes later, so that slow items never delay another lane. In all, fewer than twice the slots
/// are held.
#[derive(Debug)]
pub(crate) struct Fair<T> {
    slots: usize,
    /// The slots that one lane holds at most in any case.
    lane_limit: usize,
    lanes: HashMap<String, Lane<T>>,
    /// Lanes with waiting items, in round-robin order.
    order: VecDeque<String>,
    waiting: usize,
    held: usize,
    /// Slots held within the shares.
    counted: usize,
}

#[derive(Debug)]
struct Lane<T> {
    waiting: VecDeque<T>,
    held: usize,
}

impl<T> Fair<T> {
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            slots,
            lane_limit: usize::MAX,
            lanes: HashMap::new(),
            order: VecDeque::new(),
            waiting: 0,
            held: 0,
            counted: 0,
        }
    }

    /// The same, where the items of a lane are handled one after the other.
    pub(crate) fn in_order(slots: usize) -> Self {
        Self { lane_limit: 1, ..Self::new(slots) }
    }

    /// The slots that one lane holds at most while another one waits below its own share.
    fn share(&self) -> usize {
        (self.slots / 4).max(1)
    }

    /// The number of slots that can be held at the same time, lent ones included.
    pub(crate) fn most_held(slots: usize) -> usize {
        slots + slots.saturating_sub((slots / 4).max(1))
    }

    /// Appends an item to a lane.
    pub(crate) fn push(&mut self, lane: &str, item: T) {
        if !self.lanes.contains_key(lane) {
            self.lanes.insert(lane.to_owned(), Lane { waiting: VecDeque::new(), held: 0 });
        }
        if let Some(entry) = self.lanes.get_mut(lane) {
            if entry.waiting.is_empty() {
                self.order.push_back(lane.to_owned());
            }
            entry.waiting.push_back(item);
            self.waiting += 1;
        }
    }

    /// The next item, if there is one and a slot for it. Its lane holds the slot until [`Fair::release`].
    pub(crate) fn take(&mut self) -> Option<T> {
        let position = self.next_lane()?;
        let name = self.order.remove(position)?;
        let share = self.share();
        let lane = self.lanes.get_mut(&name)?;
        let item = lane.waiting.pop_front()?;
        lane.held += 1;
        self.counted += usize::from(lane.held <= share);
        self.held += 1;
        self.waiting -= 1;
        if !lane.waiting.is_empty() {
            self.order.push_back(name);
        }
        Some(item)
    }

    /// The position in the order of the lane to be served next.
    fn next_lane(&self) -> Option<usize> {
        let mut best: Option<(usize, usize)> = None;
        for (position, name) in self.order.iter().enumerate() {
            let held = self.lanes.get(name).map_or(0, |lane| lane.held);
            if best.is_none_or(|(least, _)| held < least) {
                best = Some((held, position));
            }
            if held == 0 {
                break;
            }
        }
        let (held, position) = best.filter(|(held, _)| *held < self.lane_limit)?;
        let in_use = if held < self.share() { self.counted } else { self.held };
        (in_use < self.slots).then_some(position)
    }

    /// Returns true if [`Fair::take`] would return an item.
    pub(crate) fn can_take(&self) -> bool {
        self.next_lane().is_some()
    }

    /// Gives back a slot of a lane.
    pub(crate) fn release(&mut self, lane: &str) {
        let share = self.share();
        let Some(entry) = self.lanes.get_mut(lane).filter(|entry| entry.held > 0) else { return };
        self.counted -= usize::from(entry.held <= share);
        entry.held -= 1;
        self.held -= 1;
        if entry.held == 0 && entry.waiting.is_empty() {
            self.lanes.remove(lane);
        }
    }

    /// The number of waiting items.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The number of items that wait in a lane.
    pub(crate) fn waiting_in(&self, lane: &str) -> usize {
        self.lanes.get(lane).map_or(0, |lane| lane.waiting.len())
    }

    /// The lane with the most waiting items.
    pub(crate) fn longest(&self) -> Option<&str> {
        self.order.iter().max_by_key(|name| self.waiting_in(name)).map(String::as_str)
    }

    /// Removes the newest waiting item of a lane.
    pub(crate) fn drop_newest(&mut self, lane: &str) -> Option<T> {
        let item = self.lanes.get_mut(lane)?.waiting.pop_back()?;
        self.removed(lane, 1);
        Some(item)
    }

    /// Removes the waiting items of a lane that are not to be kept.
    pub(crate) fn retain(&mut self, lane: &str, keep: impl Fn(&T) -> bool) {
        let Some(entry) = self.lanes.get_mut(lane) else { return };
        let before = entry.waiting.len();
        entry.waiting.retain(keep);
        let removed = before - entry.waiting.len();
        self.removed(lane, removed);
    }

    fn removed(&mut self, lane: &str, count: usize) {
        self.waiting -= count;
        let Some(entry) = self.lanes.get(lane).filter(|entry| entry.waiting.is_empty()) else { return };
        let is_idle = entry.held == 0;
        self.order.retain(|name| name != lane);
        if is_idle {
            self.lanes.remove(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        Push(u8),
        Take,
        Release(u8),
        DropNewest(u8),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0u8..6).prop_map(Op::Push),
            4 => Just(Op::Take),
            3 => (0u8..6).prop_map(Op::Release),
            1 => (0u8..6).prop_map(Op::DropNewest),
        ]
    }

    /// The expected content of the lanes.
    #[derive(Default)]
    struct Model {
        waiting: BTreeMap<u8, VecDeque<usize>>,
        held: BTreeMap<u8, usize>,
    }

    impl Model {
        fn held(&self, lane: u8) -> usize {
            self.held.get(&lane).copied().unwrap_or_default()
        }

        fn waits(&self, lane: u8) -> bool {
            self.waiting.get(&lane).is_some_and(|items| !items.is_empty())
        }

        fn counted(&self, share: usize) -> usize {
            self.held.values().map(|held| (*held).min(share)).sum()
        }
    }

    proptest! {
        /// For all sequences of push, take and give back: order within a lane, no slot idle, no lane beyond its share
        /// while another waits below its own, and no lane kept after its last item.
        #[test]
        fn slots_are_shared_fairly(slots in 1usize..20, ops in prop::collection::vec(op(), 1..300)) {
            let mut fair = Fair::new(slots);
            let mut model = Model::default();
            let share = (slots / 4).max(1);
            for (number, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Push(lane) => {
                        fair.push(&lane.to_string(), (lane, number));
                        model.waiting.entry(lane).or_default().push_back(number);
                    }
                    Op::Release(lane) => {
                        fair.release(&lane.to_string());
                        if let Some(held) = model.held.get_mut(&lane) {
                            *held = held.saturating_sub(1);
                        }
                    }
                    Op::DropNewest(lane) => {
                        let dropped = fair.drop_newest(&lane.to_string()).map(|(_, number)| number);
                        let expected = model.waiting.get_mut(&lane).and_then(VecDeque::pop_back);
                        prop_assert_eq!(dropped, expected);
                    }
                    Op::Take => {
                        let before: Vec<(u8, usize)> =
                            (0..6).filter(|lane| model.waits(*lane)).map(|lane| (lane, model.held(lane))).collect();
                        let least = before.iter().map(|(_, held)| *held).min();
                        let has_slot = least.is_some_and(|least| {
                            let in_use = if least < share { model.counted(share) } else { model.held.values().sum() };
                            in_use < slots
                        });
                        prop_assert_eq!(fair.can_take(), has_slot);
                        let taken = fair.take();
                        prop_assert_eq!(taken.is_some(), has_slot, "a slot stays idle, or one too many is given out");
                        if let Some((lane, number)) = taken {
                            prop_assert_eq!(model.waiting.get_mut(&lane).and_then(VecDeque::pop_front), Some(number));
                            prop_assert_eq!(Some(model.held(lane)), least, "another lane holds fewer slots");
                            *model.held.entry(lane).or_default() += 1;
                        }
                    }
                }
                prop_assert_eq!(fair.waiting(), model.waiting.values().map(VecDeque::len).sum::<usize>());
                let held: usize = model.held.values().sum();
                prop_assert!(held <= Fair::<usize>::most_held(slots), "{held} of {slots} slots are held");
                let alive = (0..6).filter(|lane| model.waits(*lane) || model.held(*lane) > 0).count();
                prop_assert_eq!(fair.lanes.len(), alive, "a lane without items is kept");
            }
        }

        /// Any number of lanes with any backlog: each is served once before any is served twice.
        #[test]
        fn lanes_take_turns(backlog in prop::collection::vec(1usize..50, 1..40)) {
            let mut fair = Fair::new(4);
            for (lane, items) in backlog.iter().enumerate() {
                for item in 0..*items {
                    fair.push(&lane.to_string(), (lane, item));
                }
            }
            let mut served = vec![0usize; backlog.len()];
            while let Some((lane, item)) = fair.take() {
                prop_assert_eq!(served[lane], item);
                served[lane] += 1;
                fair.release(&lane.to_string());
                let least = served.iter().zip(&backlog).filter(|(n, all)| n < all).map(|(n, _)| *n).min();
                prop_assert!(least.is_none_or(|least| served[lane] <= least + 1));
            }
            prop_assert_eq!(served, backlog);
        }
    }

    #[test]
    fn a_lane_alone_uses_every_slot_and_delays_no_other() {
        let mut fair = Fair::new(16);
        for item in 0..1000 {
            fair.push("busy", item);
        }
        assert_eq!((0..100).filter_map(|_| fair.take()).count(), 16);
        for lane in ["a", "b", "c", ""] {
            fair.push(lane, 5000);
            assert_eq!(fair.take(), Some(5000), "{lane:?} waits for slots that are lent");
        }
        assert_eq!(fair.take(), None);
        fair.release("busy");
        assert_eq!(fair.take(), None, "a lent slot is no free one while others hold theirs");
    }

    #[test]
    fn a_lane_in_order_holds_one_slot() {
        let mut fair = Fair::in_order(16);
        for (lane, item) in [("a", 1), ("a", 2), ("b", 3)] {
            fair.push(lane, item);
        }
        assert_eq!((fair.take(), fair.take(), fair.take()), (Some(1), Some(3), None));
        fair.release("a");
        assert_eq!(fair.take(), Some(2));
    }

    #[test]
    fn items_of_a_lane_can_be_removed() {
        let mut fair = Fair::new(4);
        for item in 0..4 {
            fair.push("a", item);
        }
        fair.push("b", 9);
        assert_eq!((fair.longest(), fair.waiting_in("a")), (Some("a"), 4));
        fair.retain("a", |item| *item == 2);
        assert_eq!(fair.waiting(), 2);
        fair.retain("a", |_| false);
        assert_eq!((fair.take(), fair.take()), (Some(9), None));
    }
}
