//! Reports of this instance's state to the operator.
//!
//! A connection from the operator is served only these routes; on other connections the routes do not exist.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use gaia_api::Clock;
use gaia_api::identity::{ENFORCES_ISSUERS, IDENTITY_PATH, IdentityReport, LeafReport};
use gaia_api::ledger::{LEDGER_PATH, LedgerReport};
use gaia_api::mount::SCHEMA_VERSION;
use gaia_auth::{Authenticator, Connection};
use http::header;
use jiff::Timestamp;

use crate::credentials::reload::{Refused, ServiceFiles};
use crate::credentials::snapshot::{CredentialsSnapshot, SnapshotReceiver};
use crate::server::tracking::Connections;
use crate::service::routes::{nothing_here, with_plain_answers};

/// Sources of the report.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) generations: SnapshotReceiver,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) connections: Connections,
    pub(crate) service_files: Arc<dyn ServiceFiles>,
    pub(crate) refused: Refused,
    pub(crate) instance: Arc<str>,
    pub(crate) started_at: Timestamp,
}

/// Returns a unique name of this process.
pub(crate) fn name(random: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(random))
}

/// Routes of connections from the operator.
pub(crate) fn operator_app(identity: Identity) -> Router {
    let routes = Router::new().route(IDENTITY_PATH, get(report)).route(LEDGER_PATH, get(ledger));
    with_plain_answers(routes.with_state(identity))
}

/// Reports API-key usage. It also works while this instance is draining, because usage recorded until then would be
/// lost.
async fn ledger(
    State(identity): State<Identity>,
    Extension(connection): Extension<Arc<Connection>>,
    request: Request,
) -> Response {
    if !identity.is_valid(&connection) {
        return nothing_here(request).await;
    }
    let report = LedgerReport {
        schema_version: SCHEMA_VERSION,
        instance: identity.instance.to_string(),
        started_at: identity.started_at,
        entries: identity.authenticator.ledger().entries(),
        plain: Some(identity.authenticator.ledger().plain()),
    };
    ([(header::CACHE_CONTROL, "no-store")], Json(report)).into_response()
}

async fn report(
    State(identity): State<Identity>,
    Extension(connection): Extension<Arc<Connection>>,
    request: Request,
) -> Response {
    let generation = identity.generations.borrow().clone();
    match generation.filter(|_| identity.is_valid(&connection)) {
        Some(generation) => ([(header::CACHE_CONTROL, "no-store")], Json(identity.report(&generation))).into_response(),
        None => nothing_here(request).await,
    }
}

impl Identity {
    /// Returns true if the peer's leaf is still valid: the connection may be older than a revocation.
    fn is_valid(&self, connection: &Connection) -> bool {
        let now = self.clock.now();
        connection.peer.as_ref().is_some_and(|peer| self.authenticator.check_peer(peer, now).is_ok())
    }

    fn report(&self, generation: &CredentialsSnapshot) -> IdentityReport {
        let parts = &generation.parts;
        let policy = generation.policy();
        let leaf = &parts.leaf.certificate;
        let kids = parts.jwks.as_ref().map(|jwks| jwks.keys.kids()).unwrap_or_default();
        IdentityReport {
            schema_version: SCHEMA_VERSION,
            instance: self.instance.to_string(),
            started_at: self.started_at,
            service: policy.service.clone(),
            leaf: LeafReport { serial: leaf.serial(), fingerprint: leaf.fingerprint(), not_after: leaf.not_after() },
            bundle_hash: parts.bundle.hash.clone(),
            jwks_kids: kids.into_iter().map(str::to_owned).collect(),
            signing_kid: self.service_files.signing_kid(),
            denylist_hash: parts.denylist.hash.clone(),
            enforces: vec![ENFORCES_ISSUERS.to_owned()],
            policy_hash: parts.policy.hash.clone(),
            mode: policy.mode,
            refused: self.refused.report(),
            connections: self.connections.by_root(),
        }
    }
}
