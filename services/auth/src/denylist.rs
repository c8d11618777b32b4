//! Lookup of revoked certificates, keys and subjects.

use std::collections::{HashMap, HashSet};

use gaia_api::mount::Denylist;
use jiff::Timestamp;

use crate::Reason;
use crate::principal::{Identity, PeerIdentity};

/// `denylist.json`, indexed.
#[derive(Debug, Clone, Default)]
pub struct Denied {
    leaves: HashSet<String>,
    kids: HashSet<String>,
    jtis: HashSet<String>,
    subjects: HashMap<String, Timestamp>,
    issuers: HashSet<String>,
}

impl From<&Denylist> for Denied {
    fn from(list: &Denylist) -> Self {
        let mut subjects: HashMap<String, Timestamp> = HashMap::new();
        for denied in &list.subjects {
            let latest = subjects.entry(denied.sub.clone()).or_insert(denied.not_before);
            *latest = denied.not_before.max(*latest);
        }
        Self {
            leaves: list.leaves.iter().map(|leaf| leaf.to_ascii_lowercase()).collect(),
            kids: list.kids.iter().cloned().collect(),
            jtis: list.jtis.iter().cloned().collect(),
            subjects,
            issuers: list.issuers.iter().map(|key| key.to_ascii_lowercase()).collect(),
        }
    }
}

impl Denied {
    /// Checks that a peer's leaf certificate is neither revoked nor expired.
    ///
    /// # Errors
    /// [`Reason::PeerExpired`] or [`Reason::PeerRevoked`].
    pub fn check_peer(&self, peer: &PeerIdentity, now: Timestamp) -> Result<(), Reason> {
        if now > peer.not_after {
            return Err(Reason::PeerExpired);
        }
        if self.is_leaf_revoked(&peer.fingerprint) { Err(Reason::PeerRevoked) } else { Ok(()) }
    }

    /// Returns true if the leaf with that fingerprint (lower-case hex SHA-256 of its DER) is revoked.
    #[must_use]
    pub fn is_leaf_revoked(&self, fingerprint: &str) -> bool {
        self.leaves.contains(fingerprint)
    }

    /// Returns true if any public key of a CA is denied.
    #[must_use]
    pub fn has_issuers(&self) -> bool {
        !self.issuers.is_empty()
    }

    /// Returns true if the CA with that public key (lower-case hex SHA-256 of its SubjectPublicKeyInfo) is denied.
    #[must_use]
    pub fn is_issuer_revoked(&self, key: &str) -> bool {
        self.issuers.contains(key)
    }

    /// Checks that a signing key is not revoked, for verification or signing.
    ///
    /// # Errors
    /// [`Reason::KidRevoked`].
    pub fn check_kid(&self, kid: &str) -> Result<(), Reason> {
        if self.kids.contains(kid) { Err(Reason::KidRevoked) } else { Ok(()) }
    }

    pub(crate) fn check_token(&self, jti: &str, sub: &str, issued: Timestamp) -> Result<(), Reason> {
        if self.jtis.contains(jti) {
            return Err(Reason::TokenIdRevoked);
        }
        self.check_subject(sub, issued)
    }

    /// Checks the holder of an API key. A key has no issue time: listed users have all keys revoked, other subjects
    /// until the time in their entry.
    ///
    /// # Errors
    /// [`Reason::SubjectRevoked`].
    pub(crate) fn check_holder(&self, holder: &Identity, now: Timestamp) -> Result<(), Reason> {
        let name = holder.to_string();
        match holder {
            Identity::User { .. } if self.subjects.contains_key(&name) => Err(Reason::SubjectRevoked),
            _ => self.check_subject(&name, now),
        }
    }

    /// Checks that tokens of `sub` issued at that time are not revoked.
    ///
    /// # Errors
    /// [`Reason::SubjectRevoked`] if only tokens issued later are accepted.
    pub fn check_subject(&self, sub: &str, issued: Timestamp) -> Result<(), Reason> {
        match self.subjects.get(sub) {
            Some(not_before) if issued < *not_before => Err(Reason::SubjectRevoked),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use gaia_api::mount::DeniedSubject;

    use super::*;

    #[test]
    fn of_two_entries_for_a_subject_the_later_counts() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let entry = |second| DeniedSubject { sub: "s".into(), not_before: at(second) };
        let denied = Denied::from(&Denylist { subjects: vec![entry(200), entry(100)], ..Denylist::empty() });
        assert_eq!(denied.check_token("j", "s", at(199)), Err(Reason::SubjectRevoked));
        assert_eq!(denied.check_token("j", "s", at(200)), Ok(()));
    }
}
