//! The trust of a platform: its CAs, signing keys and revocations.

use std::path::Path;

use gaia_api::crd::{GenerationStatus, TrustDomain};
use gaia_api::mount::{self, Denylist};
use gaia_api::names::{self, key};
use gaia_pki::Certificate;
use zeroize::Zeroizing;

use crate::Failure;
use crate::source::{DataKind, Source, directory};

/// The trust of a platform. Without a platform, nothing is evaluated.
#[derive(Default)]
pub(super) struct Trust {
    /// The name of the file or directory; none: there is no platform.
    pub(super) place: Option<String>,
    pub(super) anchors: Vec<Certificate>,
    /// The generations of CAs and signing keys, distrusted ones too.
    pub(super) generations: Vec<GenerationStatus>,
    /// The key sets, one a TrustDomain, with the issuer of its tokens.
    pub(super) key_sets: Vec<(String, Zeroizing<Vec<u8>>)>,
    pub(super) denylists: Vec<Denylist>,
}

impl Trust {
    /// The CAs of a file.
    pub(super) fn of_file(file: &Path) -> Result<Self, Failure> {
        let wrong = |why: String| Failure::usage(format!("--ca {}: {why}", file.display()));
        let text = directory::read_bounded(file).map_err(|error| wrong(error.to_string()))?;
        let anchors = Certificate::chain_from_pem(&text).map_err(|error| wrong(error.to_string()))?;
        Ok(Self { place: Some(file.display().to_string()), anchors, ..Self::default() })
    }

    /// The CAs, keys and revocations of all TrustDomains of a source.
    pub(super) async fn of_source(source: Option<&Source>) -> Result<Self, Failure> {
        let Some(source) = source else { return Ok(Self::default()) };
        let mut trust = Self { place: Some(source.name()), ..Self::default() };
        let maps = source.data_names(DataKind::ConfigMap).await?;
        for domain in source.list::<TrustDomain>().await?.objects {
            let map = names::trust(domain.metadata.name.as_deref().unwrap_or_default());
            let Some((namespace, _)) = maps.iter().find(|(_, name)| *name == map) else { continue };
            let keys = [key::CA_CERT, key::JWKS, key::DENYLIST];
            if let Some(mut data) = source.data(DataKind::ConfigMap, namespace, &map, &keys).await? {
                let bundle = data.get(key::CA_CERT);
                trust.anchors.extend(bundle.and_then(|pem| Certificate::chain_from_pem(pem).ok()).unwrap_or_default());
                let denylist = data.get(key::DENYLIST);
                trust.denylists.extend(denylist.and_then(|text| mount::read(key::DENYLIST, text).ok()));
                let jwks = data.remove(key::JWKS);
                trust.key_sets.extend(jwks.map(|jwks| (domain.spec.tokens.issuer.clone(), jwks)));
            }
            let status = domain.status.unwrap_or_default();
            for ring in [status.ca, status.signing_keys].into_iter().flatten() {
                trust.generations.extend(ring.active);
                trust.generations.extend(ring.next);
                trust.generations.extend(ring.retiring);
                trust.generations.extend(ring.distrusted);
            }
        }
        Ok(trust)
    }

    /// The generation of a CA, as text.
    pub(super) fn ca_generation(&self, fingerprint: &str) -> Option<String> {
        self.generations.iter().find(|ca| ca.fingerprint.as_deref() == Some(fingerprint)).map(describe)
    }

    /// The generation of a signing key, as text.
    pub(super) fn key_generation(&self, kid: &str) -> Option<String> {
        self.generations.iter().find(|generation| generation.kid.as_deref() == Some(kid)).map(describe)
    }
}

fn describe(generation: &GenerationStatus) -> String {
    format!("{} ({} since {})", generation.id, generation.state, generation.since)
}
