//! Events caused by users, crashes and clocks.

use gaia_api::crd::{GaiaServiceSpec, NamespaceSelector, ServiceCertificateSpec, ServiceRef, TrustDomainSpec};
use gaia_api::names::{self, MANAGED_BY_LABEL, annotation};
use gaia_plan::object::{ObjectKey, ObjectKind};
use gaia_plan::trust_domain::ExternalCa;

use super::invariants::FOREIGN_LABEL;
use super::observe::is_labelled;
use super::turmoil::Turmoil;
use super::{Name, OPERATOR_NAMESPACE, Resource, Stored, World, start};

/// One event. Numbers select among the objects that exist at that time.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// The clock is set forwards or backwards by this number of seconds.
    Advance(i64),
    /// The operator does all it can.
    Settle,
    /// The operator reconciles one resource.
    Look(usize),
    /// The operator reconciles one resource and crashes after this number of writes.
    CrashAfter(usize, usize),
    /// The operator dies.
    Crash,
    /// The API server refuses so many writes.
    Refuse(u32),
    /// The operator's cache is not updated until it settles.
    Lag,
    /// Every pod is probed.
    Probe,
    /// The operator reconciles as often as it planned to, or every minute.
    Watch(usize),
    Tamper(usize, Tamper),
    Stir(Turmoil),
    Edit(usize, Edit),
}

/// A change of an object that the operator wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tamper {
    DropLabel,
    DropAllLabels,
    DropAnnotations,
    OtherAnnotations,
    HighEpoch,
    SwapKey,
    EmptyCa,
    Garbage,
    AddKey,
    DropOwners,
    Delete,
    /// Unless it is a ring.
    DeleteProjection,
    ReplaceByForeign,
    Immutable,
    OtherType,
}

#[derive(Debug, Clone)]
pub(crate) enum Edit {
    Selector(usize),
    FlipNamespace,
    DomainSpec(Spec<TrustDomainSpec>),
    DomainGone,
    DomainAgain,
    Bootstrap(bool),
    IssuedBy(Option<usize>),
    Brought(Option<u64>),
    CertificateSpec(Spec<ServiceCertificateSpec>),
    CertificateGone,
    CertificateNew(usize, Spec<ServiceCertificateSpec>),
    Renew(u8),
    ServiceSpec(Spec<GaiaServiceSpec>),
    ServiceGone,
    ServiceNew(usize),
    RingGone(bool),
    RingUnreadable(bool),
    RingCopy(bool),
    /// A Secret or ConfigMap of another owner under a name that the operator needs.
    Foreign(usize),
    /// A foreign object is given up.
    Adopt,
}

/// A spec that is printed as JSON.
#[derive(Clone)]
pub(crate) struct Spec<T>(pub(crate) Box<T>);

impl<T: serde::Serialize> std::fmt::Debug for Spec<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&super::generate::text(&self.0))
    }
}

impl World {
    pub(crate) fn apply(&mut self, step: &Step) {
        match step {
            Step::Advance(seconds) => self.advance(*seconds),
            Step::Settle => drop(self.settle()),
            Step::Look(which) => {
                if let Some(resource) = pick(&self.resources(), *which) {
                    self.reconcile(&resource);
                }
            }
            Step::CrashAfter(which, writes) => {
                if let Some(resource) = pick(&self.resources(), *which) {
                    let planned = self.plan(&resource);
                    self.writes_left = Some(*writes);
                    for action in &planned.actions {
                        if self.execute(&resource, action).is_err() {
                            break;
                        }
                    }
                }
                self.crash();
            }
            Step::Crash => self.crash(),
            Step::Refuse(writes) => self.fail_next = *writes,
            Step::Lag => self.view = Some(self.objects.clone()),
            Step::Tamper(which, tamper) => {
                let ours: Vec<ObjectKey> =
                    self.objects.iter().filter(|(_, stored)| !stored.foreign).map(|(key, _)| key.clone()).collect();
                if let Some(key) = pick(&ours, *which) {
                    self.tamper(&key, *tamper);
                }
            }
            Step::Probe => self.probe(),
            Step::Watch(times) => self.watch(*times),
            Step::Stir(turmoil) => self.stir(*turmoil),
            Step::Edit(which, edit) => self.edit(*which, edit),
        }
    }

    /// Time advances while the operator works.
    pub(crate) fn watch(&mut self, times: usize) {
        for _ in 0..times {
            self.settle();
            let next = self.resources().iter().map(|resource| self.plan(resource).next_check).min();
            let seconds = next.map_or(60, |next| next.duration_since(self.now).as_secs());
            self.advance(seconds.clamp(1, 3600));
        }
        self.settle();
    }

    pub(crate) fn tamper(&mut self, key: &ObjectKey, tamper: Tamper) {
        let version = self.fresh();
        let uid = format!("uid-{}", self.fresh());
        let is_ring = key.namespace == OPERATOR_NAMESPACE && key.name.contains("-ring");
        if tamper == Tamper::Delete || (tamper == Tamper::DeleteProjection && !is_ring) {
            self.remove(key);
            return;
        }
        let Some(stored) = self.objects.get_mut(key) else { return };
        match tamper {
            Tamper::DropLabel => drop(stored.facts.labels.remove(MANAGED_BY_LABEL)),
            Tamper::DropAllLabels => stored.facts.labels.clear(),
            Tamper::DropAnnotations => stored.facts.annotations.clear(),
            Tamper::OtherAnnotations => {
                for (name, value) in &mut stored.facts.annotations {
                    // Any writer can set the values of a template; the operator only accepts an epoch as lower.
                    *value = if name.ends_with("-epoch") { "0".to_owned() } else { "changed".to_owned() };
                }
            }
            Tamper::HighEpoch => {
                stored.facts.annotations.insert(annotation::CA_EPOCH.to_owned(), "999".to_owned());
            }
            Tamper::SwapKey if !is_ring => {
                let keys: Vec<String> = stored.content.keys().filter(|key| key.ends_with(".key")).cloned().collect();
                stored.content.extend(keys.into_iter().map(|key| (key, "KEY 0".to_owned())));
            }
            Tamper::EmptyCa => {
                if let Some(text) = stored.content.get_mut("ca.crt") {
                    text.clear();
                }
            }
            Tamper::Garbage if !is_ring => {
                for text in stored.content.values_mut() {
                    *text = "garbage".to_owned();
                }
            }
            Tamper::AddKey => drop(stored.content.insert("extra".to_owned(), "1".to_owned())),
            Tamper::DropOwners => stored.facts.owners.clear(),
            Tamper::Immutable => stored.facts.immutable = true,
            Tamper::OtherType if key.kind == ObjectKind::Secret && !is_ring => {
                stored.facts.type_ = Some("example.com/other".to_owned());
                stored.facts.uid = uid;
            }
            Tamper::ReplaceByForeign => *stored = foreign(key, uid),
            Tamper::SwapKey | Tamper::Garbage | Tamper::OtherType | Tamper::Delete | Tamper::DeleteProjection => {}
        }
        stored.touch(version);
    }

    /// Changes the document of a ring, as an operator with another clock would have written it.
    pub(crate) fn edit_ring(&mut self, ring: String, edit: impl FnOnce(&mut serde_json::Value)) {
        let version = self.fresh();
        let stored = self.objects.get_mut(&ObjectKey::secret(OPERATOR_NAMESPACE, ring)).unwrap();
        let mut document = serde_json::from_str(&stored.content[names::key::RING]).unwrap();
        edit(&mut document);
        stored.content.insert(names::key::RING.to_owned(), document.to_string());
        stored.touch(version);
    }

    /// Another writer deletes an object, while the operator watches labelled objects.
    pub(crate) fn remove(&mut self, key: &ObjectKey) {
        if self.objects.remove(key).is_some_and(|stored| is_labelled(&stored)) {
            self.memory.lost.insert(key.clone());
        }
    }

    /// An object of another owner under that name.
    pub(crate) fn put_foreign(&mut self, key: &ObjectKey) {
        let uid = format!("uid-{}", self.fresh());
        let version = self.fresh();
        let mut stored = foreign(key, uid);
        stored.touch(version);
        self.objects.entry(key.clone()).or_insert(stored);
    }

    fn edit(&mut self, which: usize, edit: &Edit) {
        let certificates: Vec<Name> = self.certificates.keys().cloned().collect();
        let services: Vec<Name> = self.services.keys().cloned().collect();
        let certificate = pick(&certificates, which);
        let service = pick(&services, which);
        match edit {
            Edit::Selector(kind) => {
                let selector = selector(*kind);
                self.edit_domain(TD, |domain| domain.spec.namespace_selector = selector);
            }
            Edit::FlipNamespace => {
                let name = NAMESPACES[which % NAMESPACES.len()];
                if let Some(labels) = self.namespaces.get_mut(name) {
                    let test = labels.get("env").is_some_and(|env| env == "test");
                    labels.insert("env".to_owned(), if test { "prod" } else { "test" }.to_owned());
                }
            }
            Edit::DomainSpec(spec) => self.edit_domain(TD, |domain| {
                // Immutable by the schema.
                let (issuer, audience) = (domain.spec.tokens.issuer.clone(), domain.spec.tokens.audience.clone());
                let trust_domain = domain.spec.trust_domain.clone();
                domain.spec = TrustDomainSpec { trust_domain, ..(*spec.0).clone() };
                (domain.spec.tokens.issuer, domain.spec.tokens.audience) = (issuer, audience);
            }),
            Edit::DomainGone => self.delete(&Resource::Domain(TD.to_owned())),
            Edit::DomainAgain => {
                if let Some(domain) = self.domains.get(TD).cloned() {
                    self.delete(&Resource::Domain(TD.to_owned()));
                    self.create_domain(TD, domain.spec);
                } else {
                    self.create_domain(TD, super::specs::plain_domain());
                }
            }
            Edit::Bootstrap(right) => self.edit_domain(TD, |domain| {
                let uid = domain.metadata.uid.clone().unwrap_or_default();
                let value = if *right { uid } else { "another".to_owned() };
                domain.metadata.annotations.get_or_insert_default().insert(annotation::BOOTSTRAP.to_owned(), value);
            }),
            Edit::IssuedBy(to) => {
                let issuer = to.map(|index| SERVICES[index % SERVICES.len()]);
                let issuer = issuer.map(|(ns, name)| ServiceRef { namespace: ns.to_owned(), name: name.to_owned() });
                self.edit_domain(TD, |domain| domain.spec.tokens.issued_by = issuer);
            }
            Edit::Brought(number) => self.external_ca = Some(external_ca(*number)),
            Edit::CertificateSpec(spec) => {
                if let Some(name) = certificate {
                    self.edit_certificate(&name, |certificate| {
                        let (secret_name, domain) =
                            (certificate.spec.secret_name.clone(), certificate.spec.trust_domain_ref.clone());
                        certificate.spec =
                            ServiceCertificateSpec { secret_name, trust_domain_ref: domain, ..(*spec.0).clone() };
                    });
                }
            }
            Edit::CertificateGone => drop(certificate.map(|name| self.delete(&Resource::Certificate(name)))),
            Edit::CertificateNew(index, spec) => self.person_creates(*index, (*spec.0).clone()),
            Edit::Renew(value) => {
                if let Some(name) = certificate {
                    self.ask_to_renew(&name, &value.to_string());
                }
            }
            Edit::ServiceSpec(spec) => {
                if let Some(name) = service {
                    self.edit_service(&name, |service| service.spec = (*spec.0).clone());
                }
            }
            Edit::ServiceGone => drop(service.map(|name| self.delete(&Resource::Service(name)))),
            Edit::ServiceNew(index) => {
                let (namespace, name) = SERVICES[index % SERVICES.len()];
                if !self.services.contains_key(&(namespace.to_owned(), name.to_owned())) {
                    self.create_service(namespace, name, GaiaServiceSpec::default());
                }
            }
            Edit::RingGone(ca) => self.remove(&ring(*ca)),
            Edit::RingUnreadable(ca) => {
                let version = self.fresh();
                if let Some(stored) = self.objects.get_mut(&ring(*ca)) {
                    stored.content.insert("ring.json".to_owned(), r#"{"formatVersion":2}"#.to_owned());
                    stored.touch(version);
                }
            }
            Edit::RingCopy(there) => {
                let key = ObjectKey::secret(OPERATOR_NAMESPACE, names::previous(&names::ca_ring(TD)));
                if *there {
                    // Any existing object counts.
                    self.put_foreign(&key);
                    self.objects.get_mut(&key).unwrap().foreign = false;
                } else {
                    self.objects.remove(&key);
                }
            }
            Edit::Foreign(index) => {
                let wanted = wanted_names();
                let key = &wanted[index % wanted.len()];
                self.put_foreign(key);
            }
            Edit::Adopt => {
                let version = self.fresh();
                let foreign: Vec<ObjectKey> =
                    self.objects.iter().filter(|(_, stored)| stored.foreign).map(|(key, _)| key.clone()).collect();
                if let Some(stored) = pick(&foreign, which).and_then(|key| self.objects.get_mut(&key)) {
                    stored.facts.annotations.insert(annotation::ADOPT.to_owned(), "true".to_owned());
                    stored.foreign = false;
                    stored.touch(version);
                }
            }
        }
    }

    pub(crate) fn ask_to_renew(&mut self, name: &Name, value: &str) {
        self.edit_certificate(name, |certificate| {
            let annotations = certificate.metadata.annotations.get_or_insert_default();
            annotations.insert(annotation::RENEW_REQUESTED_AT.to_owned(), value.to_owned());
        });
    }

    /// A ServiceCertificate that no GaiaService created.
    pub(crate) fn person_creates(&mut self, index: usize, spec: ServiceCertificateSpec) {
        let (namespace, name) = CERTIFICATES[index % CERTIFICATES.len()];
        let key = (namespace.to_owned(), name.to_owned());
        if !self.certificates.contains_key(&key) {
            self.create_certificate_of(namespace, name, spec);
            self.edit_certificate(&key, |certificate| {
                certificate.metadata.labels.get_or_insert_default().insert(FOREIGN_LABEL.to_owned(), String::new());
            });
        }
    }
}

fn foreign(key: &ObjectKey, uid: String) -> Stored {
    let mut stored = Stored { foreign: true, ..Stored::default() };
    stored.facts.uid = uid;
    stored.facts.type_ = (key.kind == ObjectKind::Secret).then(|| "kubernetes.io/tls".to_owned());
    stored.content.insert("somebody".to_owned(), "else".to_owned());
    stored
}

fn ring(ca: bool) -> ObjectKey {
    ObjectKey::secret(OPERATOR_NAMESPACE, if ca { names::ca_ring(TD) } else { names::signing_ring(TD) })
}

fn wanted_names() -> Vec<ObjectKey> {
    let mut wanted = vec![
        ObjectKey::secret("shop", "web-tls"),
        ObjectKey::secret("shop", "asset-service-tls"),
        ObjectKey::secret("auth", "auth-service-tls"),
        ObjectKey::secret("auth", names::token_signer(TD)),
        ObjectKey::config_map("auth", names::grants(TD)),
        ObjectKey::config_map("shop", names::policy("asset-service")),
        ObjectKey::config_map("shop", names::ledger("asset-service")),
        ring(true),
    ];
    wanted.extend(NAMESPACES.map(|namespace| ObjectKey::config_map(namespace, names::trust(TD))));
    wanted
}

pub(super) fn selector(kind: usize) -> Option<NamespaceSelector> {
    let prod =
        NamespaceSelector { match_labels: [("env".to_owned(), "prod".to_owned())].into(), match_expressions: vec![] };
    match kind % 3 {
        0 => None,
        1 => Some(NamespaceSelector::default()),
        _ => Some(prod),
    }
}

pub(super) fn external_ca(number: Option<u64>) -> Result<ExternalCa, String> {
    let number = number.ok_or_else(|| "the CA key does not belong to the certificate".to_owned())?;
    let days = i64::try_from(number % 5).unwrap_or(0) * 200 + 1;
    let not_after = start().checked_add(jiff::SignedDuration::from_hours(days * 24)).unwrap();
    let fingerprint = gaia_pki::sha256_hex(format!("brought {number}").as_bytes());
    Ok(ExternalCa { fingerprint, not_after, ..ExternalCa::default() })
}

fn pick<T: Clone>(all: &[T], which: usize) -> Option<T> {
    (!all.is_empty()).then(|| all[which % all.len()].clone())
}

/// The TrustDomain of all stories.
pub(crate) const TD: &str = "gaia";
pub(super) const NAMESPACES: [&str; 3] = ["auth", "other", "shop"];
pub(super) const SERVICES: [(&str, &str); 3] =
    [("auth", "auth-service"), ("shop", "asset-service"), ("other", "chat-service")];
pub(super) const CERTIFICATES: [(&str, &str); 4] =
    [("shop", "web"), ("shop", "asset-service"), ("other", "web"), ("shop", "worker")];
