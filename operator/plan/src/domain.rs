//! A TrustDomain as the objects that refer to it see it.

use gaia_api::crd::{TrustDomain, reason};

use crate::Refusal;
use crate::epoch::EpochMac;
use crate::ring::{CaMaterial, CaRing, Generation, SigningRing};

/// A TrustDomain as one referring object sees it.
#[derive(Debug, Clone, Copy)]
pub struct DomainView<'a> {
    /// The name that is referred to.
    pub name: &'a str,
    /// The namespace of the object that refers to it.
    pub namespace: &'a str,
    /// It, if it exists.
    pub object: Option<&'a TrustDomain>,
    /// Whether it selects the namespace.
    pub selected: bool,
    /// Its CA ring, if there is one that can be read.
    pub ca: Option<&'a CaRing>,
    /// The MACs over the epochs of its CA ring; none: that ring has no key for them.
    pub ca_mac: Option<&'a dyn EpochMac>,
    /// Its signing ring, if there is one that can be read.
    pub signing: Option<&'a SigningRing>,
}

impl<'a> DomainView<'a> {
    /// The TrustDomain, if the namespace may use it.
    ///
    /// # Errors
    /// Whatever is in the way, naming the TrustDomain and the namespace.
    pub fn granted(&self) -> Result<&'a TrustDomain, Refusal> {
        let Some(object) = self.object else {
            return Err(Refusal::waiting(
                reason::TRUST_DOMAIN_NOT_FOUND,
                format!("spec.trustDomainRef.name: TrustDomain {:?} does not exist", self.name),
            ));
        };
        if !self.selected {
            return Err(Refusal::stalled(
                reason::NAMESPACE_NOT_SELECTED,
                format!(
                    "namespace {} is not selected by spec.namespaceSelector of TrustDomain {}",
                    self.namespace, self.name
                ),
            ));
        }
        Ok(object)
    }

    /// The CA that signs. Both rings must be there: a leaf beside a missing signing ring would look like a lost one.
    ///
    /// # Errors
    /// There is none yet.
    pub fn signer(&self) -> Result<(&'a CaRing, &'a Generation<CaMaterial>), Refusal> {
        self.ca.filter(|_| self.signing.is_some()).and_then(|ring| Some((ring, ring.active()?))).ok_or_else(|| {
            Refusal::waiting(
                reason::TRUST_DOMAIN_NOT_READY,
                format!("TrustDomain {} has no CA to sign with; see its conditions", self.name),
            )
        })
    }
}
