//! Entries of `distrusted` that match nothing.

use gaia_api::crd::condition::warning;

use super::Observed;
use crate::keyring::ring::{CaRing, SigningRing};
use crate::outcome::conditions::Warning;

/// A mistyped fingerprint or kid distrusts nothing: the warning names each, with the closest known ids.
pub(super) fn distrusted(observed: &Observed<'_>, ca: &CaRing, signing: &SigningRing) -> Vec<Warning> {
    let spec = &observed.domain.spec;
    let external = observed.external_ca.as_ref().and_then(|ca| ca.as_ref().ok());
    let cas = ca.generations.iter().map(|generation| generation.material.fingerprint.as_str());
    let above = ca.generations.iter().map(|generation| &generation.material.path);
    let above = above.chain(external.map(|ca| &ca.path)).flat_map(|path| &path.certificates);
    let fingerprints: Vec<&str> = cas
        .chain(external.map(|ca| ca.fingerprint.as_str()))
        .chain(above.map(|certificate| certificate.fingerprint.as_str()))
        .collect();
    let kids: Vec<&str> = signing.generations.iter().map(|generation| generation.material.jwk.kid()).collect();
    let cas = spec.ca.distrusted.iter().map(|entry| ("spec.ca.distrusted", entry.fingerprint.as_str(), &fingerprints));
    let keys = spec.tokens.distrusted.iter().map(|entry| ("spec.tokens.distrusted", entry.kid.as_str(), &kids));
    cas.chain(keys).filter_map(|(field, asked, known)| unknown(field, asked, known)).collect()
}

fn unknown(field: &str, asked: &str, known: &[&str]) -> Option<Warning> {
    if known.contains(&asked) {
        return None;
    }
    let mut closest: Vec<&str> = known.to_vec();
    closest.sort_unstable_by_key(|name| (distance(asked, name), *name));
    closest.dedup();
    closest.truncate(CLOSEST);
    let asked: String = asked.chars().take(MAX_SHOWN).collect();
    let message = format!(
        "{field}: {asked} matches no generation, so it distrusts nothing; the closest are {}",
        closest.join(", ")
    );
    Some(Warning::new(warning::DISTRUSTED_UNKNOWN, message))
}

/// The number of characters to change, insert or delete (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

const CLOSEST: usize = 3;
/// A fingerprint in full.
const MAX_SHOWN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_ids_are_named_first() {
        let warning = unknown("spec.ca.distrusted", "3f9a0c21", &["aaaaaaaa", "3f9a0c12", "3f9b0c21"]).unwrap();
        assert!(warning.message.ends_with("the closest are 3f9b0c21, 3f9a0c12, aaaaaaaa"), "{}", warning.message);
        assert_eq!(unknown("spec.ca.distrusted", "3f9a0c21", &["3f9a0c21"]), None);
    }
}
