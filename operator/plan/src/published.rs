//! When the content of a mounted file changed last, as an annotation of its ConfigMap tells. It shows which instances lag,
//! and decides nothing else: whoever may write the ConfigMap may change it.

use gaia_api::crd::whole_seconds;
use gaia_api::names::{annotation, key};
use jiff::Timestamp;

use crate::object::{ObjectChange, ObjectFacts};

/// A file whose changes are dated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DatedFile {
    name: &'static str,
    annotation: &'static str,
}

/// `denylist.json` in a trust ConfigMap.
pub(crate) const DENYLIST: DatedFile = DatedFile { name: key::DENYLIST, annotation: annotation::DENYLIST_PUBLISHED_AT };
/// `policy.json` in the ConfigMap of a service.
pub(crate) const POLICY: DatedFile = DatedFile { name: key::POLICY, annotation: annotation::POLICY_PUBLISHED_AT };

/// A file as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Published {
    /// Lower-case hex SHA-256 of its text.
    pub(crate) hash: String,
    /// When it changed last. A file without a date was written by an earlier version: long ago, as far as is known.
    pub(crate) since: Timestamp,
}

impl DatedFile {
    /// Dates the file in a write that changes it.
    pub(crate) fn date(self, mut change: ObjectChange, now: Timestamp) -> ObjectChange {
        if matches!(change.data.get(self.name), Some(Some(_))) {
            change.annotations.insert(self.annotation.to_owned(), Some(whole_seconds(now).to_string()));
        }
        change
    }

    /// The file in a ConfigMap; none: it holds none.
    pub(crate) fn published(self, facts: &ObjectFacts, now: Timestamp) -> Option<Published> {
        let noted = facts.annotations.get(self.annotation).and_then(|text| text.parse::<Timestamp>().ok());
        let since = noted.filter(|noted| *noted <= now).unwrap_or(Timestamp::MIN);
        Some(Published { hash: facts.data.get(self.name)?.clone(), since })
    }
}
