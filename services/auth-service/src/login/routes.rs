//! Routes of user sign-in.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use gaia_auth::{Access, Connection, Principal, request_id};
use gaia_runtime::Routes;
use http::{HeaderMap, StatusCode, header};

use super::audit::Entry;
use super::failure::LoginFailure;
use super::gotrue::Session;
use super::request::{Logout, Refresh, SignIn};
use super::{Caller, Login};

/// Adds the routes. A caller needs a credential, but no scope.
pub(crate) fn routes(routes: Routes, login: &Login) -> Routes {
    let limit = || DefaultBodyLimit::max(MAX_REQUEST_BYTES);
    routes
        .route("/auth/login", Access::Scopes(&[]), post(sign_in).layer(limit()).with_state(login.clone()))
        .route("/auth/refresh", Access::Scopes(&[]), post(refresh).layer(limit()).with_state(login.clone()))
        .route("/auth/logout", Access::Scopes(&[]), post(log_out).layer(limit()).with_state(login.clone()))
        .route("/auth/methods", Access::Scopes(&[]), get(methods).with_state(login.clone()))
}

type Body = Result<Bytes, BytesRejection>;

async fn sign_in(
    State(login): State<Login>,
    principal: Principal,
    Extension(connection): Extension<Arc<Connection>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let caller = login.caller(principal, connection, &headers);
    let wanted = SignIn::parse(body);
    let result = match both(&caller, wanted.as_ref().map_err(|failure| *failure)) {
        Ok((caller, wanted)) => login.sign_in(caller, wanted).await,
        Err(failure) => Err(failure),
    };
    let entry = Entry {
        action: wanted.as_ref().map_or("unknown", SignIn::action),
        account: wanted.as_ref().ok().and_then(SignIn::account),
        sub: result.as_ref().ok().and_then(Session::sub),
        ..entry(&caller, &headers)
    };
    login.done(&entry, &result);
    session_or(result.as_ref().map_err(|failure| *failure))
}

async fn refresh(
    State(login): State<Login>,
    principal: Principal,
    Extension(connection): Extension<Arc<Connection>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let caller = login.caller(principal, connection, &headers);
    let result = match both(&caller, Refresh::parse(body)) {
        Ok((caller, wanted)) => login.refresh(caller, wanted).await,
        Err(failure) => Err(failure),
    };
    let sub = result.as_ref().ok().and_then(|session| session.sub());
    login.done(&Entry { action: "refresh", sub, ..entry(&caller, &headers) }, &result);
    session_or(result.as_deref().map_err(|failure| *failure))
}

async fn log_out(
    State(login): State<Login>,
    principal: Principal,
    Extension(connection): Extension<Arc<Connection>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let caller = login.caller(principal, connection, &headers);
    let result = match both(&caller, Logout::parse(body)) {
        Ok((caller, wanted)) => login.log_out(caller, &wanted).await,
        Err(failure) => Err(failure),
    };
    login.done(&Entry { action: "logout", ..entry(&caller, &headers) }, &result);
    match result {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(failure) => failure.response(),
    }
}

async fn methods(
    State(login): State<Login>,
    principal: Principal,
    Extension(connection): Extension<Arc<Connection>>,
    headers: HeaderMap,
) -> Response {
    let result = match login.caller(principal, connection, &headers) {
        Ok(caller) => login.methods(&caller).await,
        Err(failure) => Err(failure),
    };
    match result {
        Ok(methods) => ([(header::CACHE_CONTROL, "no-store")], Json(methods)).into_response(),
        Err(failure) => failure.response(),
    }
}

/// Combines the caller and the request. A failure of the caller takes precedence.
fn both<W>(
    caller: &Result<Caller, LoginFailure>,
    wanted: Result<W, LoginFailure>,
) -> Result<(&Caller, W), LoginFailure> {
    Ok((caller.as_ref().map_err(|failure| *failure)?, wanted?))
}

fn entry<'a>(caller: &'a Result<Caller, LoginFailure>, headers: &'a HeaderMap) -> Entry<'a> {
    let caller = caller.as_ref().ok().map(Caller::audited);
    Entry { caller, request_id: request_id(headers), ..Entry::default() }
}

fn session_or(result: Result<&Session, LoginFailure>) -> Response {
    match result {
        Ok(session) => ([(header::CACHE_CONTROL, "no-store")], Json(session)).into_response(),
        Err(failure) => failure.response(),
    }
}

/// An access token of 8 KiB, and the rest of the request.
const MAX_REQUEST_BYTES: usize = 12 * 1024;
