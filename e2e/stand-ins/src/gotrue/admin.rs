//! Requests of the project's administrator about users, and of users about their own account and second factors.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};
use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Shared;
use super::api::parse;
use super::failure::Failure;
use super::identity::totp::{base32, is_totp};
use super::identity::{Factor, uuid};
use crate::random::random;

#[derive(Deserialize)]
pub(super) struct NewUser {
    email: String,
    password: String,
    #[serde(default)]
    email_confirm: bool,
    #[serde(default)]
    user_metadata: Map<String, Value>,
}

pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    shared.check_admin(&headers)?;
    let wanted: NewUser = parse(&body)?;
    let mut sessions = shared.sessions();
    let now = shared.clock.now();
    let (user, _) = sessions.sign_up((&wanted.email, &wanted.password), wanted.email_confirm, now)?;
    let user = sessions.users.get_mut(&user.id).ok_or(Failure::ADMIN_NO_USER)?;
    user.metadata = wanted.user_metadata;
    Ok(Json(user.to_json()).into_response())
}

#[derive(Deserialize)]
pub(super) struct Change {
    /// Hours as `24h`; `none` ends a ban.
    ban_duration: Option<String>,
    user_metadata: Option<Map<String, Value>>,
}

pub(super) async fn update(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    shared.check_admin(&headers)?;
    let Change { ban_duration, user_metadata } = parse(&body)?;
    let (now, mut sessions) = (shared.clock.now(), shared.sessions());
    let user = sessions.users.get_mut(&id).ok_or(Failure::ADMIN_NO_USER)?;
    if let Some(duration) = ban_duration {
        let hours = duration.strip_suffix('h').and_then(|hours| hours.parse().ok());
        user.banned_until = hours.map(|hours| now + SignedDuration::from_hours(hours));
    }
    if let Some(metadata) = user_metadata {
        user.metadata.extend(metadata);
    }
    Ok(Json(user.to_json()).into_response())
}

pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    shared.check_admin(&headers)?;
    if shared.sessions().delete(&id) { Ok(Json(json!({})).into_response()) } else { Err(Failure::ADMIN_NO_USER) }
}

#[derive(Deserialize)]
pub(super) struct NewFactor {
    #[serde(default)]
    factor_type: String,
    #[serde(default)]
    friendly_name: String,
}

pub(super) async fn enrol(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let (user, session) = shared.bearer(&headers)?;
    let wanted: NewFactor = parse(&body)?;
    let (now, mut sessions) = (shared.clock.now(), shared.sessions());
    if sessions.signed_in(&user, &session, now)?.0.is_anonymous() {
        return Err(Failure::ANONYMOUS_FACTOR);
    }
    if wanted.factor_type != "totp" {
        return Err(Failure::FACTOR_TYPE);
    }
    let factor = Factor {
        id: uuid()?,
        name: wanted.friendly_name,
        secret: random::<20>()?.to_vec(),
        is_verified: false,
        created: now,
        challenges: vec![],
    };
    let secret = base32(&factor.secret);
    let uri =
        format!("otpauth://totp/localhost:user?algorithm=SHA1&digits=6&issuer=localhost&period=30&secret={secret}");
    let answer = json!({
        "id": factor.id, "type": "totp", "friendly_name": factor.name,
        "totp": { "qr_code": "", "secret": secret, "uri": uri },
    });
    sessions.users.get_mut(&user).ok_or(Failure::NO_USER)?.factors.push(factor);
    Ok(Json(answer).into_response())
}

pub(super) async fn challenge(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let (user, session) = shared.bearer(&headers)?;
    let (now, mut sessions) = (shared.clock.now(), shared.sessions());
    sessions.signed_in(&user, &session, now)?;
    let user = sessions.users.get_mut(&user).ok_or(Failure::NO_USER)?;
    let factor = user.factors.iter_mut().find(|factor| factor.id == id).ok_or(Failure::NO_FACTOR)?;
    let challenge = uuid()?;
    factor.challenges.push(challenge.clone());
    let expires = now + SignedDuration::from_mins(5);
    Ok(Json(json!({ "id": challenge, "type": "totp", "expires_at": expires.as_second() })).into_response())
}

#[derive(Deserialize)]
pub(super) struct Verification {
    challenge_id: String,
    code: String,
}

pub(super) async fn verify(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let (user, session) = shared.bearer(&headers)?;
    let wanted: Verification = parse(&body)?;
    let (now, mut sessions) = (shared.clock.now(), shared.sessions());
    sessions.signed_in(&user, &session, now)?;
    let user = sessions.users.get_mut(&user).ok_or(Failure::NO_USER)?;
    let factor = user.factors.iter_mut().find(|factor| factor.id == id).ok_or(Failure::NO_FACTOR)?;
    let is_challenged = factor.challenges.contains(&wanted.challenge_id);
    if !is_challenged || !is_totp(&factor.secret, &wanted.code, now) {
        return Err(Failure::WRONG_DIGITS);
    }
    factor.is_verified = true;
    factor.challenges.clear();
    let granted = sessions.raise(&session, now)?;
    drop(sessions);
    shared.session(&granted)
}

#[derive(Deserialize)]
pub(super) struct OwnChange {
    password: Option<String>,
    data: Option<Map<String, Value>>,
}

/// A user changes the own account.
pub(super) async fn change(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let (id, session) = shared.bearer(&headers)?;
    let OwnChange { password, data } = parse(&body)?;
    let (now, mut sessions) = (shared.clock.now(), shared.sessions());
    let (user, session) = sessions.signed_in(&id, &session, now)?;
    if password.is_some() && user.has_second_factor() && session.second_factor.is_none() {
        return Err(Failure::LOW_AAL);
    }
    if password.as_ref().is_some_and(|password| password.chars().count() < super::sessions::SHORTEST_PASSWORD) {
        return Err(Failure::WEAK_PASSWORD);
    }
    let user = sessions.users.get_mut(&id).ok_or(Failure::NO_USER)?;
    if let Some(password) = password {
        user.password = password;
    }
    user.metadata.extend(data.unwrap_or_default());
    Ok((StatusCode::OK, Json(user.to_json())).into_response())
}
