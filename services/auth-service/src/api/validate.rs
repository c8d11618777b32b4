//! `POST /internal/validate` (RFC 7662): token introspection, for services that cannot verify tokens themselves.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse as _, Response};
use gaia_auth::{Client, Connection, Introspected, Refusal, Scopes, problem};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value, json};

use super::{Issuing, when_to_retry};
use crate::form;

pub(super) async fn handle(
    State(issuing): State<Issuing>,
    Extension(connection): Extension<Arc<Connection>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let form = body.ok().and_then(|body| form::parse(&headers, &body));
    let Some(token) = form.and_then(|mut form| form.remove("token")) else {
        return problem(StatusCode::BAD_REQUEST, "The request must be a form with the field token.");
    };
    // The requesting peer is the audience, so one is required.
    let Some(peer) = &connection.peer else {
        return Refusal::from(gaia_auth::Reason::PeerMissing).response();
    };
    let client = Client::of(&headers);
    let client = Client { address: client.address.or(connection.address), ..client };
    let answer = match issuing.authenticator.introspect_token(&token, Some(peer), client).await {
        Ok(examined) => active(&examined),
        Err(refusal) if refusal.reason.status() == StatusCode::SERVICE_UNAVAILABLE => {
            let cannot_tell =
                problem(StatusCode::SERVICE_UNAVAILABLE, "The token cannot be verified at present. Try again later.");
            return when_to_retry(cannot_tell, Some(1));
        }
        Err(refusal) => {
            tracing::info!(
                peer = peer.spiffe_id.as_str(),
                reason = refusal.reason.as_str(),
                kid = refusal.trace.kid.as_deref(),
                jti = refusal.trace.jti.as_deref(),
                sub = refusal.trace.sub.as_deref(),
                claimed_sub = refusal.trace.claimed_sub(),
                "introspected token is not active"
            );
            json!({ "active": false })
        }
    };
    ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}

/// RFC 7662, section 2.2. `sub` has the platform's format. The caller must compare `client_id` with the peer that
/// presented the token, which only its listener knows.
fn active(token: &Introspected) -> Value {
    let mut answer = Map::from_iter([
        ("active".to_owned(), json!(true)),
        ("token_type".to_owned(), json!("Bearer")),
        ("sub".to_owned(), json!(token.subject.to_string())),
    ]);
    let mut add = |name: &str, value: Option<Value>| answer.extend(value.map(|value| (name.to_owned(), value)));
    add("iss", token.issuer.as_deref().map(Value::from));
    add("aud", token.audience.as_deref().map(Value::from));
    add("client_id", token.client.as_ref().map(|client| client.as_str().into()));
    add("jti", token.trace.jti.as_deref().map(Value::from));
    add("iat", token.issued.map(|time| time.as_second().into()));
    add("exp", token.expires.map(|time| time.as_second().into()));
    if let Scopes::Only(scopes) = &token.scopes {
        add("scope", Some(scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" ").into()));
    }
    if token.is_anonymous {
        add("is_anonymous", Some(true.into()));
    }
    Value::Object(answer)
}
