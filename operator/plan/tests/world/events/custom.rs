//! Custom resources come, change and go.

use gaia_api::crd::{
    GaiaService, GaiaServiceSpec, ServiceCertificate, ServiceCertificateSpec, TrustDomain, TrustDomainSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::{Name, Resource, World};

impl World {
    fn meta(&mut self, namespace: Option<&str>, name: &str) -> ObjectMeta {
        let version = self.fresh_version();
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: namespace.map(str::to_owned),
            uid: Some(version.uid),
            resource_version: Some(version.resource_version),
            generation: Some(1),
            creation_timestamp: Some(Time(self.now)),
            ..ObjectMeta::default()
        }
    }

    pub(crate) fn create_domain(&mut self, name: &str, spec: TrustDomainSpec) {
        let metadata = self.meta(None, name);
        self.domains.insert(name.to_owned(), TrustDomain { metadata, spec, status: None });
    }

    pub(crate) fn create_certificate_of(&mut self, namespace: &str, name: &str, spec: ServiceCertificateSpec) {
        let metadata =
            ObjectMeta { namespace: Some(namespace.to_owned()), name: Some(name.to_owned()), ..ObjectMeta::default() };
        self.create_certificate(ServiceCertificate { metadata, spec, status: None });
    }

    pub(crate) fn create_certificate(&mut self, mut certificate: ServiceCertificate) {
        let (namespace, name) = (certificate.metadata.namespace.clone().unwrap(), certificate.metadata.name.clone());
        let name = name.unwrap();
        let meta = self.meta(Some(&namespace), &name);
        let given = std::mem::take(&mut certificate.metadata);
        certificate.metadata = ObjectMeta {
            labels: given.labels,
            annotations: given.annotations,
            owner_references: given.owner_references,
            ..meta
        };
        self.certificates.insert((namespace, name), certificate);
    }

    pub(crate) fn create_service(&mut self, namespace: &str, name: &str, spec: GaiaServiceSpec) {
        let metadata = self.meta(Some(namespace), name);
        self.services.insert((namespace.to_owned(), name.to_owned()), GaiaService { metadata, spec, status: None });
    }

    pub(crate) fn edit_domain(&mut self, name: &str, edit: impl FnOnce(&mut TrustDomain)) {
        let version = self.fresh().to_string();
        if let Some(domain) = self.domains.get_mut(name) {
            let before = domain.spec.clone();
            edit(domain);
            changed(&mut domain.metadata, before != domain.spec, version);
        }
    }

    pub(crate) fn edit_certificate(&mut self, name: &Name, edit: impl FnOnce(&mut ServiceCertificate)) {
        let version = self.fresh().to_string();
        if let Some(certificate) = self.certificates.get_mut(name) {
            let before = certificate.spec.clone();
            edit(certificate);
            changed(&mut certificate.metadata, before != certificate.spec, version);
        }
    }

    pub(crate) fn edit_service(&mut self, name: &Name, edit: impl FnOnce(&mut GaiaService)) {
        let version = self.fresh().to_string();
        if let Some(service) = self.services.get_mut(name) {
            let before = service.spec.clone();
            edit(service);
            changed(&mut service.metadata, before != service.spec, version);
        }
    }

    /// A user deletes a custom resource; the garbage collector deletes the objects it owned.
    pub(crate) fn delete(&mut self, resource: &Resource) {
        match resource {
            Resource::Domain(name) => drop(self.domains.remove(name)),
            Resource::Certificate(name) => drop(self.certificates.remove(name)),
            Resource::Service(name) => drop(self.services.remove(name)),
        }
        self.memory.failures.remove(resource);
        self.collect_garbage();
    }

    fn collect_garbage(&mut self) {
        let services: Vec<_> = self.services.values().filter_map(|s| s.metadata.uid.clone()).collect();
        self.certificates.retain(|_, certificate| {
            let owners = certificate.metadata.owner_references.clone().unwrap_or_default();
            owners.is_empty() || owners.iter().any(|owner| services.contains(&owner.uid))
        });
        let certificates = self.certificates.values().filter_map(|c| c.metadata.uid.clone());
        let alive: Vec<String> = certificates.chain(services.iter().cloned()).collect();
        self.objects.retain(|_, stored| {
            let owners = &stored.facts.owners;
            owners.is_empty() || owners.iter().any(|owner| alive.contains(&owner.uid))
        });
    }

    pub(crate) fn generation(&self, resource: &Resource) -> Option<i64> {
        match resource {
            Resource::Domain(name) => self.domains.get(name)?.metadata.generation,
            Resource::Certificate(name) => self.certificates.get(name)?.metadata.generation,
            Resource::Service(name) => self.services.get(name)?.metadata.generation,
        }
    }
}

fn changed(meta: &mut ObjectMeta, spec_differs: bool, version: String) {
    meta.resource_version = Some(version);
    if spec_differs {
        meta.generation = meta.generation.map(|generation| generation + 1);
    }
}
