//! The endpoints of auth-service.

use std::sync::Arc;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, body::Bytes};
use gaia_api::Clock;
use gaia_auth::issue::ServiceClaims;
use gaia_auth::{Access, Connection, PeerIdentity, problem};
use gaia_runtime::telemetry::AUDIT_TARGET;
use gaia_runtime::{Generation, Routes};
use http::{StatusCode, header};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde::Serialize;
use tokio::sync::watch;

use crate::files::IssuerFiles;
use crate::issuer::{Denial, claims, parse};

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct Issuing {
    pub(crate) files: Arc<IssuerFiles>,
    pub(crate) generations: watch::Receiver<Option<Arc<Generation>>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) issued: Family<IssuedLabels, Counter>,
}

/// Labels of `gaia_token_issued_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct IssuedLabels {
    kind: &'static str,
    result: &'static str,
    reason: &'static str,
}

/// RFC 6749, section 5.1.
#[derive(Serialize)]
struct TokenAnswer {
    access_token: String,
    token_type: &'static str,
    expires_in: i64,
}

pub(crate) fn routes(routes: Routes, state: Issuing) -> Routes {
    let service_token = post(service_token).layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES)).with_state(state.clone());
    routes.route("/internal/service-token", Access::Peer, service_token).route(
        "/.well-known/jwks.json",
        Access::Public,
        get(jwks).with_state(state),
    )
}

async fn service_token(
    State(issuing): State<Issuing>,
    Extension(connection): Extension<Arc<Connection>>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Response {
    let result = match (&connection.peer, body) {
        (Some(peer), Ok(body)) => issuing.issue(peer, &body),
        _ => Err(Denial::Malformed),
    };
    let (result_label, reason) = match &result {
        Ok(_) => ("issued", ""),
        Err(denial) => ("refused", denial.as_str()),
    };
    let labels = IssuedLabels { kind: "service", result: result_label, reason };
    issuing.issued.get_or_create(&labels).inc();
    match result {
        Ok(answer) => ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response(),
        Err(denial) => {
            audit_refusal(connection.peer.as_ref(), denial);
            let (status, message) = denial.answer();
            problem(status, message)
        }
    }
}

impl Issuing {
    fn issue(&self, peer: &PeerIdentity, body: &[u8]) -> Result<TokenAnswer, Denial> {
        let request = parse(body)?;
        let (Some(signer), Some(grants)) = (self.files.signer(), self.files.grants()) else {
            return Err(Denial::NotReady);
        };
        let claims = claims(&grants, peer, &request, self.clock.now(), token_id()?)?;
        let access_token = signer.sign(&claims).map_err(|_| Denial::SigningFailed)?;
        // Before the answer: what went out is on record.
        audit_issue(peer, signer.kid(), &claims);
        Ok(TokenAnswer { access_token, token_type: "Bearer", expires_in: claims.exp - claims.iat })
    }
}

/// The platform's public keys, for verifiers that do not mount them. Nothing in it is secret.
async fn jwks(State(issuing): State<Issuing>) -> Response {
    let generation = issuing.generations.borrow().clone();
    match generation.as_ref().and_then(|generation| generation.jwks()) {
        Some(text) => {
            let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "public, max-age=30")];
            (headers, text.to_vec()).into_response()
        }
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "The keys are not loaded yet."),
    }
}

fn audit_issue(peer: &PeerIdentity, kid: &str, claims: &ServiceClaims) {
    tracing::info!(
        target: AUDIT_TARGET,
        event = "token_issued",
        result = "issued",
        who = peer.spiffe_id.as_str(),
        how = "mtls",
        serial = peer.serial,
        kid,
        jti = claims.jti,
        aud = claims.aud,
        scope = claims.scope,
        expires = claims.exp,
        route = "/internal/service-token",
    );
}

fn audit_refusal(peer: Option<&PeerIdentity>, denial: Denial) {
    tracing::info!(
        target: AUDIT_TARGET,
        event = "token_refused",
        result = "refused",
        reason = denial.as_str(),
        who = peer.map(|peer| peer.spiffe_id.as_str()),
        how = "mtls",
        serial = peer.map(|peer| peer.serial.as_str()),
        route = "/internal/service-token",
    );
}

/// 128 random bits in hex.
fn token_id() -> Result<String, Denial> {
    let mut bits = [0; 16];
    SystemRandom::new().fill(&mut bits).map_err(|_| Denial::SigningFailed)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bits)))
}

const MAX_REQUEST_BYTES: usize = 8 * 1024;
