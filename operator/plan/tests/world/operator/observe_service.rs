//! What a decision about a GaiaService rests on.

use gaia_api::crd::{GaiaService, TrustDomain};
use gaia_api::names::{self, key};
use gaia_plan::api_key_usage::LedgerObject;
use gaia_plan::gaia_service;
use gaia_plan::instances::lagging::ServedLeaf;
use gaia_plan::object::{ObjectKey, Ownership, is_ours};

use super::observe::map;
use super::{Name, Planned, Resource, Status, Stored, World, owners};

impl World {
    pub(super) fn plan_service(&self, name: &Name, reversed: bool) -> Planned {
        let service = &self.services[name];
        let domain_name = &service.spec.trust_domain_ref.name;
        let domain = self.domain_view(domain_name, &name.0);
        let services = domain.object.map(|domain| self.services_of(domain, reversed)).unwrap_or_default();
        let owner = Some(("GaiaService", name.1.as_str()));
        let child = match self.certificates.get(name) {
            None => Ownership::Absent,
            Some(child) => {
                let (labels, annotations) = (child.metadata.labels.clone(), child.metadata.annotations.clone());
                let (labels, annotations) = (labels.unwrap_or_default(), annotations.unwrap_or_default());
                let ours = is_ours(&labels, &annotations, &owners(&child.metadata), owner);
                if ours { Ownership::Ours(child) } else { Ownership::Foreign }
            }
        };
        let policy_key = ObjectKey::config_map(&name.0, names::policy(&name.1));
        let ledger_key = ObjectKey::config_map(&name.0, names::ledger(&name.1));
        let record = |stored: &Stored| {
            let text = stored.content.get(key::LEDGER)?;
            gaia_api::mount::read(key::LEDGER, text.as_bytes()).ok()
        };
        let instances = self.instances_of(&(name.0.clone(), names::leaf_secret(&name.1)));
        let secret = self.certificates.get(name).map(|found| ObjectKey::secret(&name.0, found.secret_name()));
        let leaf = secret.and_then(|key| {
            let held = self.as_leaf(self.held(&key, None), &key.name);
            let secret = held.ours()?;
            Some(ServedLeaf::of(key.clone(), &secret.facts, secret.leaf.as_ref()?))
        });
        let observed = gaia_service::Observed {
            service,
            domain,
            child,
            policy: map(self.held(&policy_key, owner), |stored| stored.facts.clone()),
            policy_lost: self.memory.lost.contains(&policy_key),
            ledger: map(self.held(&ledger_key, owner), |stored| LedgerObject {
                facts: stored.facts.clone(),
                record: record(stored),
            }),
            ledger_lost: self.memory.lost.contains(&ledger_key),
            watch: Some(self.ledgers(name)),
            callers: &services,
            targets: &services,
            unreadable: gaia_service::UnreadableServices::default(),
            grants_cut: self.memory.rollout.get(domain_name).and_then(|rollout| rollout.cut.get(name)),
            missing_secrets: self.memory.missing_secrets.clone(),
            instances: instances.iter().collect(),
            certificate_users: vec![],
            leaf,
            excluded_endpoints: self.excluded_endpoints(&name.0, &name.1),
            failures: self.failures(&Resource::Service(name.clone())),
        };
        let plan = gaia_service::plan(&observed, self.now).plan;
        Planned {
            actions: plan.actions,
            status: Status::Service(plan.status),
            next_check: plan.next_check,
            rollout: None,
        }
    }

    pub(super) fn services_of(&self, domain: &TrustDomain, reversed: bool) -> Vec<&GaiaService> {
        let name = domain.metadata.name.as_deref().unwrap_or_default();
        let all = self.services.values().filter(|service| service.spec.trust_domain_ref.name == name);
        if reversed { all.rev().collect() } else { all.collect() }
    }
}
