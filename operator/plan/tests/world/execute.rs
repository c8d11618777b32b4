//! Doing what a plan says, with its preconditions.

use std::collections::BTreeMap;

use gaia_api::crd::ServiceCertificate;
use gaia_api::names::key;
use gaia_pki::{KeySpec, sha256_hex};
use gaia_plan::backoff::{saturating_add, saturating_sub};
use gaia_plan::certificate::names_hash;
use gaia_plan::object::{ObjectChange, ObjectKey, Version};
use gaia_plan::ring::{
    CaMaterial, FORMAT_VERSION, Generation, MaterialRequest, Ring, RingRequest, SigningMaterial, State, short_id,
};
use gaia_plan::{Action, IssueLeaf, WriteSigner};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Done, Leaf, Resource, Stored, World};

/// Why a write was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteError {
    /// The object is not as it was planned on. The next plan knows more.
    Conflict,
    /// The API server does not take it.
    Refused(String),
}

impl World {
    /// Does one action. What it does is held against the invariants first.
    pub(crate) fn execute(&mut self, by: &Resource, action: &Action) -> Result<(), WriteError> {
        if self.fail_next > 0 {
            self.fail_next -= 1;
            return Err(WriteError::Refused("the API server said no".to_owned()));
        }
        match action {
            Action::CreateRing(request) => self.create_ring(by, action, request)?,
            Action::Write(change) => self.write(by, action, change, BTreeMap::new())?,
            Action::WriteSigner(signer) => self.write_signer(by, action, signer)?,
            Action::IssueLeaf(leaf) => self.issue(by, action, leaf)?,
            Action::CreateCertificate(certificate) => self.create_child(by, action, certificate)?,
            Action::PatchCertificate { key, version, patch, .. } => {
                self.patch_child(by, action, key, version, patch)?;
            }
            Action::Delete { key, version } => {
                let stored = self.objects.get(key).ok_or(WriteError::Conflict)?;
                if stored.facts.version() != *version {
                    return Err(WriteError::Conflict);
                }
                self.judge(by, action);
                self.objects.remove(key);
            }
        }
        self.log.push(Done { at: self.now, by: by.clone(), action: action.clone() });
        Ok(())
    }

    fn create_ring(&mut self, by: &Resource, action: &Action, request: &RingRequest) -> Result<(), WriteError> {
        let ca = |fingerprint: String, not_after: Timestamp, key: KeySpec, brought: bool, now: Timestamp| CaMaterial {
            chain: format!("CHAIN {fingerprint}\n"),
            root: format!("ROOT {fingerprint}\n"),
            not_before: saturating_sub(now, std::time::Duration::from_secs(300)),
            fingerprint,
            not_after,
            key,
            brought,
        };
        let domain = request.spiffe_trust_domain.clone();
        let (ring, keys) = match &request.material {
            MaterialRequest::NewCa { key, life_seconds } => {
                let fingerprint = sha256_hex(format!("ca {}", self.fresh()).as_bytes());
                let end = saturating_add(self.now, std::time::Duration::from_secs(*life_seconds));
                let material = ca(fingerprint.clone(), end, *key, false, self.now);
                (json!(ring(domain, None, vec![(short_id(&fingerprint), material)], self.now)), vec![fingerprint])
            }
            MaterialRequest::ExistingCa { fingerprint, .. } => {
                let Some(Ok(brought)) = self.brought.clone() else { return Err(WriteError::Conflict) };
                if brought.fingerprint != *fingerprint {
                    return Err(WriteError::Conflict);
                }
                let material = ca(fingerprint.clone(), brought.not_after, KeySpec::Ecdsa256, true, self.now);
                (
                    json!(ring(domain, None, vec![(short_id(fingerprint), material)], self.now)),
                    vec![fingerprint.clone()],
                )
            }
            MaterialRequest::SigningKeys { key, max_ttl_seconds } => {
                let materials = [self.signing_key(*key), self.signing_key(*key)];
                let kids = materials.iter().map(|material| material.jwk.kid().to_owned()).collect::<Vec<_>>();
                let generations = materials.into_iter().map(|m| (short_id(m.jwk.kid()), m)).collect();
                (json!(ring(domain, Some(*max_ttl_seconds), generations, self.now)), kids)
            }
        };
        let mut content = BTreeMap::from([(key::RING.to_owned(), ring.to_string())]);
        content.extend(keys.iter().map(|key| (format!("{}.key", short_id(key)), format!("KEY {key}"))));
        self.write(by, action, &request.object, content)
    }

    fn write_signer(&mut self, by: &Resource, action: &Action, signer: &WriteSigner) -> Result<(), WriteError> {
        let active = self.signing_ring(&signer.trust_domain).and_then(Ring::active);
        if active.is_none_or(|generation| generation.material.jwk.kid() != signer.kid) {
            return Err(WriteError::Conflict);
        }
        let content = BTreeMap::from([(key::JWT_SIGNING_KEY.to_owned(), format!("KEY {}", signer.kid))]);
        self.write(by, action, &signer.object, content)
    }

    fn issue(&mut self, by: &Resource, action: &Action, leaf: &IssueLeaf) -> Result<(), WriteError> {
        let active = self.ca_ring(&leaf.trust_domain).and_then(Ring::active);
        if active.is_none_or(|generation| generation.material.fingerprint != leaf.ca_fingerprint) {
            return Err(WriteError::Conflict);
        }
        let serial = self.fresh();
        let dns = leaf.dns_names.iter().map(String::as_str);
        let made = Leaf {
            issued_at: self.now,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            fingerprint: sha256_hex(format!("leaf {serial}").as_bytes()),
            issuer: leaf.ca_fingerprint.clone(),
            names_hash: names_hash([leaf.spiffe_id.as_str()], dns, &leaf.ip_addresses),
            dns: leaf.dns_names.clone(),
        };
        self.leaves.insert(serial, made);
        let content = BTreeMap::from([
            (key::TLS_CERT.to_owned(), format!("CERT {serial}")),
            (key::TLS_KEY.to_owned(), format!("KEY {serial}")),
        ]);
        self.write(by, action, &leaf.object, content)?;
        if let Resource::Certificate(name) = by {
            let budget = self.budget(name).spend(self.now);
            self.memory.budgets.insert(name.clone(), budget);
        }
        Ok(())
    }

    /// A POST, or a merge patch with uid and resource version.
    fn write(
        &mut self,
        by: &Resource,
        action: &Action,
        change: &ObjectChange,
        private: BTreeMap<String, String>,
    ) -> Result<(), WriteError> {
        let found = self.objects.get(&change.key);
        match (&change.on, found) {
            (None, Some(_)) => {
                self.memory.probed.insert(change.key.clone());
                return Err(WriteError::Conflict);
            }
            (Some(version), found) if found.is_none_or(|stored| stored.facts.version() != *version) => {
                return Err(WriteError::Conflict);
            }
            (Some(_), Some(stored)) if stored.facts.immutable && !(change.data.is_empty() && private.is_empty()) => {
                return Err(WriteError::Refused(format!("{} is immutable", change.key)));
            }
            _ => {}
        }
        if !self.namespaces.contains_key(&change.key.namespace) {
            return Err(WriteError::Refused(format!("namespace {} not found", change.key.namespace)));
        }
        self.judge(by, action);
        let fresh = self.fresh_version();
        let stored = self.objects.entry(change.key.clone()).or_insert_with(|| {
            let mut stored = Stored::default();
            stored.facts.uid = fresh.uid;
            stored.facts.type_ = change.secret_type.map(str::to_owned);
            stored
        });
        merge(&mut stored.facts.labels, &change.labels);
        merge(&mut stored.facts.annotations, &change.annotations);
        merge(&mut stored.content, &change.data);
        stored.content.extend(private);
        if let Some(owners) = &change.owners {
            stored.facts.owners.clone_from(owners);
        }
        stored.touch(fresh.resource_version.parse().unwrap());
        self.memory.lost.remove(&change.key);
        Ok(())
    }

    fn create_child(&mut self, by: &Resource, action: &Action, child: &ServiceCertificate) -> Result<(), WriteError> {
        let name = (child.metadata.namespace.clone().unwrap(), child.metadata.name.clone().unwrap());
        if self.certificates.contains_key(&name) {
            return Err(WriteError::Conflict);
        }
        self.judge(by, action);
        self.create_certificate(child.clone());
        Ok(())
    }

    fn patch_child(
        &mut self,
        by: &Resource,
        action: &Action,
        key: &ObjectKey,
        version: &Version,
        patch: &Value,
    ) -> Result<(), WriteError> {
        self.judge(by, action);
        let name = (key.namespace.clone(), key.name.clone());
        let fresh = self.fresh();
        let found = self.certificates.get_mut(&name).ok_or(WriteError::Conflict)?;
        let meta = &found.metadata;
        let is = (meta.uid.as_deref().unwrap_or_default(), meta.resource_version.as_deref().unwrap_or_default());
        if is != (&version.uid, &version.resource_version) {
            return Err(WriteError::Conflict);
        }
        let mut whole = serde_json::to_value(&*found).unwrap();
        apply(&mut whole, patch);
        let mut patched: ServiceCertificate = serde_json::from_value(whole).unwrap();
        if patched.spec.secret_name != found.spec.secret_name
            || patched.spec.trust_domain_ref != found.spec.trust_domain_ref
        {
            return Err(WriteError::Refused("must not change: the field is immutable".to_owned()));
        }
        if patched.spec != found.spec {
            patched.metadata.generation = patched.metadata.generation.map(|generation| generation + 1);
        }
        patched.metadata.resource_version = Some(fresh.to_string());
        *found = patched;
        Ok(())
    }

    /// The public part of a new signing key. Its kid is made up, so that it is unlike any other.
    fn signing_key(&mut self, key: KeySpec) -> SigningMaterial {
        let kid = format!("{:08}{:-<35}", self.fresh(), "");
        let jwk = if key.is_rsa() {
            let n = format!("g{}", "A".repeat(341));
            json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": n, "e": "AQAB"})
        } else {
            let octets = "A".repeat(43);
            json!({"kty": "EC", "use": "sig", "alg": "ES256", "kid": kid, "crv": "P-256", "x": octets, "y": octets})
        };
        SigningMaterial { jwk: serde_json::from_value(jwk).unwrap(), public_key: format!("PUBLIC {kid}\n") }
    }
}

/// A ring whose first generation signs, and whose others are published.
fn ring<M>(trust_domain: String, ttl: Option<u64>, materials: Vec<(String, M)>, now: Timestamp) -> Ring<M> {
    let generations = materials.into_iter().enumerate().map(|(index, (id, material))| Generation {
        id,
        state: if index == 0 { State::Active } else { State::Published },
        since: now,
        published_time: Some(now),
        switched_time: None,
        material,
    });
    Ring {
        format_version: FORMAT_VERSION,
        trust_domain,
        epoch: 1,
        max_ttl_high_water_seconds: ttl,
        generations: generations.collect(),
    }
}

fn merge(target: &mut BTreeMap<String, String>, patch: &BTreeMap<String, Option<String>>) {
    for (key, value) in patch {
        match value {
            Some(value) => target.insert(key.clone(), value.clone()),
            None => target.remove(key),
        };
    }
}

/// RFC 7396, section 2.
fn apply(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            apply(&mut target[key], value);
        }
    }
}
