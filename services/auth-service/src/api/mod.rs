//! The endpoints of auth-service.

mod exchange;
mod limits;
mod refusals;
mod service_token;
mod validate;

use std::sync::Arc;

use axum::Json;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use gaia_api::Clock;
use gaia_auth::audit::Origin;
use gaia_auth::issue::Signer;
use gaia_auth::{Access, Authenticator, Client, Connection, audit_line, problem};
use gaia_runtime::rate::when_to_retry;
use gaia_runtime::wire::{SERVICE_TOKEN_PATH, TOKEN_EXCHANGE_PATH, VALIDATE_PATH};
use gaia_runtime::{CredentialsSnapshot, Routes, random};
use http::{HeaderMap, StatusCode, header};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde::Serialize;
use tokio::sync::watch;

use crate::denial::Denial;
use crate::files::IssuerFiles;
use crate::grants::GrantTable;
use crate::signing::Signing;

pub(crate) use limits::TokenLimits;
pub(crate) use refusals::Refusals;
use refusals::Refused;

/// State of the token endpoints.
#[derive(Clone)]
pub(crate) struct Issuing {
    pub(crate) files: Arc<IssuerFiles>,
    pub(crate) generations: watch::Receiver<Option<Arc<CredentialsSnapshot>>>,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) issued: Family<IssuedLabels, Counter>,
    pub(crate) signing: Signing,
    pub(crate) limits: Arc<TokenLimits>,
    pub(crate) refusals: Arc<Refusals>,
}

/// Labels of `gaia_token_issued_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct IssuedLabels {
    kind: &'static str,
    result: &'static str,
    reason: &'static str,
}

/// RFC 6749, section 5.1, and for an exchange RFC 8693, section 2.2.1.
#[derive(Serialize)]
struct TokenAnswer {
    access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_token_type: Option<&'static str>,
    token_type: &'static str,
    expires_in: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
}

pub(crate) fn routes(routes: Routes, state: &Issuing) -> Routes {
    let limit = |bytes| DefaultBodyLimit::max(bytes);
    let service_token = post(service_token::handle).layer(limit(MAX_REQUEST_BYTES)).with_state(state.clone());
    let exchange = post(exchange::handle).layer(limit(MAX_TOKEN_FORM_BYTES)).with_state(state.clone());
    let validate = post(validate::handle).layer(limit(MAX_TOKEN_FORM_BYTES)).with_state(state.clone());
    routes
        .route(SERVICE_TOKEN_PATH, Access::Peer, service_token)
        .route(TOKEN_EXCHANGE_PATH, Access::Peer, exchange)
        .route(VALIDATE_PATH, Access::Scopes(&["auth:validate"]), validate)
        .route("/.well-known/jwks.json", Access::Public, get(jwks).with_state(state.clone()))
}

/// Inputs for issuing a token.
struct IssuingInputs {
    signer: Arc<Signer>,
    grants: Arc<GrantTable>,
    generation: Arc<CredentialsSnapshot>,
}

impl Issuing {
    /// Returns the inputs for issuing a token, if all of them are loaded.
    fn ready(&self) -> Result<IssuingInputs, Denial> {
        let generation = self.generations.borrow().clone();
        match (self.files.signer(), self.files.grants(), generation) {
            (Some(signer), Some(grants), Some(generation)) => Ok(IssuingInputs { signer, grants, generation }),
            _ => Err(Denial::NotReady),
        }
    }

    /// Responds to a token request: counts it and audits a refusal. `refuse` formats the refusal of the route.
    fn respond(
        &self,
        (kind, route): (&'static str, &'static str),
        (connection, headers): (&Connection, &HeaderMap),
        result: Result<TokenAnswer, Refused>,
        refuse: impl FnOnce(Denial) -> Response,
    ) -> Response {
        let (outcome, reason) = match &result {
            Ok(_) => ("issued", ""),
            Err(refused) => ("refused", refused.denial().as_str()),
        };
        self.issued.get_or_create(&IssuedLabels { kind, result: outcome, reason }).inc();
        match result {
            Ok(answer) => ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response(),
            Err(refused) => {
                let denial = refused.denial();
                if let Some(skipped) = self.refusals.admit_line(refused, connection.address) {
                    audit_refusal((connection, headers), denial, route, skipped);
                }
                when_to_retry(refuse(denial), denial.retry_after())
            }
        }
    }
}

/// The platform's public keys, for verifiers that do not mount them. They contain no secret.
async fn jwks(State(issuing): State<Issuing>) -> Response {
    let generation = issuing.generations.borrow().clone();
    match generation.as_ref().and_then(|generation| generation.jwks()) {
        Some(text) => {
            let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "public, max-age=30")];
            (headers, text.to_vec()).into_response()
        }
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "The JWT verification keys are not loaded yet."),
    }
}

fn audit_refusal((connection, headers): (&Connection, &HeaderMap), denial: Denial, route: &'static str, skipped: u64) {
    let peer = connection.peer.as_ref();
    if matches!(denial, Denial::TooMany(_)) {
        // Rate-limited requests are counted only, so that they do not fill the log; each request has an audit line
        // already.
        return;
    }
    audit_line!(
        Origin::of(connection, headers),
        event = "token_refused",
        result = "refused",
        reason = denial.as_str(),
        who = peer.map(|peer| peer.spiffe_id.as_str()),
        how = "mtls",
        serial = peer.map(|peer| peer.serial.as_ref()),
        client_address = Client::of(headers).site().map(tracing::field::display),
        route,
        skipped = (skipped > 0).then_some(skipped),
    );
}

/// Returns 128 random bits in hex.
fn token_id() -> Result<String, Denial> {
    let bits = random().ok_or(Denial::SigningFailed)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bits)))
}

const MAX_REQUEST_BYTES: usize = 8 * 1024;
/// A token of 8 KiB, and the rest of the form.
const MAX_TOKEN_FORM_BYTES: usize = 12 * 1024;
