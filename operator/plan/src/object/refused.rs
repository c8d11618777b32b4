//! Refusals because of existing objects.

use gaia_api::crd::reason;
use gaia_api::names::annotation;

use super::{ObjectKey, ObjectKind};
use crate::Refusal;

/// An object that cannot be read is neither created nor written.
pub(crate) fn unreadable(key: &ObjectKey, why: &str) -> Refusal {
    Refusal::stalled(
        reason::OBJECT_UNREADABLE,
        format!("{key} cannot be read: {why}; it is not changed until it can be read"),
    )
}

/// The refusal for an object of another owner under a name that the operator writes, with the steps to hand it over.
/// `secret_type`: the type that a Secret must have.
pub(crate) fn not_owned(key: &ObjectKey, secret_type: Option<&str>) -> Refusal {
    not_owned_as(&key.to_string(), key, secret_type)
}

/// The same, with the text that names the object in the message.
pub(crate) fn not_owned_as(named: &str, key: &ObjectKey, secret_type: Option<&str>) -> Refusal {
    let ObjectKey { kind, namespace, name } = key;
    let (resource, then) = match (kind, secret_type) {
        (ObjectKind::Secret, Some(type_)) => {
            ("secret", format!("a Secret is then refused if it is immutable or its type is not {type_}"))
        }
        (ObjectKind::Secret, None) => ("secret", "a Secret is then refused if it is immutable".to_owned()),
        (ObjectKind::ConfigMap, _) => ("configmap", "a ConfigMap is then refused if it is immutable".to_owned()),
        (ObjectKind::ServiceCertificate, _) => (
            "servicecertificate",
            "a ServiceCertificate is then refused if its trustDomainRef or secretName differs".to_owned(),
        ),
    };
    Refusal::stalled(
        reason::OBJECT_NOT_OWNED,
        format!(
            "{named} exists and does not belong to the operator; delete it, or let the operator take it over and \
             replace its content: kubectl annotate -n {namespace} {resource} {name} {}=true ({then})",
            annotation::ADOPT
        ),
    )
}

/// The refusal for an immutable object of the operator whose content must change: the API server would refuse every
/// write of it.
pub(crate) fn immutable(key: &ObjectKey) -> Refusal {
    Refusal::stalled(
        reason::OBJECT_IMMUTABLE,
        format!("{key} is immutable and cannot be updated; delete it so that the operator can create its own"),
    )
}
