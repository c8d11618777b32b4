//! The packed form of a leaf's Secret. There may be ten thousand, and maps of a few short texts each would need four
//! times as much memory: so all texts of a Secret are one allocation.

use gaia_api::names::TRUST_DOMAIN_LABEL;
use gaia_plan::leaf::LeafRecord;
use gaia_plan::leaf::{LeafFacts, LeafSecret};
use gaia_plan::object::{ObjectFacts, OwnerRef, Version};

/// A packed leaf (see the module); [`PackedLeaf::unpack`] restores it.
#[derive(Debug, Clone)]
pub(crate) struct PackedLeaf {
    /// UID, resource version and type; then the pairs of labels, annotations and data; then three texts for each owner.
    texts: Box<str>,
    /// The end of each text.
    ends: Box<[u32]>,
    labels: u32,
    annotations: u32,
    data: u32,
    has_type: bool,
    immutable: bool,
    leaf: Option<Box<LeafFacts>>,
}

impl PackedLeaf {
    pub(crate) fn pack(secret: LeafSecret) -> Self {
        let LeafSecret { facts, leaf } = secret;
        let mut texts = Texts::default();
        texts.push(&facts.uid);
        texts.push(&facts.resource_version);
        texts.push(facts.type_.as_deref().unwrap_or_default());
        let mut push_all = |map: &std::collections::BTreeMap<String, String>| {
            map.iter().for_each(|(name, value)| {
                texts.push(name);
                texts.push(value);
            });
            u32::try_from(map.len()).unwrap_or(u32::MAX)
        };
        let (labels, annotations, data) =
            (push_all(&facts.labels), push_all(&facts.annotations), push_all(&facts.data));
        for owner in &facts.owners {
            [&owner.kind, &owner.name, &owner.uid].into_iter().for_each(|text| texts.push(text));
        }
        Self {
            texts: texts.all.into_boxed_str(),
            ends: texts.ends.into_boxed_slice(),
            labels,
            annotations,
            data,
            has_type: facts.type_.is_some(),
            immutable: facts.immutable,
            leaf: leaf.map(Box::new),
        }
    }

    pub(crate) fn unpack(&self) -> LeafSecret {
        let map = |pairs: &mut dyn Iterator<Item = (&str, &str)>| {
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let facts = ObjectFacts {
            uid: self.uid().to_owned(),
            resource_version: self.resource_version().to_owned(),
            labels: map(&mut self.labels()),
            annotations: map(&mut self.annotations()),
            data: map(&mut self.data()),
            immutable: self.immutable,
            // Not used in decisions about a leaf.
            is_deleting: false,
            type_: self.secret_type().map(str::to_owned),
            owners: self.owners().collect(),
        };
        LeafSecret { facts, leaf: self.leaf.as_deref().cloned() }
    }

    pub(crate) fn uid(&self) -> &str {
        self.text(0)
    }

    pub(crate) fn resource_version(&self) -> &str {
        self.text(1)
    }

    /// The TrustDomain that its label names.
    pub(crate) fn trust_domain(&self) -> Option<&str> {
        self.labels().find(|(name, _)| *name == TRUST_DOMAIN_LABEL).map(|(_, value)| value)
    }

    pub(crate) fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs(FIXED, self.labels)
    }

    pub(crate) fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs(FIXED + 2 * self.labels as usize, self.annotations)
    }

    fn data(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs(FIXED + 2 * (self.labels as usize + self.annotations as usize), self.data)
    }

    pub(crate) fn owners(&self) -> impl Iterator<Item = OwnerRef> {
        let first = FIXED + 2 * (self.labels as usize + self.annotations as usize + self.data as usize);
        let text = |index| self.text(index).to_owned();
        (first..self.ends.len()).step_by(3).map(move |at| OwnerRef {
            kind: text(at),
            name: text(at + 1),
            uid: text(at + 2),
        })
    }

    pub(crate) fn leaf(&self) -> Option<&LeafFacts> {
        self.leaf.as_deref()
    }

    pub(crate) fn leaf_mut(&mut self) -> Option<&mut LeafFacts> {
        self.leaf.as_deref_mut()
    }

    fn pairs(&self, first: usize, count: u32) -> impl Iterator<Item = (&str, &str)> {
        (first..).step_by(2).take(count as usize).map(|at| (self.text(at), self.text(at + 1)))
    }

    fn text(&self, index: usize) -> &str {
        let end = |index: usize| self.ends.get(index).map_or(0, |end| *end as usize);
        let start = index.checked_sub(1).map_or(0, end);
        self.texts.get(start..end(index)).unwrap_or_default()
    }
}

impl LeafRecord for PackedLeaf {
    fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    fn data_hash(&self, key: &str) -> Option<&str> {
        self.data().find(|(known, _)| *known == key).map(|(_, value)| value)
    }

    fn version(&self) -> Version {
        Version { uid: self.uid().to_owned(), resource_version: self.resource_version().to_owned() }
    }

    fn secret_type(&self) -> Option<&str> {
        self.has_type.then(|| self.text(2))
    }

    fn is_immutable(&self) -> bool {
        self.immutable
    }

    fn has_owner(&self) -> bool {
        self.owners().next().is_some()
    }
}

#[derive(Default)]
struct Texts {
    all: String,
    ends: Vec<u32>,
}

impl Texts {
    fn push(&mut self, text: &str) {
        self.all.push_str(text);
        // An object of the API server has at most a few megabytes.
        self.ends.push(u32::try_from(self.all.len()).unwrap_or(u32::MAX));
    }
}

/// UID, resource version and type.
const FIXED: usize = 3;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use gaia_api::names::{annotation, key};
    use jiff::Timestamp;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn secret() -> LeafSecret {
        let facts = ObjectFacts {
            uid: "u".into(),
            resource_version: "7".into(),
            labels: map(&[(TRUST_DOMAIN_LABEL, "gaia"), ("team", "")]),
            annotations: map(&[(annotation::CA_EPOCH, "12"), ("note", "größer\0als")]),
            data: map(&[(key::CA_CERT, "aa"), (key::TLS_CERT, "bb")]),
            immutable: true,
            is_deleting: false,
            type_: Some("kubernetes.io/tls".into()),
            owners: vec![
                OwnerRef { kind: "ServiceCertificate".into(), name: "web".into(), uid: "o".into() },
                OwnerRef { kind: "GaiaService".into(), name: String::new(), uid: "p".into() },
            ],
        };
        let leaf = LeafFacts {
            fingerprint: "f".into(),
            serial: "s".into(),
            not_before: Timestamp::UNIX_EPOCH,
            not_after: Timestamp::MAX,
            key_matches: true,
            issuer: Some("i".into()),
            names_hash: "n".into(),
            ambiguous_names: vec!["google.com".into()],
        };
        LeafSecret { facts, leaf: Some(leaf) }
    }

    #[test]
    fn what_is_packed_comes_out_as_it_was() {
        for secret in [secret(), LeafSecret::default()] {
            assert_eq!(PackedLeaf::pack(secret.clone()).unpack(), secret);
        }
    }

    #[test]
    fn a_packed_leaf_tells_what_its_facts_tell() {
        let secret = secret();
        let packed = PackedLeaf::pack(secret.clone());
        assert_eq!((packed.uid(), packed.resource_version()), ("u", "7"));
        assert_eq!(packed.trust_domain(), Some("gaia"));
        let facts: &dyn LeafRecord = &secret.facts;
        for name in [annotation::CA_EPOCH, annotation::REVISION, "note"] {
            assert_eq!(packed.annotation(name), facts.annotation(name));
        }
        assert_eq!(packed.number(annotation::CA_EPOCH), Some(12));
        for key in [key::CA_CERT, key::TLS_CERT, key::TLS_KEY] {
            assert_eq!(packed.data_hash(key), facts.data_hash(key));
        }
        assert_eq!(packed.version(), facts.version());
        assert_eq!(packed.secret_type(), facts.secret_type());
        assert_eq!(packed.is_immutable(), facts.is_immutable());
        assert_eq!(packed.has_owner(), facts.has_owner());
    }
}
