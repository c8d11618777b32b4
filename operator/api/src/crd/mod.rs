//! The custom resources of `gaia.dev/v1alpha1`: [`TrustDomain`], [`ServiceCertificate`] and [`GaiaService`].
//!
//! Bounds and cross-field rules are CEL in the schema, so that the API server refuses what cannot work before anything
//! is stored; what CEL cannot see (annotations, other objects) the operator refuses with a condition.

#![expect(unreachable_pub, reason = "the KubeSchema derive copies each public type into a function")]

mod common;
mod conditions;
pub mod dates;
mod defaults;
mod fit;
mod gaia_service;
pub mod reason;
pub mod rules;
mod service_certificate;
mod status;
mod trust_domain;

pub use common::*;
pub use fit::fit_status;
pub use gaia_service::*;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
pub use service_certificate::*;
pub use status::lagging::*;
pub use status::*;
pub use trust_domain::*;

/// All custom resource definitions, in the order they are documented.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    [TrustDomain::crd(), ServiceCertificate::crd(), GaiaService::crd()]
        .map(dates::bounded)
        .map(conditions::bounded)
        .map(defaults::of_empty_spec)
        .into()
}
