//! The modes that the instances of a service served last.

use gaia_api::crd::{AuthMode, GaiaService, TlsMode};
use gaia_api::ledger::LedgerRecord;

/// The mode that was reported last to run.
pub(crate) fn ran(service: &GaiaService) -> AuthMode {
    service.status.as_ref().and_then(|status| Some(status.auth.as_ref()?.mode)).unwrap_or_default()
}

/// The TLS mode that instances served last; none: no instance has served any. `stored`: the record in ConfigMap
/// `<service>-ledger`.
pub(crate) fn ran_tls(service: &GaiaService, stored: Option<&LedgerRecord>) -> Option<TlsMode> {
    let tls = service.status.as_ref().and_then(|status| status.tls.as_ref());
    // The status is lost in a restore from a backup, and the record may not be.
    if tls.is_none() && stored.is_some_and(|record| record.plain.is_some()) {
        return Some(TlsMode::Permissive);
    }
    let was_served = tls.is_none_or(|tls| tls.mode == TlsMode::Strict || tls.permissive_since.is_some());
    published_tls(service).filter(|_| was_served)
}

/// The TLS mode of the policy that was published last.
pub(crate) fn published_tls(service: &GaiaService) -> Option<TlsMode> {
    let status = service.status.as_ref()?;
    if let Some(tls) = &status.tls {
        return Some(tls.mode);
    }
    // An earlier operator that reported no TLS mode applied `spec.tls.mode` at once, and Strict with JWTOnly.
    status.policy_hash.as_ref()?;
    Some(if ran(service) == AuthMode::JWTOnly { TlsMode::Strict } else { service.spec.tls.mode })
}

/// Returns true if Permissive runs although Strict is requested: callers without a client certificate are counted.
pub(crate) fn awaits_strict(service: &GaiaService, stored: Option<&LedgerRecord>) -> bool {
    service.spec.tls.mode == TlsMode::Strict && ran_tls(service, stored) == Some(TlsMode::Permissive)
}
