//! Fields that exist in the API but whose behaviour this version does not have yet.
//!
//! They are named in a condition where they are set to other than their default, and never silently ignored.

use gaia_api::crd::{
    Acknowledgement, AuthMode, GaiaService, ServiceCertificate, TrustDomain, Workload, default_legacy_free_for,
    default_signing_period,
};
use gaia_api::names::annotation;

/// Fields of a TrustDomain without behaviour yet.
#[must_use]
pub fn trust_domain(object: &TrustDomain) -> Vec<&'static str> {
    let spec = &object.spec;
    let annotated = |name: &str| object.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(name));
    collect(&[
        (spec.ca.rotation_period.is_some(), "spec.ca.rotationPeriod"),
        (spec.ca.rotation_revision != 1, "spec.ca.rotationRevision"),
        (!spec.ca.distrusted.is_empty(), "spec.ca.distrusted"),
        (spec.tokens.rotation_period.value() != default_signing_period().value(), "spec.tokens.rotationPeriod"),
        (spec.tokens.rotation_revision != 1, "spec.tokens.rotationRevision"),
        (!spec.tokens.distrusted.is_empty(), "spec.tokens.distrusted"),
        (!spec.revoked.leaves.is_empty(), "spec.revoked.leaves"),
        (!spec.revoked.jtis.is_empty(), "spec.revoked.jtis"),
        (!spec.revoked.subjects.is_empty(), "spec.revoked.subjects"),
        (!spec.user_token_issuers.is_empty(), "spec.userTokenIssuers"),
        (spec.auth.default_mode != AuthMode::Dual, "spec.auth.defaultMode"),
        (!spec.propagation.require_acknowledgement, "spec.propagation.requireAcknowledgement"),
        (annotated(annotation::ABORT), "metadata.annotations[gaia.dev/abort]"),
        (annotated(annotation::RESTORE), "metadata.annotations[gaia.dev/restore]"),
        (annotated(annotation::ADVANCE_WITHOUT), "metadata.annotations[gaia.dev/advance-without]"),
    ])
}

/// Fields of a ServiceCertificate without behaviour yet.
#[must_use]
pub fn certificate(object: &ServiceCertificate) -> Vec<&'static str> {
    // A port is passed down by every GaiaService; that nothing is probed yet is said by condition Served.
    workload(&object.spec.workload)
}

/// Fields of a GaiaService without behaviour yet.
#[must_use]
pub fn service(object: &GaiaService) -> Vec<&'static str> {
    let spec = &object.spec;
    let auth = &spec.auth;
    let annotated = |name: &str| object.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(name));
    let mut fields = workload(&spec.workload);
    fields.extend(collect(&[
        (!spec.endpoints.is_empty(), "spec.endpoints"),
        (spec.callers.iter().any(|caller| caller.on_behalf_of), "spec.callers[].onBehalfOf"),
        (auth.mode.is_some_and(|mode| mode != AuthMode::Dual), "spec.auth.mode"),
        (auth.deprecation_headers, "spec.auth.deprecationHeaders"),
        (auth.sunset_time.is_some(), "spec.auth.sunsetTime"),
        (!auth.brownout_windows.is_empty(), "spec.auth.brownoutWindows"),
        (auth.user_tokens.is_some(), "spec.auth.userTokens"),
        (auth.legacy_free_for.value() != default_legacy_free_for().value(), "spec.auth.legacyFreeFor"),
        (spec.rotation_wave != 0, "spec.rotationWave"),
        (annotated(annotation::FORCE_MODE), "metadata.annotations[gaia.dev/force-mode]"),
    ]));
    fields
}

fn workload(workload: &Workload) -> Vec<&'static str> {
    collect(&[
        (workload.port.is_some_and(|port| port != 8443), "spec.workload.port"),
        (workload.server_name.is_some(), "spec.workload.serverName"),
        (workload.acknowledgement != Acknowledgement::Required, "spec.workload.acknowledgement"),
        (!workload.restart_targets.is_empty(), "spec.workload.restartTargets"),
    ])
}

fn collect(fields: &[(bool, &'static str)]) -> Vec<&'static str> {
    fields.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| *name).collect()
}
