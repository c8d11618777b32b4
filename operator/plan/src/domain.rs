//! A TrustDomain as the objects that refer to it see it.

use gaia_api::crd::{NamespaceSelector, SelectorOperator, TrustDomain, reason};

use crate::Refusal;
use crate::keyring::epoch::EpochMac;
use crate::keyring::ring::{CaMaterial, CaRing, Generation, SigningRing};
use crate::object::ObjectFacts;

/// A TrustDomain as one referring object sees it.
#[derive(Debug, Clone, Copy)]
pub struct DomainView<'a> {
    /// The name that is referred to.
    pub name: &'a str,
    /// The namespace of the object that refers to it.
    pub namespace: &'a str,
    /// It, if it exists.
    pub object: Option<&'a TrustDomain>,
    /// True if it selects the namespace.
    pub selected: bool,
    /// Its CA ring, if there is one that can be read.
    pub ca: Option<&'a CaRing>,
    /// The MACs over the epochs of its CA ring; none: that ring has no key for them.
    pub ca_mac: Option<&'a dyn EpochMac>,
    /// Its signing ring, if there is one that can be read.
    pub signing: Option<&'a SigningRing>,
    /// Its trust ConfigMap in that namespace, if the operator wrote one.
    pub trust: Option<&'a ObjectFacts>,
}

impl<'a> DomainView<'a> {
    /// The TrustDomain, if the namespace may use it.
    ///
    /// # Errors
    /// A refusal that names the TrustDomain and the namespace.
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
                    "namespace {} is not selected by spec.namespaceSelector of TrustDomain {}: {}",
                    self.namespace,
                    self.name,
                    requirement(object.spec.namespace_selector.as_ref())
                ),
            ));
        }
        Ok(object)
    }

    /// The active CA. Both rings must exist: a leaf without a signing ring would look as if the signing ring were lost.
    ///
    /// # Errors
    /// No ring has been created yet.
    pub fn signer(&self) -> Result<(&'a CaRing, &'a Generation<CaMaterial>), Refusal> {
        self.ca.filter(|_| self.signing.is_some()).and_then(|ring| Some((ring, ring.active()?))).ok_or_else(|| {
            Refusal::waiting(
                reason::TRUST_DOMAIN_NOT_READY,
                format!("TrustDomain {} has no CA to sign with; see its conditions", self.name),
            )
        })
    }
}

/// The labels that a selector requires of a namespace, as the next step in a message.
fn requirement(selector: Option<&NamespaceSelector>) -> String {
    let Some(selector) = selector else {
        return "the field is not set; ask an administrator to set it ({} selects all namespaces)".to_owned();
    };
    let labels = selector.match_labels.iter().map(|(key, value)| format!("label {key}={value}"));
    let expressions = selector.match_expressions.iter().map(|wanted| {
        let (key, values) = (&wanted.key, wanted.values.join(", "));
        match wanted.operator {
            SelectorOperator::In => format!("label {key} with one of the values {values}"),
            SelectorOperator::NotIn => format!("no label {key} with one of the values {values}"),
            SelectorOperator::Exists => format!("a label {key}"),
            SelectorOperator::DoesNotExist => format!("no label {key}"),
        }
    });
    let all: Vec<String> = labels.chain(expressions).collect();
    format!("the namespace must have {}", all.join(", and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message names the next step: here the label that is missing.
    #[test]
    fn a_refused_namespace_is_told_which_labels_it_needs() {
        let selector: NamespaceSelector = serde_json::from_str(
            r#"{"matchLabels":{"env":"prod"},"matchExpressions":[{"key":"team","operator":"In","values":["a","b"]},
                {"key":"legacy","operator":"DoesNotExist"}]}"#,
        )
        .unwrap();
        let domain: TrustDomain = serde_json::from_value(serde_json::json!({
            "apiVersion": "gaia.dev/v1alpha1", "kind": "TrustDomain", "metadata": { "name": "gaia" },
            "spec": { "trustDomain": "gaia.local" },
        }))
        .unwrap();
        let told = |selector| {
            let mut domain = domain.clone();
            domain.spec.namespace_selector = selector;
            let view = DomainView {
                name: "gaia",
                namespace: "shop",
                object: Some(&domain),
                selected: false,
                ca: None,
                ca_mac: None,
                signing: None,
                trust: None,
            };
            view.granted().unwrap_err().message
        };
        assert_eq!(
            told(Some(selector)),
            "namespace shop is not selected by spec.namespaceSelector of TrustDomain gaia: the namespace must have label \
             env=prod, and label team with one of the values a, b, and no label legacy"
        );
        assert!(told(None).contains("the field is not set"));
    }
}
