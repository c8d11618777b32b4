//! The state that findings are evaluated on, read once.

use std::collections::BTreeMap;

use gaia_api::crd::{GaiaService, ServiceCertificate, TrustDomain};
use gaia_api::names::{self, key};
use gaia_pki::{Certificate, PrivateKey, key_matches};

use crate::Failure;
use crate::source::{Data, DataKind, Source, Unreadable};

/// The state of a platform.
pub(super) struct Snapshot {
    pub(super) domains: Vec<TrustDomain>,
    pub(super) services: Vec<GaiaService>,
    pub(super) certificates: Vec<Stored>,
    /// The trust ConfigMap of each TrustDomain, by its name.
    pub(super) trust: BTreeMap<String, Trust>,
    pub(super) unreadable: Vec<Unreadable>,
}

/// A ServiceCertificate and its Secret.
pub(super) struct Stored {
    pub(super) object: ServiceCertificate,
    pub(super) namespace: String,
    pub(super) name: String,
    /// The Secret; none: it does not exist.
    pub(super) secret: Option<Leaf>,
}

/// The content of a leaf Secret, without its key.
pub(super) struct Leaf {
    /// `tls.crt` as stored.
    pub(super) text: Vec<u8>,
    /// The chain, or the reason why it cannot be used.
    pub(super) chain: Result<Vec<Certificate>, String>,
}

/// The content of a trust ConfigMap.
pub(super) struct Trust {
    pub(super) data: Data,
    /// The trust anchors, or the reason why they cannot be read.
    pub(super) anchors: Result<Vec<Certificate>, String>,
}

impl Snapshot {
    /// Reads the state.
    pub(super) async fn load(source: &Source) -> Result<Self, Failure> {
        let domains = source.list::<TrustDomain>().await?;
        let services = source.list::<GaiaService>().await?;
        let listed = source.list::<ServiceCertificate>().await?;
        let mut unreadable = [domains.unreadable, services.unreadable, listed.unreadable].concat();
        let mut certificates = vec![];
        for object in listed.objects {
            let namespace = object.metadata.namespace.clone().unwrap_or_default();
            let name = object.metadata.name.clone().unwrap_or_default();
            let found = read_leaf(source, &namespace, &object.secret_name()).await;
            let secret = found.unwrap_or_else(|fault| {
                unreadable.push(fault);
                Some(Leaf { text: vec![], chain: Err("the Secret cannot be read".to_owned()) })
            });
            certificates.push(Stored { object, namespace, name, secret });
        }
        let maps = source.data_names(DataKind::ConfigMap).await?;
        let mut trust = BTreeMap::new();
        for domain in &domains.objects {
            let name = domain.metadata.name.clone().unwrap_or_default();
            let map = names::trust(&name);
            let Some((namespace, _)) = maps.iter().find(|(_, found)| *found == map) else { continue };
            let keys = [key::CA_CERT, key::JWKS, key::JWT_SIGNING_PUB, key::DENYLIST];
            let Some(data) = source.data(DataKind::ConfigMap, namespace, &map, &keys).await? else { continue };
            let anchors = data.get(key::CA_CERT).ok_or_else(|| "ca.crt is missing".to_owned());
            let anchors = anchors.and_then(|pem| Certificate::chain_from_pem(pem).map_err(|error| error.to_string()));
            trust.insert(name, Trust { data, anchors });
        }
        Ok(Self { domains: domains.objects, services: services.objects, certificates, trust, unreadable })
    }

    /// The TrustDomain of a ServiceCertificate.
    pub(super) fn domain_of(&self, certificate: &ServiceCertificate) -> Option<&TrustDomain> {
        let name = &certificate.spec.trust_domain_ref.name;
        self.domains.iter().find(|domain| domain.metadata.name.as_ref() == Some(name))
    }

    /// The trust anchors of a ServiceCertificate; empty: they cannot be read.
    pub(super) fn anchors_of(&self, certificate: &ServiceCertificate) -> &[Certificate] {
        let trust = self.trust.get(&certificate.spec.trust_domain_ref.name);
        trust.and_then(|trust| trust.anchors.as_deref().ok()).unwrap_or_default()
    }
}

async fn read_leaf(source: &Source, namespace: &str, name: &str) -> Result<Option<Leaf>, Unreadable> {
    let data = source.data(DataKind::Secret, namespace, name, &[key::TLS_CERT, key::TLS_KEY]).await;
    let object = format!("Secret {namespace}/{name}");
    let Some(data) = data.map_err(|failure| Unreadable { object, why: failure.cause().to_owned() })? else {
        return Ok(None);
    };
    let text = data.get(key::TLS_CERT).map(|text| text.to_vec()).unwrap_or_default();
    Ok(Some(Leaf { chain: chain(&text, &data), text }))
}

fn chain(text: &[u8], data: &Data) -> Result<Vec<Certificate>, String> {
    let chain = Certificate::chain_from_pem(text).map_err(|error| format!("tls.crt: {error}"))?;
    let key = data.get(key::TLS_KEY).and_then(|key| std::str::from_utf8(key).ok()).ok_or("tls.key is missing")?;
    let key = PrivateKey::from_pem(key).map_err(|error| format!("tls.key: {error}"))?;
    match chain.first() {
        Some(leaf) if key_matches(leaf, &key) => Ok(chain),
        _ => Err("tls.key belongs to another certificate".to_owned()),
    }
}
