//! `status.lagging` of custom resources: the lagging instances are computed for each report, so only a digest of the
//! reported list is kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use gaia_api::crd::{GaiaServiceStatus, ServiceCertificateStatus};
use gaia_api::identity::IdentityReport;
use gaia_api::names::{self, key};
use gaia_plan::instances::instance::Instance;
use gaia_plan::instances::lagging::ServedLeaf;
use gaia_plan::object::{ObjectFacts, ObjectKey};
use serde_json::{Value, json};

use super::instances::Entry;
use super::{ClusterCache, Place};
use crate::cache::facts::SecretFacts;
use crate::store::ObjectRef;

/// Digests of the lists that were reported and are not empty, by resource.
#[derive(Default)]
pub(super) struct ReportedLags(HashMap<ObjectRef, String>);

/// The files that an instance reports: when they change, its service is planned again.
#[derive(PartialEq)]
pub(super) struct Loaded {
    leaf: String,
    bundle: String,
    kids: Vec<String>,
    denylist: Option<String>,
    policy: String,
    refused: BTreeMap<String, String>,
}

impl Loaded {
    pub(super) fn of(report: &IdentityReport) -> Self {
        Self {
            leaf: report.leaf.fingerprint.clone(),
            bundle: report.bundle_hash.clone(),
            kids: report.jwks_kids.clone(),
            denylist: report.denylist_hash.clone(),
            policy: report.policy_hash.clone(),
            refused: report.refused.clone(),
        }
    }
}

impl ClusterCache {
    /// The keys that depend on the content of a trust or policy ConfigMap that arrives. No other file of it is compared
    /// with the files that instances have loaded.
    pub(super) fn affected_by_dated_file(&mut self, place: &Place, arriving: &ObjectFacts) -> BTreeSet<ObjectRef> {
        let known = self.config_maps.get(place);
        let has_changed = |file: &str| known.is_none_or(|known| known.data.get(file) != arriving.data.get(file));
        let (denylist, policy) = (has_changed(key::DENYLIST), has_changed(key::POLICY));
        if let Some(service) = place.1.strip_suffix("-auth").filter(|_| policy) {
            let service = (place.0.clone(), service.to_owned());
            let domain = self.services.get(&service).map(|found| found.spec.trust_domain_ref.name.clone());
            if let Some(domain) = domain {
                self.probe_service_soon(&service, &domain);
            }
        }
        let domain =
            place.1.strip_suffix("-trust").filter(|domain| denylist && self.trust_domains.contains_key(*domain));
        let referring = domain.map(|domain| self.referring_to(domain)).unwrap_or_default();
        referring.into_iter().filter(|key| key.names().0 == place.0).collect()
    }

    /// Whether an instance reports another `policy.json` than the one in the ConfigMap of a service whose policy it mounts.
    pub(super) fn has_old_policy(&self, entry: &Entry) -> bool {
        let Some(report) = entry.instance.report() else { return false };
        entry.services.iter().any(|(namespace, service)| {
            let stored = self.config_maps.get(&(namespace.clone(), names::policy(service)));
            stored.and_then(|facts| facts.data.get(key::POLICY)).is_some_and(|hash| *hash != report.policy_hash)
        })
    }

    /// The certificate in the Secret of a ServiceCertificate.
    pub(super) fn served_leaf(&self, place: &Place) -> Option<ServedLeaf> {
        let name = self.certificates.get(place)?.secret_name();
        let Some(SecretFacts::Leaf { secret, .. }) = self.secrets.get(&(place.0.clone(), name.clone())) else {
            return None;
        };
        Some(ServedLeaf::of(ObjectKey::secret(&place.0, name), secret, secret.leaf()?))
    }

    /// The instances that use the Secret of a ServiceCertificate; empty where pods are unknown.
    pub(super) fn certificate_users(&self, place: &Place) -> Vec<&Instance> {
        let Some(certificate) = self.certificates.get(place) else { return vec![] };
        let domain = &certificate.spec.trust_domain_ref.name;
        self.instances_using(domain, &place.0, &certificate.secret_name()).iter().collect()
    }

    /// Removes the list from a service's status, and keeps its digest.
    pub(super) fn drop_service_lags(&mut self, place: &Place, status: Option<&mut GaiaServiceStatus>) {
        let list = status.map(|status| (std::mem::take(&mut status.lagging), status.lagging_count.take()));
        self.keep_digest(
            ObjectRef::Service(place.0.clone(), place.1.clone()),
            list.map(|(list, count)| json!([list, count])),
        );
    }

    /// The same of a ServiceCertificate.
    pub(super) fn drop_certificate_lags(&mut self, place: &Place, status: Option<&mut ServiceCertificateStatus>) {
        let list = status.map(|status| (std::mem::take(&mut status.lagging), status.lagging_count.take()));
        let key = ObjectRef::Certificate(place.0.clone(), place.1.clone());
        self.keep_digest(key, list.map(|(list, count)| json!([list, count])));
    }

    /// Removes the failed attempts at a deleted resource, and its list of instances.
    pub(super) fn forget_reports(&mut self, key: &ObjectRef) {
        self.failures.remove(key);
        self.reported_lags.0.remove(key);
    }

    /// Makes the reported status and the next one comparable: the list is removed from both if it is the same.
    pub(crate) fn compare_lags(&self, key: &ObjectRef, before: &mut Value, after: &mut Value) {
        let known = self.reported_lags.0.get(key);
        let list = json!([after.get("lagging").unwrap_or(&json!([])), after.get("laggingCount")]);
        let Some(fields) = after.as_object_mut() else { return };
        if digest(&list) == known.cloned() {
            fields.remove("lagging");
            fields.remove("laggingCount");
        } else if let (Some(_), Some(before)) = (known, before.as_object_mut()) {
            // They differ from anything, so that the patch replaces or removes them.
            before.insert("lagging".to_owned(), json!("reported"));
            before.insert("laggingCount".to_owned(), json!("reported"));
        }
    }

    fn keep_digest(&mut self, key: ObjectRef, list: Option<Value>) {
        match list.and_then(|list| digest(&list)) {
            Some(digest) => drop(self.reported_lags.0.insert(key, digest)),
            None => drop(self.reported_lags.0.remove(&key)),
        }
    }
}

/// None: the list is empty.
fn digest(list: &Value) -> Option<String> {
    (list != &json!([[], null])).then(|| gaia_pki::sha256_hex(list.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use gaia_api::crd::GaiaService;

    use super::*;
    use crate::cache::Surroundings;

    fn service(version: &str, lagging: &Value) -> GaiaService {
        let count = lagging.as_array().map(Vec::len).filter(|count| *count > 0);
        serde_json::from_value(json!({ "apiVersion": "gaia.dev/v1alpha1", "kind": "GaiaService",
            "metadata": { "namespace": "shop", "name": "web", "uid": "u1", "resourceVersion": version },
            "spec": { "trustDomainRef": { "name": "gaia" } },
            "status": { "policyHash": "a", "lagging": lagging, "laggingCount": count } }))
        .unwrap()
    }

    /// The patch that a report of this list would be.
    fn patch(world: &ClusterCache, lagging: &Value) -> Option<Value> {
        let key = ObjectRef::Service("shop".to_owned(), "web".to_owned());
        let place = ("shop".to_owned(), "web".to_owned());
        let mut before = json!(world.services[&place].status);
        let mut after = json!(service("0", lagging).status);
        world.compare_lags(&key, &mut before, &mut after);
        gaia_plan::object::merge::merge_patch(&before, &after)
    }

    /// Kind: memory that grows with the reports, and a report that is written again and again.
    #[test]
    fn reported_lists_are_not_kept_and_written_only_when_they_change() {
        let [operator_namespace, cluster_domain] = ["gaia-system", "cluster.local"].map(str::to_owned);
        let mut world =
            ClusterCache::new(Surroundings { operator_namespace, cluster_domain, watch_namespaces: vec![] });
        let old = |pod: &str| json!({ "pod": pod, "part": "TrustBundle", "expected": "b", "reason": "Stale" });
        let (none, one, two) = (json!([]), json!([old("a")]), json!([old("a"), old("b")]));
        world.apply_service(service("1", &none));
        assert_eq!(patch(&world, &none), None);
        assert_eq!(patch(&world, &one), Some(json!({ "lagging": one, "laggingCount": 1 })));
        world.apply_service(service("2", &one));
        let place = ("shop".to_owned(), "web".to_owned());
        assert!(world.services[&place].status.as_ref().unwrap().lagging.is_empty(), "the cache drops it");
        assert_eq!(patch(&world, &one), None, "at rest");
        assert_eq!(patch(&world, &two), Some(json!({ "lagging": two, "laggingCount": 2 })));
        assert_eq!(patch(&world, &none), Some(json!({ "lagging": null, "laggingCount": null })), "it is removed");
        world.remove_service(&place);
        assert!(world.reported_lags.0.is_empty());
    }
}
