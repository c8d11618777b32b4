//! API keys: opaque secrets of which only the hash is stored.

use std::collections::{HashMap, HashSet};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use gaia_api::SpiffeId;
use gaia_api::mount::{ApiKeyRecord, ApiKeyState, ApiKeys, Policy};
use jiff::Timestamp;

use crate::Reason;
use crate::hash::sha256_hex;
use crate::principal::Identity;

/// The API keys of one service, validated when loaded.
#[derive(Debug, Clone, Default)]
pub struct ApiKeyTable {
    records: Vec<ApiKeyRecord>,
    /// The keys of each user, as subjects.
    of_users: HashMap<Identity, Vec<Identity>>,
}

/// Reason why `api-keys.json` was rejected as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeyTableError {
    /// An id is empty or too long.
    #[error("record {index}: id must have 1 to 128 printable ASCII characters")]
    Id {
        /// Index of the record, from 0.
        index: usize,
    },
    /// The hash is malformed.
    #[error("record {id:?}: sha256 must be 64 lower-case hex digits")]
    Hash {
        /// The ID of the record.
        id: String,
    },
    /// The owner is a user of an issuer that is not in the policy.
    #[error(
        "record {id:?}: the principal is a user of issuer {issuer:?}, which is not in userTokens.issuers of policy.json; the key is rejected"
    )]
    Issuer {
        /// The ID of the record.
        id: String,
        /// The short name of the issuer.
        issuer: String,
    },
    /// Two records match the same key.
    #[error("record {id:?}: id or sha256 occurs twice")]
    Repeated {
        /// The ID of the second record.
        id: String,
    },
}

impl TryFrom<ApiKeys> for ApiKeyTable {
    type Error = ApiKeyTableError;

    fn try_from(file: ApiKeys) -> Result<Self, ApiKeyTableError> {
        let mut seen = HashSet::new();
        for (index, record) in file.keys.iter().enumerate() {
            if !(1..=128).contains(&record.id.len()) || !record.id.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(ApiKeyTableError::Id { index });
            }
            let is_hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if record.sha256.len() != 64 || !is_hex(&record.sha256) {
                return Err(ApiKeyTableError::Hash { id: record.id.clone() });
            }
            if !seen.insert(format!("id {}", record.id)) || !seen.insert(format!("hash {}", record.sha256)) {
                return Err(ApiKeyTableError::Repeated { id: record.id.clone() });
            }
        }
        let mut of_users: HashMap<Identity, Vec<Identity>> = HashMap::new();
        for record in &file.keys {
            let holder = holder(record);
            // A key of a service can still stand for itself, where its owner presents it.
            if matches!(holder, Identity::User { .. }) {
                of_users.entry(holder).or_default().push(Identity::Key(record.id.clone()));
            }
        }
        Ok(Self { records: file.keys, of_users })
    }
}

impl ApiKeyTable {
    /// Checks that the issuer of every user who owns a key is in the policy. Keys of other users are rejected.
    ///
    /// # Errors
    /// [`ApiKeyTableError::Issuer`] with the first such key.
    pub fn check_issuers(&self, policy: &Policy) -> Result<(), ApiKeyTableError> {
        for record in &self.records {
            if let Identity::User { issuer, .. } = holder(record)
                && !policy.user_tokens.issuers.iter().any(|known| known.name == issuer)
            {
                return Err(ApiKeyTableError::Issuer { id: record.id.clone(), issuer });
            }
        }
        Ok(())
    }

    /// Returns the keys, as subjects, whose records name this user as their principal.
    pub(crate) fn keys_of(&self, user: &Identity) -> Vec<Identity> {
        self.of_users.get(user).cloned().unwrap_or_default()
    }

    /// Looks up the record of a presented key. Every record is compared in constant time, so that the duration reveals
    /// neither the matching record nor a partial match.
    #[must_use]
    pub fn find_record(&self, key: &str) -> Option<&ApiKeyRecord> {
        let hash = sha256_hex(key.as_bytes());
        let mut found = None;
        for record in &self.records {
            if verify_slices_are_equal(record.sha256.as_bytes(), hash.as_bytes()).is_ok() {
                found = Some(record);
            }
        }
        found
    }
}

/// Checks the state and expiry of a record, in a mode that accepts keys.
///
/// # Errors
/// The [`Reason`] why the key is rejected.
pub(crate) fn check(record: &ApiKeyRecord, now: Timestamp) -> Result<(), Reason> {
    if record.state == ApiKeyState::Revoked {
        return Err(Reason::ApiKeyRevoked);
    }
    if record.expires.is_some_and(|expires| now >= expires) {
        return Err(Reason::ApiKeyExpired);
    }
    Ok(())
}

/// Returns the owner of a key: the workload or user, or the key itself if it has none.
pub(crate) fn holder(record: &ApiKeyRecord) -> Identity {
    let own = || Identity::Key(record.id.clone());
    if record.shared {
        return own();
    }
    match SpiffeId::parse(&record.principal) {
        Ok(owner) => Identity::Service(owner),
        Err(_) => match Identity::parse_delegated(&record.principal) {
            Some(user @ Identity::User { .. }) => user,
            _ => own(),
        },
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use gaia_api::mount::SCHEMA_VERSION;

    use super::*;
    use crate::fixtures::{at, now};

    pub(crate) fn record(id: &str, key: &str) -> ApiKeyRecord {
        ApiKeyRecord {
            id: id.to_owned(),
            sha256: sha256_hex(key.as_bytes()),
            principal: "mobile-app".to_owned(),
            scopes: vec![],
            expires: None,
            state: ApiKeyState::Active,
            mode: None,
            shared: false,
        }
    }

    pub(crate) fn table(keys: Vec<ApiKeyRecord>) -> Result<ApiKeyTable, ApiKeyTableError> {
        ApiKeyTable::try_from(ApiKeys { schema_version: SCHEMA_VERSION, keys })
    }

    #[test]
    fn a_key_is_recognised_by_its_hash_alone() {
        let table = table(vec![record("a", "key-a"), record("b", "key-b")]).unwrap();
        assert_eq!(table.find_record("key-b").map(|r| r.id.as_str()), Some("b"));
        assert_eq!(table.find_record("key-c"), None);
        assert_eq!(table.find_record(&sha256_hex(b"key-b")), None, "the stored hash is not accepted as a key");
    }

    #[test]
    fn a_key_stops_when_it_expires_or_is_revoked() {
        let good = record("a", "k");
        assert_eq!(check(&good, now()), Ok(()));
        let ends = |expires| ApiKeyRecord { expires: Some(expires), ..good.clone() };
        assert_eq!(check(&ends(now()), now()), Err(Reason::ApiKeyExpired));
        assert_eq!(check(&ends(at(now().as_second() + 1)), now()), Ok(()));
        let revoked = ApiKeyRecord { state: ApiKeyState::Revoked, ..good };
        assert_eq!(check(&revoked, now()), Err(Reason::ApiKeyRevoked));
    }

    #[test]
    fn a_free_name_can_never_pose_as_another_identity() {
        let named =
            |principal: &str, shared| holder(&ApiKeyRecord { principal: principal.into(), shared, ..record("a", "k") });
        let service = "spiffe://gaia.local/ns/shop/sa/gateway";
        assert_eq!(named(service, false).to_string(), service);
        assert_eq!(named(service, true).to_string(), "key:a", "a shared key has no owner");
        assert_eq!(named("key:b", false).to_string(), "key:a");
        // Such a name belongs to a user; the policy decides whether the issuer is known.
        assert_eq!(named("user:x:42", false).to_string(), "user:x:42");
        assert_eq!(named("user:x:42", true).to_string(), "key:a", "a shared key has no owner");
        for free in ["user:alice", "user:X:42", "user:x:", "user:x:two words"] {
            assert_eq!(named(free, false).to_string(), "key:a", "{free}");
        }
    }

    #[test]
    fn a_file_that_could_be_read_two_ways_is_refused() {
        let refused = |keys| table(keys).unwrap_err().to_string();
        assert!(refused(vec![record("a", "k"), record("a", "l")]).contains("twice"));
        assert!(refused(vec![record("a", "k"), record("b", "k")]).contains("twice"));
        assert!(refused(vec![record("", "k")]).contains("record 0"));
        let upper = record("a", "k").sha256.to_ascii_uppercase();
        assert!(refused(vec![ApiKeyRecord { sha256: upper, ..record("a", "k") }]).contains("lower-case hex"));
    }
}
