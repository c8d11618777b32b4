use gaia_api::crd::{
    AuthSpec, AuthStatus, GaiaServiceSpec, GaiaServiceStatus, SecretRef, TlsSpec, TrustDomainSpec, Truth,
};
use gaia_api::ledger::{LedgerRecord, ModeRun, PlainRecord};

use super::*;
use crate::api_key_usage::UsageCondition;
use crate::api_key_usage::served::{awaits_strict, ran_tls};

/// Every spec, key, evidence, former mode, running mode, transport (asked for and running) and annotation.
#[test]
fn modes_take_effect_as_a_pair_and_only_with_evidence_or_force() {
    use AuthMode::{APIKeyOnly, Dual, JWTOnly};
    use TlsMode::{Permissive, Strict};
    let mut count = 0;
    let forces = [None, Some("JWTOnly@7"), Some("JWTOnly@6"), Some("Strict@7"), Some("Strict@6"), Some("")];
    for wanted in [APIKeyOnly, Dual, JWTOnly] {
        for running in [None, Some(APIKeyOnly), Some(Dual), Some(JWTOnly)] {
            for ran_tls in [None, Some(Permissive), Some(Strict)] {
                if running == Some(JWTOnly) && ran_tls != Some(Strict) {
                    continue;
                }
                for (keys, force) in forces.iter().flat_map(|force| [(false, *force), (true, *force)]) {
                    for (free, plain_free) in [(false, false), (false, true), (true, false), (true, true)] {
                        for hours_ago in [None, Some(24), Some(25)] {
                            for tls in [Permissive, Strict] {
                                count += 1;
                                let (service, domain) = service(wanted, running, keys, force, tls);
                                let record = record(hours_ago);
                                let legacy = Legacy { ran_tls, plain_may_end: plain_free, ..legacy(free, &record) };
                                let found = effective(&service, Some(&domain), &legacy, now());
                                let may_end_keys = !keys
                                    || free
                                    || running == Some(JWTOnly)
                                    || force == Some("JWTOnly@7")
                                    || hours_ago == Some(24);
                                let may_end_plain = ran_tls != Some(Permissive)
                                    || plain_free
                                    || matches!(force, Some("JWTOnly@7" | "Strict@7"))
                                    || hours_ago == Some(24);
                                let reason = match (wanted, tls) {
                                    (JWTOnly, Permissive) => Some("TLSNotStrict"),
                                    (JWTOnly, Strict) if !may_end_keys => Some("LegacyKeysInUse"),
                                    (_, Strict) if !may_end_plain => Some("PlainInUse"),
                                    _ => None,
                                };
                                let case = (wanted, running, ran_tls, keys, force, free, plain_free, hours_ago, tls);
                                assert_eq!(found.refusal.as_ref().map(|r| r.reason), reason, "{case:?}");
                                let holds_pair = reason.is_some() && wanted == JWTOnly;
                                let mode = if holds_pair { running.unwrap_or(Dual) } else { wanted };
                                assert_eq!(found.mode, mode, "{case:?}");
                                let expected = match reason {
                                    Some("TLSNotStrict") if running == Some(JWTOnly) => Strict,
                                    Some("LegacyKeysInUse") => ran_tls.unwrap_or(Strict),
                                    Some("PlainInUse") => Permissive,
                                    _ => tls,
                                };
                                assert_eq!(found.tls, expected, "{case:?}");
                                assert!(found.tls == Strict || found.mode != JWTOnly, "{case:?}");
                                let tightens = found.tls == Strict && ran_tls == Some(Permissive);
                                assert!(!tightens || may_end_plain, "{case:?}: nothing else begins Strict");
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!(count, 3 * (3 * 3 + 1) * 2 * 6 * 4 * 3 * 2);
}

#[test]
fn what_an_operator_without_tls_status_reported_is_what_runs() {
    let (mut old, _) = service(AuthMode::Dual, Some(AuthMode::Dual), false, None, TlsMode::Strict);
    assert_eq!(ran_tls(&old, None), None, "no policy was published");
    old.status.as_mut().unwrap().policy_hash = Some("0".repeat(64));
    assert_eq!(ran_tls(&old, None), Some(TlsMode::Strict));
    assert!(!awaits_strict(&old, None));
    old.spec.tls.mode = TlsMode::Permissive;
    assert_eq!(ran_tls(&old, None), Some(TlsMode::Permissive));
    // A JWTOnly requested by a TrustDomain ran with Strict, whatever `spec.tls.mode` of the service is.
    old.status.as_mut().unwrap().auth = Some(AuthStatus { mode: AuthMode::JWTOnly, desired_mode: AuthMode::JWTOnly });
    assert_eq!(ran_tls(&old, None), Some(TlsMode::Strict));
    // A status that was lost in a restore does not open the gate.
    old.status = None;
    let watched = LedgerRecord { plain: Some(PlainRecord::default()), ..LedgerRecord::default() };
    assert_eq!(ran_tls(&old, Some(&watched)), Some(TlsMode::Permissive));
}

#[test]
fn what_is_refused_names_the_field_that_asks_for_it() {
    let (mut service, mut domain) = service(AuthMode::JWTOnly, None, true, None, TlsMode::Strict);
    let message = |service: &GaiaService, domain: &TrustDomain| {
        effective(service, Some(domain), &legacy(false, &record(None)), now()).refusal.unwrap().message
    };
    assert_eq!(
        message(&service, &domain),
        "spec.auth.mode: Dual stays in force instead of JWTOnly: API keys in Secret keys: why; to override, set the \
         annotation gaia.dev/force-mode=JWTOnly@7"
    );
    service.spec.auth.mode = None;
    service.spec.tls.mode = TlsMode::Permissive;
    domain.spec.auth.default_mode = AuthMode::JWTOnly;
    assert_eq!(
        message(&service, &domain),
        "spec.tls.mode: must be Strict for JWTOnly, which spec.auth.defaultMode of TrustDomain gaia requests; Dual \
         with Permissive stays in force"
    );
}

fn now() -> Timestamp {
    "2026-03-01T00:00:00Z".parse().unwrap()
}

fn record(ended_hours_ago: Option<u64>) -> LedgerRecord {
    let until = ended_hours_ago.map(|hours| now() - jiff::SignedDuration::from_hours(hours.try_into().unwrap()));
    let run = until.map(|until| ModeRun { since: until, until: Some(until) });
    LedgerRecord { schema_version: 1, jwt_only: run, strict: run, ..LedgerRecord::default() }
}

fn legacy(free: bool, record: &LedgerRecord) -> Legacy<'_> {
    let (truth, reason) = if free { (Truth::True, "KeysUnused") } else { (Truth::False, "LegacyKeysInUse") };
    Legacy {
        stored: Some(record),
        next: None,
        keys_may_end: free,
        legacy_free: UsageCondition { truth, reason, message: "why".to_owned(), changes_at: None },
        plain: UsageCondition { truth, reason, message: "who".to_owned(), changes_at: None },
        plain_may_end: false,
        ran_tls: None,
        is_watched: true,
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
    service.metadata.annotations = force.map(|force| [(annotation::FORCE_MODE.to_owned(), force.to_owned())].into());
    service.status = running.map(|mode| GaiaServiceStatus {
        auth: Some(AuthStatus { mode, desired_mode: mode }),
        ..GaiaServiceStatus::default()
    });
    let spec: TrustDomainSpec = serde_json::from_value(serde_json::json!({ "trustDomain": "shop.example" })).unwrap();
    (service, TrustDomain::new("gaia", spec))
}
