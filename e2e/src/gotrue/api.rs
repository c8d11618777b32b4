//! The endpoints.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::Request;
use axum::extract::{Query, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::behaviour::conduct;
use super::failure::Failure;
use super::sessions::{Granted, LogoutScope};

/// Where the keys are, below the prefix.
pub(super) const JWKS_PATH: &str = "/.well-known/jwks.json";

pub(super) fn router(shared: &Arc<Shared>) -> Router {
    let with_key = Router::new()
        .route("/signup", post(sign_up))
        .route("/token", post(token))
        .route("/user", get(user))
        .route("/logout", post(log_out))
        .layer(from_fn_with_state(Arc::clone(shared), api_key));
    // A browser is sent to `/authorize`, and has no key.
    let open =
        Router::new().route(JWKS_PATH, get(jwks)).route("/authorize", get(authorize)).route("/health", get(health));
    let app = with_key.merge(open).with_state(Arc::clone(shared));
    let app = if shared.prefix.is_empty() { app } else { Router::new().nest(&shared.prefix, app) };
    app.layer(from_fn_with_state(Arc::clone(shared), conduct))
}

/// What stands in front of GoTrue in a project: no request without one of the project's keys.
async fn api_key(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let key = request.headers().get("apikey").and_then(|key| key.to_str().ok());
    let message = match key {
        Some(key) if key == shared.anon_key || key == shared.service_role_key => return next.run(request).await,
        Some(_) => "Invalid API key",
        None => "No API key found in request",
    };
    (StatusCode::UNAUTHORIZED, Json(json!({ "message": message, "hint": "Set the header `apikey`." }))).into_response()
}

#[derive(Deserialize)]
struct SignUp {
    #[serde(default)]
    email: String,
    #[serde(default)]
    password: String,
}

async fn sign_up(State(shared): State<Arc<Shared>>, body: Bytes) -> Result<Response, Failure> {
    let wanted: SignUp = parse(&body)?;
    let now = shared.clock.now();
    let granted = if wanted.email.is_empty() && wanted.password.is_empty() {
        shared.sessions().sign_up_anonymously(now)
    } else {
        shared.sessions().sign_up(&wanted.email, &wanted.password, now)
    };
    shared.session(&granted?)
}

#[derive(Deserialize)]
struct TokenQuery {
    #[serde(default)]
    grant_type: String,
}

#[derive(Deserialize)]
struct TokenRequest {
    #[serde(default)]
    email: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    refresh_token: String,
    #[serde(default)]
    auth_code: String,
    #[serde(default)]
    code_verifier: String,
}

async fn token(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<TokenQuery>,
    body: Bytes,
) -> Result<Response, Failure> {
    let wanted: TokenRequest = parse(&body)?;
    let now = shared.clock.now();
    let granted = match query.grant_type.as_str() {
        "password" if wanted.email.is_empty() => Err(Failure::NO_EMAIL),
        "password" => shared.sessions().by_password(&wanted.email, &wanted.password, now),
        "refresh_token" => shared.sessions().refresh(&wanted.refresh_token, now),
        "pkce" if wanted.auth_code.is_empty() || wanted.code_verifier.is_empty() => Err(Failure::NO_CODE),
        "pkce" => shared.sessions().by_code(&wanted.auth_code, &wanted.code_verifier, now),
        _ => Err(Failure::GRANT_TYPE),
    };
    shared.session(&granted?)
}

async fn user(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<Response, Failure> {
    let (user, session) = shared.bearer(&headers)?;
    let sessions = shared.sessions();
    let user = sessions.signed_in(&user, &session).ok_or(Failure::NO_SESSION)?;
    Ok(Json(user.to_json()).into_response())
}

#[derive(Deserialize)]
struct LogoutQuery {
    scope: Option<String>,
}

async fn log_out(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<LogoutQuery>,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    let scope = match query.scope.as_deref() {
        None | Some("global") => LogoutScope::Global,
        Some("local") => LogoutScope::Local,
        Some("others") => LogoutScope::Others,
        Some(_) => return Err(Failure::LOGOUT_SCOPE),
    };
    let (user, session) = shared.bearer(&headers)?;
    let mut sessions = shared.sessions();
    sessions.signed_in(&user, &session).ok_or(Failure::NO_SESSION)?;
    sessions.log_out(&user, &session, scope);
    Ok(StatusCode::NO_CONTENT)
}

async fn jwks(State(shared): State<Arc<Shared>>) -> Response {
    ([(header::CACHE_CONTROL, "public, max-age=600")], Json(shared.keys().jwks())).into_response()
}

async fn health() -> Json<Value> {
    Json(json!({ "name": "GoTrue", "description": "GoTrue is a user registration and authentication API" }))
}

#[derive(Deserialize)]
struct Authorize {
    #[serde(default)]
    provider: String,
    #[serde(default)]
    redirect_to: String,
    #[serde(default)]
    code_challenge: String,
    #[serde(default)]
    code_challenge_method: String,
    /// Who signs in at the provider. In a browser a page asks.
    login_hint: Option<String>,
}

/// The outside provider and the way back from it in one step: whoever is named there has signed in.
async fn authorize(State(shared): State<Arc<Shared>>, Query(query): Query<Authorize>) -> Result<Response, Failure> {
    if query.code_challenge.len() < SHORTEST_CHALLENGE || !query.code_challenge_method.eq_ignore_ascii_case("s256") {
        return Err(Failure::CHALLENGE);
    }
    let Some(email) = query.login_hint.as_deref() else { return Ok(Html(page(&query)).into_response()) };
    let code = shared.sessions().authorize(email, &query.code_challenge, shared.clock.now())?;
    let result = match code {
        Some(code) => format!("code={code}"),
        None => "error=access_denied&error_code=signup_disabled".to_owned(),
    };
    let separator = if query.redirect_to.contains('?') { '&' } else { '?' };
    let to = format!("{}{separator}{result}", query.redirect_to);
    Ok((StatusCode::FOUND, [(header::LOCATION, to)]).into_response())
}

/// A page that asks who signs in.
fn page(query: &Authorize) -> String {
    let hidden = [
        ("provider", &query.provider),
        ("redirect_to", &query.redirect_to),
        ("code_challenge", &query.code_challenge),
        ("code_challenge_method", &query.code_challenge_method),
    ];
    let hidden: String = hidden
        .map(|(name, value)| format!(r#"<input type="hidden" name="{name}" value="{}">"#, escaped(value)))
        .concat();
    format!(
        r#"<!doctype html><html lang="en"><title>Sign in with {}</title><form action="authorize">{hidden}
<label>E-mail address <input name="login_hint" type="email" required></label> <button>Sign in</button></form></html>"#,
        escaped(&query.provider)
    )
}

/// For an attribute's value or a text: every character but letters and digits as a reference.
fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_string() } else { format!("&#{};", u32::from(c)) })
        .collect()
}

impl Shared {
    /// GoTrue's answer to whoever has signed in.
    fn session(&self, granted: &Granted) -> Result<Response, Failure> {
        let (now, life) = (self.clock.now().as_second(), self.token_life.as_secs());
        let Granted { user, session, refresh_token } = granted;
        let claims = json!({
            "iss": self.base_url,
            "sub": user.id,
            "aud": "authenticated",
            "exp": now + life,
            "iat": now,
            "email": user.email,
            "phone": "",
            "app_metadata": user.app_metadata(),
            "user_metadata": { "email_verified": !user.is_anonymous() },
            "role": "authenticated",
            "aal": "aal1",
            "amr": [{ "method": session.method, "timestamp": session.since.as_second() }],
            "session_id": session.id,
            "is_anonymous": user.is_anonymous(),
        });
        let answer = json!({
            "access_token": self.keys().sign(&claims)?,
            "token_type": "bearer",
            "expires_in": life,
            "expires_at": now + life,
            "refresh_token": refresh_token,
            "user": user.to_json(),
        });
        Ok(([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
    }

    /// User and session of the request's access token.
    fn bearer(&self, headers: &HeaderMap) -> Result<(String, String), Failure> {
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer ")).ok_or(Failure::NO_BEARER)?;
        let claims = self.keys().claims(token, self.clock.now()).ok_or(Failure::BAD_JWT)?;
        let text = |name: &str| claims[name].as_str().map(ToOwned::to_owned);
        Ok((text("sub").ok_or(Failure::NO_SUB)?, text("session_id").ok_or(Failure::NO_SESSION)?))
    }
}

fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|_| Failure::BAD_JSON)
}

/// RFC 7636, section 4.2.
const SHORTEST_CHALLENGE: usize = 43;
