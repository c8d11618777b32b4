//! `policy.json`: what a service's pods enforce, and the services that it may call.

use gaia_api::crd::{GaiaService, TrustDomain, reason};
use gaia_api::mount::{ApiKeyRules, Brownout, Caller, Deprecation, Policy, SCHEMA_VERSION, UserTokens};

use super::{Observed, targets};
use crate::Refusal;
use crate::gaia_service::mode::Effective;
use crate::projection::{self, Callers};

/// The content of `policy.json`.
///
/// # Errors
/// A [`Refusal`] if it is too long for a ConfigMap.
pub(super) fn text(
    observed: &Observed<'_>,
    domain: &TrustDomain,
    running: &Effective,
    user_tokens: UserTokens,
) -> Result<String, Refusal> {
    let mut policy = policy(observed, domain, running, user_tokens);
    policy.token_issuer = targets::token_issuer(observed, domain);
    policy.targets = Some(vec![]);
    let bytes = projection::json(&policy).len();
    if bytes > MAX_POLICY_BYTES {
        return Err(too_long(bytes));
    }
    policy.targets = Some(targets::of(observed, domain, targets::budget(MAX_POLICY_BYTES - bytes)).kept);
    Ok(projection::json(&policy))
}

/// The policy that the service's pods enforce, without the services that it may call.
fn policy(observed: &Observed<'_>, domain: &TrustDomain, running: &Effective, user_tokens: UserTokens) -> Policy {
    let spec = &observed.service.spec;
    let service = projection::identity(&domain.spec, observed.service);
    let known = Callers::of(observed.callers);
    let mut callers: Vec<Caller> = spec
        .callers
        .iter()
        .map(|caller| Caller {
            spiffe_id: known.id(&domain.spec, &service.namespace, caller),
            scopes: projection::sorted(&caller.scopes),
            on_behalf_of: caller.on_behalf_of,
        })
        .collect();
    callers.sort();
    callers.dedup();
    Policy {
        schema_version: SCHEMA_VERSION,
        service,
        tls_mode: running.tls.into(),
        mode: running.mode.into(),
        tokens: projection::token_rules(&domain.spec),
        callers,
        api_keys: api_key_rules(observed.service),
        user_tokens,
        targets: None,
        token_issuer: None,
    }
}

/// A ConfigMap is limited in size, and the roots of external issuers can exceed the limit.
fn too_long(bytes: usize) -> Refusal {
    let message = format!(
        "spec.auth.userTokens: the policy is {bytes} bytes long and must be at most {MAX_POLICY_BYTES}: name fewer \
         issuers, or shorten the caBundle of spec.userTokenIssuers of the TrustDomain"
    );
    Refusal::stalled(reason::USER_TOKEN_ISSUER_INVALID, message)
}

/// The deprecation headers for users of API keys, and the brownouts.
fn api_key_rules(service: &GaiaService) -> ApiKeyRules {
    let auth = &service.spec.auth;
    // The start of the deprecation is not recorded; keys were deprecated during the whole lifetime of this object.
    let created = service.metadata.creation_timestamp.as_ref().map(|created| created.0).unwrap_or_default();
    let deprecation = Deprecation { since: created, sunset: auth.sunset_time, guide: None };
    let mut brownouts: Vec<Brownout> = auth
        .brownout_windows
        .iter()
        .map(|window| {
            let end = crate::pacing::backoff::saturating_add(window.start, window.duration.value());
            Brownout { start: window.start, end }
        })
        .collect();
    brownouts.sort_by_key(|window| (window.start, window.end));
    ApiKeyRules { deprecation: auth.deprecation_headers.then_some(deprecation), brownouts }
}

/// A ConfigMap may have a mebibyte, names and labels included.
const MAX_POLICY_BYTES: usize = 900 * 1024;
