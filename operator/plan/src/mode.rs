//! Which authentication mode a service runs.

use std::time::Duration;

use gaia_api::crd::{AuthMode, GaiaService, TlsMode, TrustDomain, reason};
use gaia_api::names::annotation;
use jiff::Timestamp;

use crate::Refusal;
use crate::backoff::saturating_add;
use crate::legacy::{self, Legacy};

/// The mode that is asked for: by the service, else by its TrustDomain.
pub(crate) fn desired(service: &GaiaService, domain: Option<&TrustDomain>) -> AuthMode {
    let default = domain.map(|domain| domain.spec.auth.default_mode).unwrap_or_default();
    service.spec.auth.mode.unwrap_or(default)
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Effective {
    pub(crate) mode: AuthMode,
    pub(crate) tls: TlsMode,
    /// Why it is not what is asked for.
    pub(crate) refusal: Option<Refusal>,
}

/// What runs. Every mode can be entered at any time but JWTOnly: with it, whoever still uses an API key is refused. It
/// needs that no keys are configured or none is used, that it runs already or did within a day, or a person who says so
/// for this very spec; and mTLS in any case. Otherwise what ran goes on, and the refusal says what is missing.
pub(crate) fn effective(
    service: &GaiaService,
    domain: Option<&TrustDomain>,
    legacy: &Legacy<'_>,
    now: Timestamp,
) -> Effective {
    let tls = service.spec.tls.mode;
    let desired = desired(service, domain);
    if desired != AuthMode::JWTOnly {
        return Effective { mode: desired, tls, refusal: None };
    }
    let ran = ran(service);
    let goes_on = |tls, reason, message| Effective { mode: ran, tls, refusal: Some(Refusal::stalled(reason, message)) };
    if tls != TlsMode::Strict {
        // The schema sees the service alone. Keys and plain HTTP do not come back because of an edit that is refused.
        let tls = if ran == AuthMode::JWTOnly { TlsMode::Strict } else { tls };
        let message = format!(
            "spec.tls.mode: must be Strict for JWTOnly, which {} asks for; {ran:?} with {tls:?} goes on",
            field(service, domain)
        );
        return goes_on(tls, reason::TLS_NOT_STRICT, message);
    }
    let may_enter = legacy::keys(service).is_none()
        || legacy.keys_may_end
        || ran == AuthMode::JWTOnly
        || ran_within_a_day(legacy, now)
        || is_forced(service);
    if may_enter {
        return Effective { mode: AuthMode::JWTOnly, tls, refusal: None };
    }
    let message = format!(
        "{}: {ran:?} goes on instead of JWTOnly: API keys in Secret {}: {}; to insist, set the annotation {}=JWTOnly@{}",
        field(service, domain),
        legacy::keys(service).map(|secret| secret.name.as_str()).unwrap_or_default(),
        legacy.verdict.message,
        annotation::FORCE_MODE,
        service.metadata.generation.unwrap_or_default(),
    );
    goes_on(tls, reason::LEGACY_KEYS_IN_USE, message)
}

/// The mode that was reported last to run.
pub(crate) fn ran(service: &GaiaService) -> AuthMode {
    service.status.as_ref().and_then(|status| Some(status.auth.as_ref()?.mode)).unwrap_or_default()
}

/// Whoever has just come from there knows that it works.
fn ran_within_a_day(legacy: &Legacy<'_>, now: Timestamp) -> bool {
    let run = legacy.stored.and_then(|record| record.jwt_only);
    run.is_some_and(|run| run.until.is_none_or(|until| now <= saturating_add(until, WAY_BACK)))
}

/// The field that asks for the mode.
fn field(service: &GaiaService, domain: Option<&TrustDomain>) -> String {
    if service.spec.auth.mode.is_some() {
        return "spec.auth.mode".to_owned();
    }
    let name = domain.and_then(|domain| domain.metadata.name.as_deref()).unwrap_or_default();
    format!("spec.auth.defaultMode of TrustDomain {name}")
}

/// Whether a person took it upon himself, for the spec as it is now and no later one.
fn is_forced(service: &GaiaService) -> bool {
    let asked = service.metadata.annotations.as_ref().and_then(|all| all.get(annotation::FORCE_MODE));
    let generation = service.metadata.generation.unwrap_or_default();
    asked.is_some_and(|asked| *asked == format!("JWTOnly@{generation}"))
}

const WAY_BACK: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use gaia_api::crd::{
        AuthSpec, AuthStatus, GaiaServiceSpec, GaiaServiceStatus, SecretRef, TlsSpec, TrustDomainSpec, Truth,
    };
    use gaia_api::ledger::{JwtOnlyRun, LedgerRecord};

    use super::*;
    use crate::legacy::Verdict;

    /// Every spec, key, evidence, former mode, running mode, transport and annotation.
    #[test]
    fn jwt_only_needs_evidence_or_no_keys_or_to_have_run_or_force_and_mtls_always_and_every_other_mode_nothing() {
        use AuthMode::{APIKeyOnly, Dual, JWTOnly};
        use TlsMode::{Permissive, Strict};
        let mut count = 0;
        for wanted in [APIKeyOnly, Dual, JWTOnly] {
            for running in [None, Some(APIKeyOnly), Some(Dual), Some(JWTOnly)] {
                for keys in [false, true] {
                    for force in [None, Some("JWTOnly@7"), Some("JWTOnly@6"), Some("Dual@7"), Some("")] {
                        for free in [false, true] {
                            for hours_ago in [None, Some(24), Some(25)] {
                                for tls in [Permissive, Strict] {
                                    count += 1;
                                    let (service, domain) = service(wanted, running, keys, force, tls);
                                    let record = record(hours_ago);
                                    let found = effective(&service, Some(&domain), &legacy(free, &record), now());
                                    let may = !keys
                                        || free
                                        || running == Some(JWTOnly)
                                        || force == Some("JWTOnly@7")
                                        || hours_ago == Some(24);
                                    let reason = match (wanted, tls, may) {
                                        (JWTOnly, Permissive, _) => Some("TLSNotStrict"),
                                        (JWTOnly, Strict, false) => Some("LegacyKeysInUse"),
                                        _ => None,
                                    };
                                    let mode = if reason.is_some() { running.unwrap_or(Dual) } else { wanted };
                                    let case = (wanted, running, keys, force, free, hours_ago, tls);
                                    assert_eq!(found.refusal.map(|r| r.reason), reason, "{case:?}");
                                    assert_eq!(found.mode, mode, "{case:?}");
                                    let tls = if mode == JWTOnly { Strict } else { tls };
                                    assert_eq!(found.tls, tls, "{case:?}");
                                }
                            }
                        }
                    }
                }
            }
        }
        assert_eq!(count, 3 * 4 * 2 * 5 * 2 * 3 * 2);
    }

    #[test]
    fn what_is_refused_names_the_field_that_asks_for_it() {
        let (mut service, mut domain) = service(AuthMode::JWTOnly, None, true, None, TlsMode::Strict);
        let message = |service: &GaiaService, domain: &TrustDomain| {
            effective(service, Some(domain), &legacy(false, &record(None)), now()).refusal.unwrap().message
        };
        assert_eq!(
            message(&service, &domain),
            "spec.auth.mode: Dual goes on instead of JWTOnly: API keys in Secret keys: why; to insist, set the annotation \
             gaia.dev/force-mode=JWTOnly@7"
        );
        service.spec.auth.mode = None;
        service.spec.tls.mode = TlsMode::Permissive;
        domain.spec.auth.default_mode = AuthMode::JWTOnly;
        assert_eq!(
            message(&service, &domain),
            "spec.tls.mode: must be Strict for JWTOnly, which spec.auth.defaultMode of TrustDomain gaia asks for; Dual \
             with Permissive goes on"
        );
    }

    fn now() -> Timestamp {
        "2026-03-01T00:00:00Z".parse().unwrap()
    }

    fn record(ended_hours_ago: Option<u64>) -> LedgerRecord {
        let until = ended_hours_ago.map(|hours| now() - jiff::SignedDuration::from_hours(hours.try_into().unwrap()));
        LedgerRecord {
            schema_version: 1,
            watched_since: None,
            gap: None,
            jwt_only: until.map(|until| JwtOnlyRun { since: until, until: Some(until) }),
            instances: vec![],
            entries: vec![],
        }
    }

    fn legacy(free: bool, record: &LedgerRecord) -> Legacy<'_> {
        let (truth, reason) = if free { (Truth::True, "KeysUnused") } else { (Truth::False, "LegacyKeysInUse") };
        Legacy {
            stored: Some(record),
            next: None,
            keys_may_end: free,
            verdict: Verdict { truth, reason, message: "why".to_owned(), changes_at: None },
            looks_again_at: None,
        }
    }

    fn service(
        wanted: AuthMode,
        running: Option<AuthMode>,
        keys: bool,
        force: Option<&str>,
        tls: TlsMode,
    ) -> (GaiaService, TrustDomain) {
        let spec = GaiaServiceSpec {
            auth: AuthSpec {
                mode: Some(wanted),
                api_keys_secret_ref: keys.then(|| SecretRef { name: "keys".to_owned() }),
                ..AuthSpec::default()
            },
            tls: TlsSpec { mode: tls },
            ..GaiaServiceSpec::default()
        };
        let mut service = GaiaService::new("asset-service", spec);
        service.metadata.generation = Some(7);
        service.metadata.annotations =
            force.map(|force| [(annotation::FORCE_MODE.to_owned(), force.to_owned())].into());
        service.status = running.map(|mode| GaiaServiceStatus {
            auth: Some(AuthStatus { mode, desired_mode: mode }),
            ..GaiaServiceStatus::default()
        });
        let spec: TrustDomainSpec =
            serde_json::from_value(serde_json::json!({ "trustDomain": "shop.example" })).unwrap();
        (service, TrustDomain::new("gaia", spec))
    }
}
