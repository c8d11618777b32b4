//! Executes a plan, with its preconditions.

use std::collections::BTreeMap;

use gaia_api::crd::ServiceCertificate;
use gaia_api::names::key;
use gaia_pki::sha256_hex;
use gaia_plan::keyring::ring::Ring;
use gaia_plan::leaf::names_hash;
use gaia_plan::object::{ObjectChange, ObjectKey, Version};
use gaia_plan::{Action, IssueLeaf, WriteSigner};
use serde_json::{Value, json};

use super::{Done, Leaf, Resource, Stored, World};

/// The reason why a write was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteError {
    /// The object does not have the version on which the write was planned. The next plan sees the new one.
    Conflict,
    /// The API server does not take it.
    Refused(String),
    /// The same, for a cause inside the object's namespace.
    RefusedHere(String),
    /// The operator died before it.
    Died,
}

impl World {
    /// Does one action. What it does is held against the invariants first.
    pub(crate) fn execute(&mut self, by: &Resource, action: &Action) -> Result<(), WriteError> {
        if self.fail_next > 0 {
            self.fail_next -= 1;
            return Err(WriteError::Refused("the API server said no".to_owned()));
        }
        match action {
            Action::CreateRing(request) => {
                // A user requested it: compromised material of the old ring is no longer known.
                (self.leaked, self.distrusted) = Default::default();
                self.create_ring(by, action, request)?;
            }
            Action::Transition(transition) => self.transition(transition)?,
            Action::Restore(restore) => self.restore(restore)?,
            Action::Nudge { pod, uid, value, .. } => {
                self.may_write()?;
                let found = self.pods.iter_mut().find(|found| found.name == *pod && found.uid == *uid);
                found.ok_or(WriteError::Conflict)?.nudged = Some(value.clone());
            }
            Action::RestartWorkload { target, value, .. } => {
                self.may_write()?;
                let before = self.memory.restarted.insert(target.clone(), value.clone());
                // The same annotation again is no change of the template.
                if before.as_ref() != Some(value)
                    && self.templates.insert(target.clone(), value.clone()).as_ref() != Some(value)
                {
                    self.roll_out(target);
                }
            }
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
                self.may_write()?;
                self.check_action(by, action);
                self.objects.remove(key);
                self.remember(key);
            }
        }
        self.log.push(Done { at: self.now, by: by.clone(), action: action.clone() });
        Ok(())
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
            paced: leaf.paced,
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

    /// Counts a write that is about to be done.
    pub(super) fn may_write(&mut self) -> Result<(), WriteError> {
        match &mut self.writes_left {
            Some(0) => return Err(WriteError::Died),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }

    /// A POST, or a merge patch with uid and resource version.
    pub(super) fn write(
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
        let namespace = change.key.namespace.as_str();
        if self.webhook_down && namespace != super::OPERATOR_NAMESPACE {
            return Err(WriteError::Refused("failed calling webhook".to_owned()));
        }
        if change.on.is_none() && self.quotas.contains(namespace) || self.full.contains(&change.key) {
            return Err(WriteError::RefusedHere("refused in this namespace".to_owned()));
        }
        self.may_write()?;
        self.check_action(by, action);
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
        self.remember(&change.key);
        self.memory.lost.remove(&change.key);
        self.memory.refused.remove(&change.key);
        Ok(())
    }

    fn create_child(&mut self, by: &Resource, action: &Action, child: &ServiceCertificate) -> Result<(), WriteError> {
        let name = (child.metadata.namespace.clone().unwrap(), child.metadata.name.clone().unwrap());
        if self.certificates.contains_key(&name) {
            return Err(WriteError::Conflict);
        }
        self.may_write()?;
        self.check_action(by, action);
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
        self.may_write()?;
        self.check_action(by, action);
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
