//! The ServiceCertificate of a GaiaService.

use std::collections::BTreeMap;

use gaia_api::crd::{GaiaService, ServiceCertificate, ServiceCertificateSpec, Workload, both_usages, reason};
use gaia_api::names::{MANAGED_BY, MANAGED_BY_LABEL};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use super::{MESH_PORT, Observed, value};
use crate::object::merge::merge_patch;
use crate::object::{ObjectKey, ObjectKind, Ownership, Version, not_owned, unreadable};
use crate::outcome::conditions::is_accepted;
use crate::plan::owner;
use crate::{Action, Event, Refusal};

pub(super) fn action(observed: &Observed<'_>) -> Result<Option<Action>, Refusal> {
    let wanted = wanted_certificate(observed.service);
    let key = ObjectKey {
        kind: ObjectKind::ServiceCertificate,
        namespace: wanted.metadata.namespace.clone().unwrap_or_default(),
        name: wanted.metadata.name.clone().unwrap_or_default(),
    };
    match &observed.child {
        Ownership::Absent => Ok(Some(Action::CreateCertificate(Box::new(wanted)))),
        Ownership::Foreign => Err(not_owned(&key, None)),
        Ownership::Unreadable(why) => Err(unreadable(&key, why)),
        Ownership::Ours(found) => Ok(certificate_patch(found, &wanted, was_settled(observed.service))),
    }
}

/// Returns true if the last status says that everything required by this spec existed. It only decides whether a write
/// is reported as a repair or as progress.
pub(super) fn was_settled(service: &GaiaService) -> bool {
    let status = service.status.as_ref();
    status.is_some_and(|s| is_accepted(s.observed_generation, service.metadata.generation, &s.conditions))
}

fn certificate_patch(found: &ServiceCertificate, wanted: &ServiceCertificate, was_settled: bool) -> Option<Action> {
    let mut patch = json!({});
    if let Some(spec) = merge_patch(&value(&found.spec), &value(&wanted.spec)) {
        patch["spec"] = spec;
    }
    let labels = found.metadata.labels.clone().unwrap_or_default();
    if labels.get(MANAGED_BY_LABEL).map(String::as_str) != Some(MANAGED_BY) {
        patch["metadata"]["labels"] = json!({ MANAGED_BY_LABEL: MANAGED_BY });
    }
    if let Some(owners) = repaired_owners(&found.metadata, &wanted.metadata) {
        patch["metadata"]["ownerReferences"] = value(&owners);
    }
    if patch == json!({}) {
        return None;
    }
    let meta = &found.metadata;
    let key = ObjectKey {
        kind: ObjectKind::ServiceCertificate,
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    };
    let version = Version {
        uid: meta.uid.clone().unwrap_or_default(),
        resource_version: meta.resource_version.clone().unwrap_or_default(),
    };
    let event = was_settled.then(|| Event::new(reason::REPAIRED, format!("restored {key}")));
    Some(Action::PatchCertificate { key, version, patch, event })
}

/// The owner references with that of the GaiaService restored; none: it is there. Those of others stay.
fn repaired_owners(found: &ObjectMeta, wanted: &ObjectMeta) -> Option<Vec<OwnerReference>> {
    let present = found.owner_references.clone().unwrap_or_default();
    let own = wanted.owner_references.iter().flatten().next()?;
    let is_own = |owner: &OwnerReference| owner.api_version.starts_with("gaia.dev/") && owner.kind == own.kind;
    let mut of_its_kind = present.iter().filter(|owner| is_own(owner));
    if of_its_kind.next().is_some_and(|owner| owner.uid == own.uid) && of_its_kind.next().is_none() {
        return None;
    }
    let mut owners: Vec<OwnerReference> = present.into_iter().filter(|owner| !is_own(owner)).collect();
    // The API server accepts one controller.
    let has_controller = owners.iter().any(|owner| owner.controller == Some(true));
    owners.push(OwnerReference { controller: (!has_controller).then_some(true), ..own.clone() });
    Some(owners)
}

/// The ServiceCertificate of a GaiaService.
#[must_use]
pub fn wanted_certificate(service: &GaiaService) -> ServiceCertificate {
    let spec = &service.spec;
    let overrides = spec.certificate.clone().unwrap_or_default();
    let owner = owner("GaiaService", &service.metadata);
    ServiceCertificate {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(BTreeMap::from([(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())])),
            owner_references: Some(vec![OwnerReference {
                api_version: "gaia.dev/v1alpha1".to_owned(),
                kind: owner.kind,
                name: owner.name,
                uid: owner.uid,
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..Default::default()
        },
        spec: ServiceCertificateSpec {
            trust_domain_ref: spec.trust_domain_ref.clone(),
            service_account_name: spec.service_account_name.clone(),
            secret_name: overrides.secret_name,
            extra_dns_names: overrides.extra_dns_names,
            ip_addresses: overrides.ip_addresses,
            headless: overrides.headless,
            duration: overrides.duration,
            allow_short_lived: overrides.allow_short_lived,
            private_key: overrides.private_key,
            usages: overrides.usages.unwrap_or_else(both_usages),
            subject_common_name: overrides.subject_common_name,
            secret_template: overrides.secret_template,
            workload: Workload { port: Some(spec.workload.port.unwrap_or(MESH_PORT)), ..spec.workload.clone() },
            renewal: overrides.renewal,
            deletion_policy: overrides.deletion_policy,
        },
        status: None,
    }
}
