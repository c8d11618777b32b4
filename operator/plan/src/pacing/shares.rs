//! Max-min fair shares of a bounded whole, by namespace.

use std::collections::BTreeMap;

/// The share of a namespace, and what it asks for beyond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Bytes that all entries of the namespace may have.
    pub share: usize,
    /// Bytes that they have.
    pub asked: usize,
}

/// The largest share, so that all together have at most `total`: a namespace that needs less than the equal share keeps all
/// of it, and the rest is shared equally by the others. None: all of them fit.
fn max_min_share(needs: impl Iterator<Item = usize>, total: usize) -> Option<usize> {
    let mut needs: Vec<usize> = needs.collect();
    if needs.iter().sum::<usize>() <= total {
        return None;
    }
    needs.sort_unstable();
    let mut left = total;
    for (index, need) in needs.iter().enumerate() {
        let share = left / (needs.len() - index);
        if *need > share {
            return Some(share);
        }
        left -= need;
    }
    None
}

/// The entries that do not fit, by index. `entries`: namespace and bytes, the preferred ones first.
#[must_use]
pub(crate) fn cut(entries: &[(&str, usize)], total: usize) -> BTreeMap<usize, Cut> {
    let mut asked: BTreeMap<&str, usize> = BTreeMap::new();
    for (namespace, bytes) in entries {
        *asked.entry(namespace).or_default() += bytes;
    }
    let Some(share) = max_min_share(asked.values().copied(), total) else { return BTreeMap::new() };
    let mut used: BTreeMap<&str, usize> = BTreeMap::new();
    let mut cuts = BTreeMap::new();
    for (index, (namespace, bytes)) in entries.iter().enumerate() {
        let used = used.entry(namespace).or_default();
        if *used + bytes <= share {
            *used += bytes;
        } else {
            cuts.insert(index, Cut { share, asked: asked[namespace] });
        }
    }
    cuts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_cut_while_everything_fits() {
        assert!(cut(&[("a", 60), ("b", 40)], 100).is_empty());
    }

    #[test]
    fn only_the_largest_namespace_is_cut() {
        let entries = [("big", 50), ("small", 10), ("big", 40), ("big", 30)];
        let cuts = cut(&entries, 100);
        assert_eq!(cuts, BTreeMap::from([(3, Cut { share: 90, asked: 120 })]));
    }

    proptest! {
        #[test]
        fn namespace_below_the_equal_share_loses_nothing_and_the_rest_fits(
            entries in prop::collection::vec((0usize..6, 0usize..400), 0..60),
            total in 0usize..4000,
        ) {
            let names = ["a", "b", "c", "d", "e", "f"];
            let entries: Vec<(&str, usize)> = entries.iter().map(|(name, bytes)| (names[*name], *bytes)).collect();
            let cuts = cut(&entries, total);
            let kept = entries.iter().enumerate().filter(|(index, _)| !cuts.contains_key(index));
            prop_assert!(kept.map(|(_, entry)| entry.1).sum::<usize>() <= total);
            let mut asked: BTreeMap<&str, usize> = BTreeMap::new();
            for (name, bytes) in &entries {
                *asked.entry(name).or_default() += bytes;
            }
            for index in cuts.keys() {
                prop_assert!(asked[entries[*index].0] > total / asked.len());
            }
        }
    }
}
