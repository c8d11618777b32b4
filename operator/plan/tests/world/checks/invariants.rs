//! Checks of the invariants for each single plan and action, without the planner's code.

use std::net::IpAddr;
use std::time::Duration;

use gaia_api::crd::Renewal;
use gaia_api::names::{self, COMPONENT_LABEL, annotation};
use gaia_plan::keyring::ring::{CaRing, MaterialRequest, RingKind, RingRequest, State};
use gaia_plan::object::{ObjectChange, ObjectKey, ObjectKind};
use gaia_plan::pacing::budget::IssuanceBudget;
use gaia_plan::rules::limits;
use gaia_plan::{Action, IssueLeaf};
use jiff::{SignedDuration, Timestamp};

use super::observe::is_leaf_of;
use super::{Name, OPERATOR_NAMESPACE, Planned, Resource, Stored, World};

impl World {
    /// Invariant 8, and that key material is nowhere in public content.
    pub(super) fn check_plan(&mut self, resource: &Resource, planned: &Planned) {
        let now = self.now;
        let wait = planned.next_check.duration_since(now);
        if wait <= SignedDuration::ZERO || wait > SignedDuration::from_hours(1) {
            self.against(8, format!("{resource:?} is checked again in {wait:#}"));
        }
        for (what, threshold) in self.thresholds(resource, planned) {
            // One second is the least time to the next look.
            let late = threshold.max(now.saturating_add(SignedDuration::from_secs(1)).unwrap_or(now));
            if threshold > now && planned.next_check > late {
                self.against(
                    8,
                    format!("{resource:?}: {what} at {threshold}, but next check at {}", planned.next_check),
                );
            }
        }
    }

    /// Every time at which something is due for that resource.
    fn thresholds(&self, resource: &Resource, planned: &Planned) -> Vec<(&'static str, Timestamp)> {
        let failures = self.memory.failures.get(resource);
        let mut found = vec![];
        match resource {
            Resource::Certificate(name) => {
                let certificate = &self.certificates[name];
                let full = IssuanceBudget::full(self.now);
                let budget = self.budget(name);
                // What only waits would be done without what it waits for.
                if let Some(failures) = failures
                    && planned.actions.is_empty()
                    && !self.plan_certificate(name, full, None).actions.is_empty()
                {
                    let domain = self.domains.get(&certificate.spec.trust_domain_ref.name);
                    let default = domain.map(|domain| domain.spec.certificate_defaults.duration.clone());
                    let life = certificate.spec.duration.clone().or(default);
                    let cap = limits::retry_cap(life.map(|span| span.value()).unwrap_or_default());
                    found.push(("retry", failures.retry_at(cap)));
                }
                if planned.actions.is_empty() && !self.plan_certificate(name, full, failures).actions.is_empty() {
                    found.push(("budget", budget.next(self.now)));
                }
                let key = ObjectKey::secret(&name.0, certificate.secret_name());
                if let Some((leaf, _)) =
                    self.seen().get(&key).filter(|s| !s.foreign).and_then(|stored| self.leaf(stored))
                    && planned_leaf(planned)
                {
                    found.push(("notAfter", leaf.not_after));
                    // A leaf whose CA becomes valid later than the leaf would appears to have been issued later.
                    let whole = leaf.not_after.duration_since(leaf.not_before);
                    let backdate = (whole / 11).min(SignedDuration::from_mins(5));
                    let begin = leaf.not_before.checked_add(backdate).unwrap_or(leaf.issued_at).max(leaf.issued_at);
                    let third = leaf.not_after.duration_since(begin) / 3;
                    let due = leaf.not_after.checked_sub(third).unwrap_or(leaf.not_after);
                    // Jitter makes a renewal earlier, never later than two thirds. A leaf that is not renewed is only
                    // reported as due, which the jitter may have moved before this time. The same holds for a leaf that
                    // expires with the CA: another one would be no better.
                    let active = self.ca_ring(&certificate.spec.trust_domain_ref.name).and_then(CaRing::active);
                    let is_clamped = active.is_some_and(|active| active.material.not_after <= leaf.not_after);
                    let renews = (certificate.spec.renewal == Renewal::Enabled && !is_clamped)
                        || self.now < due.saturating_sub(third / 30).unwrap();
                    // While a write is pending, the next check follows it; a refusal is checked again when its cause
                    // changes.
                    let is_settled = |type_: &str| planned.status.condition(type_).0 == "False";
                    if renews && planned.actions.is_empty() && is_settled("Reconciling") && is_settled("Stalled") {
                        found.push(("renewal", due));
                    }
                }
                found.extend(self.ends(&certificate.spec.trust_domain_ref.name));
            }
            Resource::Domain(name) => {
                found.extend(self.ends(name));
                if planned.actions.is_empty() && planned.status.condition("Stalled").0 == "False" {
                    found.extend(self.rotation_thresholds(name));
                }
                if let Some(failures) = failures.filter(|_| planned.actions.is_empty() && planned.status.waits()) {
                    found.push(("retry", failures.retry_at(Duration::from_secs(30))));
                }
            }
            Resource::Service(_) => {
                if let Some(failures) = failures.filter(|_| planned.actions.is_empty() && planned.status.waits()) {
                    found.push(("retry", failures.retry_at(Duration::from_secs(600))));
                }
            }
        }
        found
    }

    /// Returns the expiry times of trusted CAs: the bundle changes then.
    fn ends(&self, domain: &str) -> Vec<(&'static str, Timestamp)> {
        let ring = self.ca_ring(domain).filter(|_| self.domains.contains_key(domain));
        ring.into_iter().flat_map(CaRing::trusted).map(|g| ("end of a CA", g.material.not_after)).collect()
    }

    pub(crate) fn leaf_of_domain_exists(&self, domain: &str) -> bool {
        self.objects.iter().any(|(key, stored)| is_leaf_of(key, stored, domain))
    }

    /// Checks that every required object exists, with the required content.
    pub(crate) fn is_whole(&self) -> Result<(), String> {
        for (name, domain) in &self.domains {
            let ca = self.ca_ring(name).ok_or("no CA ring")?;
            let live = ca.trusted().filter(|g| g.material.not_after > self.now || g.state == State::Active);
            let roots: String = live.map(|generation| generation.material.root.as_str()).collect();
            let signing = self.signing_ring(name).ok_or("no signing ring")?;
            let kid = signing.active().ok_or("no key")?.material.jwk.kid().to_owned();
            for namespace in self.consumers(name) {
                let trust =
                    self.config_map(&namespace, &names::trust(name)).ok_or(format!("no trust in {namespace}"))?;
                let jwks = trust.content.get("jwks.json").is_some_and(|jwks| jwks.contains(&kid));
                let public = trust.content.get("jwt-signing.pub") == Some(&format!("PUBLIC {kid}\n"));
                if trust.content.get("ca.crt") != Some(&roots) || !jwks || !public || trust.content.len() != 4 {
                    return Err(format!("trust in {namespace}: {:?}", trust.content));
                }
            }
            for namespace in self.namespaces.keys() {
                let issuer = domain.spec.tokens.issued_by.as_ref().filter(|issuer| {
                    issuer.namespace == *namespace
                        && self.services.contains_key(&(namespace.clone(), issuer.name.clone()))
                });
                let signer = self.secret(namespace, &names::token_signer(name));
                let grants = self.config_map(namespace, &names::grants(name));
                let right = signer.is_some_and(|signer| {
                    signer.content.get("jwt-signing.key") == Some(&format!("KEY {kid}"))
                        && signer.content.get("kid") == Some(&kid)
                }) && grants.is_some_and(|grants| grants.content.contains_key("grants.json"));
                if right != issuer.is_some() || (issuer.is_none() && (signer.is_some() || grants.is_some())) {
                    return Err(format!("signer and grants in {namespace}: {signer:?} {grants:?}"));
                }
            }
            for (key, certificate) in &self.certificates {
                let stored = self.secret(&key.0, &certificate.secret_name()).ok_or(format!("no Secret of {key:?}"))?;
                let (leaf, key_matches) = self.leaf(stored).ok_or(format!("no leaf of {key:?}"))?;
                let in_force = leaf.not_after > self.now && leaf.issuer == ca.active().unwrap().material.fingerprint;
                let labelled = super::observe::is_labelled(stored);
                if !key_matches || !in_force || !labelled || stored.content.get("ca.crt") != Some(&roots) {
                    return Err(format!("{key:?}: {stored:?}"));
                }
            }
        }
        for key in self.services.keys() {
            let policy = self.config_map(&key.0, &names::policy(&key.1)).ok_or(format!("no policy of {key:?}"))?;
            if policy.content.keys().collect::<Vec<_>>() != ["policy.json"] || policy.content["policy.json"].len() < 20
            {
                return Err(format!("policy of {key:?}: {:?}", policy.content));
            }
        }
        Ok(())
    }

    /// Holds an action, just before it is done, against the invariants.
    pub(super) fn check_action(&mut self, by: &Resource, action: &Action) {
        match action {
            Action::CreateRing(request) => self.check_ring(request),
            Action::Write(change) => self.check_write(action, change),
            Action::WriteSigner(signer) => self.check_write(action, &signer.object),
            Action::IssueLeaf(leaf) => {
                self.check_write(action, &leaf.object);
                if let Resource::Certificate(name) = by {
                    self.check_leaf(name, leaf);
                }
            }
            Action::Delete { key, .. } => {
                self.check_foreign(action, key);
                let label = self.objects.get(key).and_then(|stored| stored.facts.labels.get(COMPONENT_LABEL));
                if key.namespace == OPERATOR_NAMESPACE && key.kind == ObjectKind::Secret && key.name.contains("-ring")
                    || label.is_some_and(|label| label == "leaf" || label == "policy")
                {
                    self.against(14, format!("{action}"));
                }
            }
            Action::PatchCertificate { key, .. } => {
                let found = self.certificates.get(&(key.namespace.clone(), key.name.clone()));
                let labels = found.and_then(|found| found.metadata.labels.as_ref());
                if labels.is_some_and(|labels| labels.contains_key(FOREIGN_LABEL)) {
                    self.against(9, format!("{action}"));
                }
            }
            Action::CreateCertificate(_)
            | Action::Transition(_)
            | Action::Restore(_)
            | Action::Nudge { .. }
            | Action::RestartWorkload { .. } => {}
        }
    }

    fn check_foreign(&mut self, action: &Action, key: &ObjectKey) {
        if self.objects.get(key).is_some_and(|stored| stored.foreign) {
            self.against(9, format!("{action}"));
        }
    }

    fn check_write(&mut self, action: &Action, change: &ObjectChange) {
        self.check_foreign(action, &change.key);
        for key in change.data.keys() {
            if key.ends_with(".key") || key == "tls.crt" || key == "ring.json" {
                self.against(12, format!("{action} touches {key}, which only goes with a new key"));
            }
        }
        self.check_projected(&change.key, &change.data);
        let Some(stored) = self.objects.get(&change.key) else { return };
        for kind in [RingKind::Ca, RingKind::SigningKeys] {
            let (epoch, mac) = gaia_plan::keyring::epoch::annotations_of(kind);
            let ring = if kind == RingKind::Ca { names::ca_ring(super::TD) } else { names::signing_ring(super::TD) };
            let found = (stored.facts.number(epoch), self.mac(&ring));
            if let (Some(claimed), Some(key)) = found
                && stored.facts.annotations.get(mac) != Some(&key.of(kind, &change.key, claimed))
            {
                // An operator with this ring did not write it.
                continue;
            }
            let after = change.annotations.get(epoch).and_then(|value| value.as_ref()?.parse::<u64>().ok());
            if let (Some(before), Some(after)) = (stored.facts.number(epoch), after)
                && after < before
            {
                self.against(0, format!("{action}: epoch {after} overwrites epoch {before}"));
                return;
            }
        }
    }

    /// Invariant 14: no remains of a lost ring exist, or a user requested the new one.
    fn check_ring(&mut self, request: &RingRequest) {
        let name = &request.trust_domain;
        if request.object.on.is_some() {
            self.against(12, format!("{} is made over one that is there", request.object.key));
        }
        let meta = self.domains.get(name).map(|domain| domain.metadata.clone()).unwrap_or_default();
        let asked = meta.annotations.as_ref().and_then(|all| all.get(annotation::BOOTSTRAP));
        if asked.zip(meta.uid.as_ref()).is_some_and(|(asked, uid)| asked.starts_with(&format!("{uid},"))) {
            return;
        }
        let ring = match request.material {
            MaterialRequest::SigningKeys { .. } => names::signing_ring(name),
            _ => names::ca_ring(name),
        };
        let copy = self.objects.contains_key(&ObjectKey::secret(OPERATOR_NAMESPACE, names::previous(&ring)));
        let trust = names::trust(name);
        let is_trust = |key: &ObjectKey, stored: &Stored| {
            key.kind == ObjectKind::ConfigMap && key.name == trust && super::observe::is_labelled(stored)
        };
        let left = copy
            || self.objects.iter().any(|(key, stored)| is_trust(key, stored))
            || self.objects.iter().any(|(key, stored)| is_leaf_of(key, stored, name));
        if left {
            self.against(14, format!("a new {ring} was made although something of the old one is left"));
        }
    }

    fn check_leaf(&mut self, name: &Name, leaf: &IssueLeaf) {
        let now = self.now;
        let domain = self.domains[&leaf.trust_domain].clone();
        if !self.selects(&domain, &name.0) {
            self.against(15, format!("{name:?} is not in a namespace that is selected"));
        }
        for dns in &leaf.dns_names {
            if !may_carry_dns(&domain.spec.allowed_names, name, dns) {
                self.against(15, format!("{name:?} got the name {dns}"));
            }
        }
        for ip in &leaf.ip_addresses {
            if !may_carry_ip(&domain.spec.allowed_names, name, *ip) {
                self.against(15, format!("{name:?} got the address {ip}"));
            }
        }
        let account = self.certificates[name].spec.service_account_name.clone().unwrap_or_else(|| name.1.clone());
        if leaf.spiffe_id != format!("spiffe://{}/ns/{}/sa/{account}", domain.spec.trust_domain, name.0) {
            self.against(15, format!("{name:?} got the id {}", leaf.spiffe_id));
        }
        let ring = self.ca_ring(&leaf.trust_domain).unwrap().clone();
        let ca = &ring.active().unwrap().material;
        if leaf.not_after > ca.not_after || leaf.not_before >= leaf.not_after || leaf.not_after <= now {
            let (from, until, end) = (leaf.not_before, leaf.not_after, ca.not_after);
            self.against(0, format!("at {now} a leaf from {from} until {until}, of a CA until {end}"));
        }
        if let Some(what) = self.worse(name, leaf, &ring) {
            self.against(5, what);
        }
    }

    /// Invariant 5: a usable leaf that still matches the request is only replaced by a better one.
    fn worse(&self, name: &Name, leaf: &IssueLeaf, ring: &CaRing) -> Option<String> {
        let stored = self.objects.get(&leaf.object.key)?;
        let (old, key_matches) = self.leaf(stored)?;
        let trusted = ring.trusted().any(|generation| generation.material.fingerprint == old.issuer);
        let usable = key_matches && trusted && old.not_before <= self.now && self.now < old.not_after;
        let same_spec = !leaf.object.annotations.contains_key(annotation::SPEC_HASH);
        if !usable || !same_spec || self.now < old.issued_at {
            return None;
        }
        let domain = &self.domains[&leaf.trust_domain];
        let renews = self.certificates[name].spec.renewal == gaia_api::crd::Renewal::Enabled;
        let other_ca = old.issuer != leaf.ca_fingerprint && renews;
        if other_ca || domain.spec.revoked.leaves.contains(&old.fingerprint) {
            return None;
        }
        let limit = domain.spec.certificate_defaults.max_duration.as_ref().map(gaia_api::Span::value);
        let is_limited = limit.is_some_and(|limit| old.not_after.duration_since(old.issued_at).unsigned_abs() > limit);
        if leaf.not_after < old.not_after && !is_limited {
            return Some(format!("until {} instead of {}", leaf.not_after, old.not_after));
        }
        let asked = leaf.object.annotations.contains_key(annotation::RENEW_REQUESTED_AT);
        let life = old.not_after.duration_since(old.issued_at);
        let passed = self.now.duration_since(old.issued_at);
        // Two thirds, minus a jitter of 1 % and the part of a second that certificates cannot represent.
        let due = passed.as_secs() * 100 >= life.as_secs() * 65;
        let needed = asked || (due && renews && leaf.not_after > old.not_after);
        if !needed {
            return Some(format!("{name:?}: a usable leaf of {life:#} was replaced after {passed:#} without need"));
        }
        None
    }
}

fn may_carry_dns(granted: &[gaia_api::crd::AllowedNames], (namespace, service): &Name, dns: &str) -> bool {
    let bare = dns.strip_prefix("*.").unwrap_or(dns);
    let own = format!("{service}.{namespace}.svc.cluster.local");
    let is_own = own == bare
        || own.strip_prefix(bare).is_some_and(|rest| rest.starts_with(".svc") || rest == ".cluster.local")
        || bare == service
        || own.starts_with(&format!("{bare}.")) && bare.starts_with(&format!("{service}."));
    if is_own {
        return true;
    }
    if bare == "gaia-operator" || bare.starts_with("gaia-operator.gaia-system") {
        return false;
    }
    granted.iter().filter(|grant| grant.namespaces.contains(namespace)).flat_map(|grant| &grant.dns_names).any(
        |pattern| match pattern.strip_prefix("*.") {
            None => pattern == dns,
            Some(parent) => {
                pattern == dns || dns.split_once('.').is_some_and(|(label, rest)| label != "*" && rest == parent)
            }
        },
    )
}

/// The ranges that the generators grant.
fn may_carry_ip(granted: &[gaia_api::crd::AllowedNames], (namespace, _): &Name, ip: IpAddr) -> bool {
    let ranges = granted.iter().filter(|grant| grant.namespaces.contains(namespace)).flat_map(|grant| &grant.ip_ranges);
    ranges.into_iter().any(|range| match (range.as_str(), ip) {
        ("10.0.0.0/8", IpAddr::V4(ip)) => ip.octets()[0] == 10,
        ("fd00::/8", IpAddr::V6(ip)) => ip.octets()[0] == 0xfd,
        _ => false,
    })
}

/// Returns true if the plan is about a leaf that the operator recognises as the certificate's own.
fn planned_leaf(planned: &Planned) -> bool {
    matches!(&planned.status, super::Status::Certificate(status) if status.not_after.is_some())
}

/// A user created the ServiceCertificate with this label, under the name of a GaiaService.
pub(super) const FOREIGN_LABEL: &str = "made-by-hand";
