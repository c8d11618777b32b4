//! Comparison and reduction of the metadata of objects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::is_older;

/// Returns true if the arriving object is older than the known one. With another UID, it is the previous object of that
/// name.
pub(super) fn stale(arriving: &ObjectMeta, known: &ObjectMeta) -> bool {
    is_older(arriving.resource_version.as_deref(), known.resource_version.as_deref())
}

/// Returns true if anything but the resource version differs.
pub(super) fn differs(after: &ObjectMeta, before: &ObjectMeta) -> bool {
    after.uid != before.uid
        || after.generation != before.generation
        || after.labels != before.labels
        || after.annotations != before.annotations
        || after.owner_references != before.owner_references
        || after.deletion_timestamp != before.deletion_timestamp
}

/// Removes the fields that are never read.
pub(super) fn slim(meta: &mut ObjectMeta) {
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}
