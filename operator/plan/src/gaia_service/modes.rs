//! The modes that run, as status and Events report them.

use gaia_api::crd::{TlsMode, TlsStatus, reason, whole_seconds};
use gaia_api::names::annotation;
use jiff::Timestamp;

use super::Observed;
use crate::Event;
use crate::api_key_usage::served;
use crate::gaia_service::mode::Effective;

/// The event of a policy that another mode comes with.
pub(super) fn event(observed: &Observed<'_>, running: &Effective) -> Option<Event> {
    let was = (served::published_tls(observed.service)?, served::ran(observed.service));
    let is = (running.tls, running.mode);
    (was != is).then(|| {
        let change =
            format!("tls.mode {:?} with auth.mode {:?} is in force; before: {:?} with {:?}", is.0, is.1, was.0, was.1);
        if running.is_forced {
            Event::warning(reason::MODE_FORCED, format!("{change}: forced by annotation {}", annotation::FORCE_MODE))
        } else {
            Event::new(reason::MODE_CHANGED, change)
        }
    })
}

/// The TLS mode that runs, and since when an instance may have accepted callers without a client certificate.
pub(super) fn tls(
    observed: &Observed<'_>,
    is_published: bool,
    running: &Effective,
    now: Timestamp,
) -> Option<TlsStatus> {
    let service = observed.service;
    let published = served::published_tls(service);
    let mode = if is_published { running.tls } else { published? };
    let before = service.status.as_ref().and_then(|status| status.tls.as_ref());
    // An earlier operator that reported no TLS mode did not record the time.
    let was_served = before.is_none() && published.is_some();
    // An endpoint that is not probed is no instance, but it may still serve.
    let has_instances = observed.child.ours().is_some_and(|child| super::child::has_instances(child));
    let serves = was_served || has_instances || !service.spec.endpoints.is_empty();
    let since = before.and_then(|tls| tls.permissive_since).or_else(|| serves.then(|| whole_seconds(now)));
    let permissive_since = since.filter(|_| mode == TlsMode::Permissive);
    Some(TlsStatus { mode, desired_mode: service.spec.tls.mode, permissive_since })
}
