//! Which authentication mode a service runs.

use std::time::Duration;

use gaia_api::crd::{AuthMode, GaiaService, TlsMode, TrustDomain, reason};
use gaia_api::ledger::ModeRun;
use gaia_api::names::annotation;
use jiff::Timestamp;

use crate::Refusal;
use crate::api_key_usage::{self, Legacy, served};
use crate::pacing::backoff::saturating_add;

/// The requested mode: of the service, else of its TrustDomain.
pub(crate) fn desired(service: &GaiaService, domain: Option<&TrustDomain>) -> AuthMode {
    let default = domain.map(|domain| domain.spec.auth.default_mode).unwrap_or_default();
    service.spec.auth.mode.unwrap_or(default)
}

/// The modes that run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Effective {
    pub(crate) mode: AuthMode,
    pub(crate) tls: TlsMode,
    /// The reason why the requested mode does not run.
    pub(crate) refusal: Option<Refusal>,
    /// True if it runs only because of the annotation `gaia.dev/force-mode`.
    pub(crate) is_forced: bool,
}

/// The modes that run: `auth.mode` and `tls.mode` take effect as a pair.
///
/// Every authentication mode except JWTOnly can be entered at any time. JWTOnly refuses API keys, so it requires Strict
/// and one of: no keys are configured, no keys are in use (`LegacyFree`), or JWTOnly runs or ran within a day. A change
/// from Permissive to Strict refuses callers without a client certificate, so it requires that there are none
/// (`PlainFree`), or that Strict ran within a day. The annotation `gaia.dev/force-mode` replaces the evidence for the
/// current spec. Otherwise the previous modes stay in force, and the refusal names the missing evidence.
pub(crate) fn effective(
    service: &GaiaService,
    domain: Option<&TrustDomain>,
    legacy: &Legacy<'_>,
    now: Timestamp,
) -> Effective {
    let gate = Gate { service, domain, legacy, now };
    let (mode, tls) = (desired(service, domain), service.spec.tls.mode);
    let runs = |mode, tls, is_forced| Effective { mode, tls, refusal: None, is_forced };
    let holds = |mode, tls, (reason, message)| {
        let refusal = Some(Refusal::stalled(reason, message));
        Effective { mode, tls, refusal, is_forced: false }
    };
    let ran = served::ran(service);
    match (mode, tls) {
        (AuthMode::JWTOnly, TlsMode::Permissive) => {
            // The schema validates the service alone. An edit that is refused must not re-enable API keys and plain
            // HTTP.
            let tls = if ran == AuthMode::JWTOnly { TlsMode::Strict } else { tls };
            let message = format!(
                "spec.tls.mode: must be Strict for JWTOnly, which {} requests; {ran:?} with {tls:?} stays in force",
                gate.field()
            );
            holds(ran, tls, (reason::TLS_NOT_STRICT, message))
        }
        (AuthMode::JWTOnly, TlsMode::Strict) => match (gate.tokens_alone(), gate.strict()) {
            (Ok(keys), Ok(plain)) => runs(mode, tls, keys.or(plain).is_some()),
            (Err(keys), _) => holds(ran, legacy.ran_tls.unwrap_or(tls), (reason::LEGACY_KEYS_IN_USE, keys)),
            (Ok(_), Err(plain)) => {
                let message = format!("{plain}; {ran:?} stays in force with it");
                holds(ran, TlsMode::Permissive, (reason::PLAIN_IN_USE, message))
            }
        },
        (_, TlsMode::Permissive) => runs(mode, tls, false),
        (_, TlsMode::Strict) => match gate.strict() {
            Ok(forced) => runs(mode, tls, forced.is_some()),
            Err(plain) => holds(mode, TlsMode::Permissive, (reason::PLAIN_IN_USE, plain)),
        },
    }
}

/// That the annotation took the place of evidence.
struct Forced;

/// The input of a decision about a change of modes.
struct Gate<'g> {
    service: &'g GaiaService,
    domain: Option<&'g TrustDomain>,
    legacy: &'g Legacy<'g>,
    now: Timestamp,
}

impl Gate<'_> {
    /// Checks that JWTOnly may run, as far as API keys are concerned.
    fn tokens_alone(&self) -> Result<Option<Forced>, String> {
        let (service, legacy) = (self.service, self.legacy);
        let run = legacy.stored.and_then(|record| record.jwt_only);
        let may_enter = api_key_usage::keys(service).is_none()
            || legacy.keys_may_end
            || served::ran(service) == AuthMode::JWTOnly
            || ran_within_a_day(run, self.now);
        if may_enter {
            return Ok(None);
        }
        if is_forced(service, AuthMode::JWTOnly) {
            return Ok(Some(Forced));
        }
        Err(format!(
            "{}: {:?} stays in force instead of JWTOnly: API keys in Secret {}: {}; to override, set the annotation \
             {}=JWTOnly@{}",
            self.field(),
            served::ran(service),
            api_key_usage::keys(service).map(|secret| secret.name.as_str()).unwrap_or_default(),
            legacy.legacy_free.message,
            annotation::FORCE_MODE,
            service.metadata.generation.unwrap_or_default(),
        ))
    }

    /// Checks that Strict may run. A service that has never served Permissive has no callers to lose.
    fn strict(&self) -> Result<Option<Forced>, String> {
        let (service, legacy) = (self.service, self.legacy);
        let run = legacy.stored.and_then(|record| record.strict);
        let may_enter =
            legacy.ran_tls != Some(TlsMode::Permissive) || legacy.plain_may_end || ran_within_a_day(run, self.now);
        if may_enter {
            return Ok(None);
        }
        if is_forced(service, TlsMode::Strict) || is_forced(service, AuthMode::JWTOnly) {
            return Ok(Some(Forced));
        }
        Err(format!(
            "spec.tls.mode: Permissive stays in force instead of Strict: {}; to override, set the annotation \
             {}=Strict@{}",
            legacy.plain.message,
            annotation::FORCE_MODE,
            service.metadata.generation.unwrap_or_default(),
        ))
    }

    /// The field that asks for the authentication mode.
    fn field(&self) -> String {
        if self.service.spec.auth.mode.is_some() {
            return "spec.auth.mode".to_owned();
        }
        let name = self.domain.and_then(|domain| domain.metadata.name.as_deref()).unwrap_or_default();
        format!("spec.auth.defaultMode of TrustDomain {name}")
    }
}

/// Returns true if a mode runs, or ran within the last day: it is known to work.
pub(crate) fn ran_within_a_day(run: Option<ModeRun>, now: Timestamp) -> bool {
    run.is_some_and(|run| run.until.is_none_or(|until| now <= saturating_add(until, WAY_BACK)))
}

/// Returns the time one day after the end of a run.
pub(crate) fn forgotten_at(run: ModeRun) -> Option<Timestamp> {
    run.until.map(|until| saturating_add(until, WAY_BACK))
}

/// Returns true if the annotation forces a mode for the current generation of the spec.
fn is_forced(service: &GaiaService, mode: impl std::fmt::Debug) -> bool {
    let asked = service.metadata.annotations.as_ref().and_then(|all| all.get(annotation::FORCE_MODE));
    let generation = service.metadata.generation.unwrap_or_default();
    asked.is_some_and(|asked| *asked == format!("{mode:?}@{generation}"))
}

const WAY_BACK: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests;
