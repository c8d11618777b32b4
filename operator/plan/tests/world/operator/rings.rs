//! Rings: created, replaced after they were copied, restored from the copy.

use std::collections::BTreeMap;
use std::time::Duration;

use gaia_api::names::{self, COMPONENT_LABEL, MANAGED_BY, MANAGED_BY_LABEL, TRUST_DOMAIN_LABEL, key};
use gaia_pki::{KeySpec, sha256_hex};
use gaia_plan::Action;
use gaia_plan::keyring::ring::{
    CaMaterial, CaPath, FORMAT_VERSION, Generation, Material, MaterialRequest, Ring, RingKind, RingRequest,
    SigningMaterial, State, short_id,
};
use gaia_plan::keyring::transition::{Restore, Step, Transition};
use gaia_plan::object::ObjectKey;
use gaia_plan::pacing::backoff::{saturating_add, saturating_sub};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::execute::WriteError;
use super::{Resource, Stored, World};

type Content = BTreeMap<String, String>;

impl World {
    pub(super) fn create_ring(
        &mut self,
        by: &Resource,
        action: &Action,
        request: &RingRequest,
    ) -> Result<(), WriteError> {
        let content = match &request.material {
            material @ (MaterialRequest::NewCa { .. } | MaterialRequest::ExistingCa { .. }) => {
                let made = vec![self.make_ca(material)?];
                self.first(request, made, None)
            }
            MaterialRequest::SigningKeys { key, max_ttl_seconds } => {
                let made = vec![self.make_key(*key), self.make_key(*key)];
                self.first(request, made, Some(*max_ttl_seconds))
            }
            MaterialRequest::SigningKey { .. } => return Err(WriteError::Refused("there is no next key".to_owned())),
        };
        self.write(by, action, &request.object, content)?;
        let is_ca = matches!(request.material, MaterialRequest::NewCa { .. } | MaterialRequest::ExistingCa { .. });
        if let Some(after) = self.ca_ring(&request.trust_domain).filter(|_| is_ca).cloned() {
            self.check_begun(&action.to_string(), None, &after);
        }
        Ok(())
    }

    fn first<M: Material + Clone + Serialize>(&self, request: &RingRequest, made: Vec<M>, ttl: Option<u64>) -> Content {
        let mut keys = Content::from([(key::EPOCH_MAC_KEY.to_owned(), self.mac_key())]);
        let mut generations = vec![];
        for (index, material) in made.into_iter().enumerate() {
            let state = if index == 0 { State::Active } else { State::Staged };
            keys.insert(format!("{}.key", material.id()), format!("KEY {}", material.name()));
            generations.push(Generation::new(material.id(), state, self.now, material));
        }
        let ring = Ring {
            format_version: FORMAT_VERSION,
            trust_domain: request.spiffe_trust_domain.clone(),
            epoch: request.epoch,
            max_ttl_high_water_seconds: ttl,
            revision: request.revision,
            handled_distrust: None,
            restored_from: None,
            handled: request.handled.clone(),
            generations,
        };
        content(&ring, &keys, |generation| generation.state.is_trusted())
    }

    /// A key of MACs. It is as old as the ring, and takes no number that other material would have.
    fn mac_key(&self) -> String {
        format!("MAC KEY {} {}", self.now, self.log.len())
    }

    fn make_ca(&mut self, request: &MaterialRequest) -> Result<CaMaterial, WriteError> {
        let backdated = saturating_sub(self.now, Duration::from_secs(300));
        let (fingerprint, not_before, not_after, key, is_external) = match request {
            MaterialRequest::NewCa { key, life_seconds } => {
                let fingerprint = sha256_hex(format!("ca {}", self.fresh()).as_bytes());
                let not_after = saturating_add(self.now, Duration::from_secs(*life_seconds));
                (fingerprint, backdated, not_after, *key, false)
            }
            MaterialRequest::ExistingCa { fingerprint, .. } => {
                let Some(Ok(external)) = self.external_ca.clone() else { return Err(WriteError::Conflict) };
                if external.fingerprint != *fingerprint {
                    return Err(WriteError::Conflict);
                }
                let not_before = external.not_before.max(backdated);
                (external.fingerprint, not_before, external.not_after, KeySpec::Ecdsa256, true)
            }
            other => return Err(WriteError::Refused(format!("a CA cannot be generated from a {other}"))),
        };
        let fake = || (format!("CHAIN {fingerprint}\n"), format!("ROOT {fingerprint}\n"));
        let (chain, root) = self.pems.get(&fingerprint).cloned().unwrap_or_else(fake);
        let read = |pem: &str| gaia_pki::Certificate::chain_from_pem(pem.as_bytes()).ok();
        let root_fingerprint = read(&root).map(|root| root[0].fingerprint()).filter(|root| *root != fingerprint);
        Ok(CaMaterial {
            chain,
            root,
            root_fingerprint,
            subject_id: None,
            not_before,
            fingerprint,
            not_after,
            key,
            is_external,
            path: CaPath::default(),
        })
    }

    /// The public part of a new signing key. Its kid is generated, so that it is unique.
    fn make_key(&mut self, key: KeySpec) -> SigningMaterial {
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

    /// The copy, then the ring: two writes.
    pub(super) fn transition(&mut self, transition: &Transition) -> Result<(), WriteError> {
        let requests: Vec<MaterialRequest> = transition.steps.iter().filter_map(Step::material).cloned().collect();
        match transition.kind {
            RingKind::Ca => {
                let made = requests.iter().map(|request| self.make_ca(request)).collect::<Result<Vec<_>, _>>()?;
                let (before, after) = self.replace::<CaMaterial>(transition, made)?;
                self.check_ca_ring(transition, &before, &after);
                self.put_ring(transition, &after)
            }
            RingKind::SigningKeys => {
                let mut made = vec![];
                for request in &requests {
                    let MaterialRequest::SigningKey { key } = request else {
                        return Err(WriteError::Refused(format!("a signing key cannot be generated from a {request}")));
                    };
                    made.push(self.make_key(*key));
                }
                let (before, after) = self.replace::<SigningMaterial>(transition, made)?;
                self.check_signing_ring(transition, &before, &after);
                self.put_ring(transition, &after)
            }
        }
    }

    /// Copies a ring, and returns it before and after the change.
    fn replace<M: Material + Clone + Serialize + DeserializeOwned>(
        &mut self,
        transition: &Transition,
        made: Vec<M>,
    ) -> Result<(Ring<M>, Ring<M>), WriteError> {
        let stored = self.objects.get(&transition.key).ok_or(WriteError::Conflict)?;
        if stored.facts.version() != transition.on {
            return Err(WriteError::Conflict);
        }
        let before: Ring<M> = Ring::parse(stored.content[key::RING].as_bytes()).map_err(|_| WriteError::Conflict)?;
        let keys = stored.content.clone();
        let after = before.after(&transition.steps, made, self.now).map_err(|error| {
            // A plan never requests an impossible step on the ring that it was planned on.
            self.violations.push((2, format!("{transition}: {error}")));
            WriteError::Refused(error.to_string())
        })?;
        if transition.steps.iter().all(Step::only_records) {
            return Ok((before, after));
        }
        let copy = before.copy_before(&after);
        let content =
            content(&copy, &keys, |generation| generation.state.is_trusted() && generation.distrust.is_none());
        self.check_copy(&after, &content);
        self.put(&copy_of(&transition.key), &format!("{}-previous", component(transition.kind)), content)?;
        Ok((before, after))
    }

    fn put_ring<M: Material + Serialize>(
        &mut self,
        transition: &Transition,
        after: &Ring<M>,
    ) -> Result<(), WriteError> {
        let key = &transition.key;
        let mut keys = self.objects[key].content.clone();
        if transition.steps.contains(&Step::AddEpochKey) {
            keys.insert(key::EPOCH_MAC_KEY.to_owned(), self.mac_key());
        }
        for generation in &after.generations {
            // Material generated in this transition has its key; all other keys must still exist.
            let is_new = !self.objects[key].content[key::RING].contains(generation.material.name());
            let is_put_back = generation.state == State::Staged && !keys.contains_key(&generation.private_key_name());
            if is_new || is_put_back {
                keys.insert(generation.private_key_name(), format!("KEY {}", generation.material.name()));
            }
        }
        let content = content(after, &keys, |generation| generation.state.is_trusted());
        let label = self.objects[key].facts.labels.get(COMPONENT_LABEL).cloned().unwrap_or_default();
        self.put(key, &label, content)?;
        self.note_leaks(after);
        Ok(())
    }

    pub(super) fn restore(&mut self, restore: &Restore) -> Result<(), WriteError> {
        match restore.kind {
            RingKind::Ca => {
                let before = self.ca_ring(&restore.trust_domain).cloned();
                self.restore_ring::<CaMaterial>(restore)?;
                if let (Some(before), Some(after)) = (before, self.ca_ring(&restore.trust_domain).cloned()) {
                    self.check_begun(&format!("{restore:?}"), Some(&before), &after);
                }
                Ok(())
            }
            RingKind::SigningKeys => self.restore_ring::<SigningMaterial>(restore),
        }
    }

    fn restore_ring<M: Material + Clone + Serialize + DeserializeOwned>(
        &mut self,
        restore: &Restore,
    ) -> Result<(), WriteError> {
        let at = &restore.object.key;
        let parse = |stored: &Stored| Ring::<M>::parse(stored.content.get(key::RING)?.as_bytes()).ok();
        let copy_stored = self.objects.get(&copy_of(at)).ok_or(WriteError::Conflict)?;
        let copy = parse(copy_stored).ok_or(WriteError::Conflict)?;
        let found = self.objects.get(at);
        if copy.epoch != restore.epoch || found.map(|stored| stored.facts.version()) != restore.object.on {
            return Err(WriteError::Conflict);
        }
        let current = found.and_then(parse);
        let mut keys = found.map(|stored| stored.content.clone()).unwrap_or_default();
        let epoch_key = keys.remove_entry(key::EPOCH_MAC_KEY);
        keys.extend(copy_stored.content.clone());
        keys.extend(epoch_key);
        let mut restored = copy.restored(current.as_ref(), restore.new_epoch, self.now).map_err(|error| {
            self.violations.push((2, format!("{restore:?}: {error}")));
            WriteError::Refused(error.to_string())
        })?;
        restored.handled = restored.handled.merged(&restore.handled);
        let content = content(&restored, &keys, |generation| generation.state.is_trusted());
        self.check_restored(restore, current.as_ref(), &restored);
        self.put(at, component(restore.kind), content)?;
        self.note_leaks(&restored);
        Ok(())
    }

    /// A PUT of a whole Secret in the operator's namespace.
    fn put(&mut self, key: &ObjectKey, component: &str, content: Content) -> Result<(), WriteError> {
        self.may_write()?;
        self.check_content(key, &content);
        let fresh = self.fresh_version();
        let stored = self.objects.entry(key.clone()).or_default();
        if stored.facts.uid.is_empty() {
            stored.facts.uid = fresh.uid;
            stored.facts.type_ = Some("Opaque".to_owned());
        }
        let labels = [(MANAGED_BY_LABEL, MANAGED_BY), (TRUST_DOMAIN_LABEL, super::TD), (COMPONENT_LABEL, component)];
        let is_copy = key.name.ends_with("-previous");
        if is_copy || stored.facts.labels.is_empty() {
            stored.facts.labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        }
        stored.is_copy = is_copy;
        stored.content = content;
        stored.touch(fresh.resource_version.parse().unwrap());
        self.remember(key);
        self.memory.lost.remove(key);
        Ok(())
    }
}

pub(super) fn copy_of(ring: &ObjectKey) -> ObjectKey {
    ObjectKey::secret(&ring.namespace, names::previous(&ring.name))
}

fn component(kind: RingKind) -> &'static str {
    match kind {
        RingKind::Ca => "ca-ring",
        RingKind::SigningKeys => "signing-ring",
    }
}

/// `ring.json`, and the keys of those generations that keep theirs.
fn content<M: Serialize>(ring: &Ring<M>, keys: &Content, keeps_key: impl Fn(&Generation<M>) -> bool) -> Content {
    let mut content = Content::from([(key::RING.to_owned(), serde_json::to_string(ring).unwrap())]);
    content.extend(keys.get(key::EPOCH_MAC_KEY).map(|text| (key::EPOCH_MAC_KEY.to_owned(), text.clone())));
    for generation in ring.generations.iter().filter(|generation| keeps_key(generation)) {
        let name = generation.private_key_name();
        content.extend(keys.get(&name).map(|text| (name, text.clone())));
    }
    content
}
