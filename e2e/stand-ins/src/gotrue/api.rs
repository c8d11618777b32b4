//! The endpoints.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Query, Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::behaviour::conduct;
use super::failure::Failure;
use super::sessions::{Granted, LogoutScope};
use super::version::version;
use super::{Shared, admin};

/// The path of the keys, below the prefix.
pub(super) const JWKS_PATH: &str = "/.well-known/jwks.json";

pub(super) fn router(shared: &Arc<Shared>) -> Router {
    let with_key = Router::new()
        .route("/signup", post(sign_up))
        .route("/token", post(token))
        .route("/user", get(user).put(admin::change))
        .route("/logout", post(log_out))
        .route("/settings", get(settings))
        .route("/factors", post(admin::enrol))
        .route("/factors/{id}/challenge", post(admin::challenge))
        .route("/factors/{id}/verify", post(admin::verify))
        .route("/admin/users", post(admin::create))
        .route("/admin/users/{id}", put(admin::update).delete(admin::delete))
        .layer(from_fn_with_state(Arc::clone(shared), api_key));
    // A browser is redirected to `/authorize`, and has no key.
    let open =
        Router::new().route(JWKS_PATH, get(jwks)).route("/authorize", get(authorize)).route("/health", get(health));
    let app = with_key.merge(open).with_state(Arc::clone(shared));
    let app = if shared.prefix.is_empty() { app } else { Router::new().nest(&shared.prefix, app) };
    app.layer(from_fn(version)).layer(from_fn_with_state(Arc::clone(shared), conduct))
}

/// The gateway in front of GoTrue in a project: it refuses requests without one of the project's keys.
async fn api_key(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let key = request.headers().get("apikey").and_then(|key| key.to_str().ok());
    let message = match key {
        _ if !shared.requires_key => return next.run(request).await,
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
    let (settings, now) = (&shared.settings, shared.clock.now());
    if settings.captcha {
        return Err(Failure::CAPTCHA);
    }
    let wanted: SignUp = parse(&body)?;
    if !settings.signups {
        return Err(Failure::SIGNUPS_OFF);
    }
    if wanted.email.is_empty() {
        if !settings.anonymous {
            return Err(Failure::ANONYMOUS_OFF);
        }
        let granted = shared.sessions().sign_up_anonymously(now)?;
        return shared.session(&granted);
    }
    if wanted.password.is_empty() {
        return Err(Failure::NO_PASSWORD);
    }
    if !settings.email {
        return Err(Failure::EMAIL_SIGNUPS_OFF);
    }
    if !is_address(&wanted.email) {
        return Err(Failure::EMAIL_FORMAT);
    }
    let signed_up = shared.sessions().sign_up((&wanted.email, &wanted.password), settings.autoconfirm, now)?;
    match signed_up {
        (_, Some(granted)) => shared.session(&granted),
        (user, None) => Ok(Json(user.to_json()).into_response()),
    }
}

fn is_address(text: &str) -> bool {
    let is_plain = !text.contains(char::is_whitespace);
    is_plain && text.split_once('@').is_some_and(|(name, host)| !name.is_empty() && host.contains('.'))
}

async fn settings(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(shared.settings.to_json())
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
    phone: String,
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
    ConnectInfo(wire): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let (settings, now, grant) = (&shared.settings, shared.clock.now(), query.grant_type.as_str());
    if settings.captcha && !matches!(grant, "refresh_token" | "pkce") {
        return Err(Failure::CAPTCHA);
    }
    if !matches!(grant, "password" | "refresh_token" | "pkce") {
        return Err(Failure::GRANT_TYPE);
    }
    if let Some(limit) = settings.token_limit
        && !shared.token_limit().take(shared.client(wire.ip(), &headers), limit, now)
    {
        return Err(Failure::TOO_MANY);
    }
    let wanted: TokenRequest = parse(&body)?;
    let granted = match grant {
        "password" if !wanted.email.is_empty() && !wanted.phone.is_empty() => Err(Failure::TWO_NAMES),
        "password" if !wanted.phone.is_empty() => Err(Failure::PHONE_OFF),
        "password" if wanted.email.is_empty() => Err(Failure::NO_EMAIL),
        "password" if !settings.email => Err(Failure::EMAIL_OFF),
        "password" => shared.sessions().by_password(&wanted.email, &wanted.password, now),
        "refresh_token" => shared.sessions().refresh(&wanted.refresh_token, now),
        "pkce" if wanted.auth_code.is_empty() || wanted.code_verifier.is_empty() => Err(Failure::NO_CODE),
        _ => shared.sessions().by_code(&wanted.auth_code, &wanted.code_verifier, now),
    };
    shared.session(&granted?)
}

async fn user(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Result<Response, Failure> {
    let (user, session) = shared.bearer(&headers)?;
    let sessions = shared.sessions();
    let (user, _) = sessions.signed_in(&user, &session, shared.clock.now())?;
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
    let (user, session) = shared.bearer(&headers)?;
    let mut sessions = shared.sessions();
    sessions.signed_in(&user, &session, shared.clock.now())?;
    let scope = match query.scope.as_deref() {
        None | Some("global") => LogoutScope::Global,
        Some("local") => LogoutScope::Local,
        Some("others") => LogoutScope::Others,
        Some(_) => return Err(Failure::LOGOUT_SCOPE),
    };
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
    /// The user who signs in at the provider. A browser is shown a form instead.
    login_hint: Option<String>,
}

/// The external provider and its redirect in one step: the named user is signed in.
async fn authorize(State(shared): State<Arc<Shared>>, Query(query): Query<Authorize>) -> Result<Response, Failure> {
    if !shared.settings.has_provider(&query.provider) {
        return Err(Failure::PROVIDER_OFF);
    }
    if query.code_challenge.len() < SHORTEST_CHALLENGE || !query.code_challenge_method.eq_ignore_ascii_case("s256") {
        return Err(Failure::CHALLENGE);
    }
    let Some(email) = query.login_hint.as_deref() else { return Ok(Html(page(&query)).into_response()) };
    let code = shared.sessions().authorize(email, &query.code_challenge, shared.clock.now())?;
    let result = match code {
        Some(code) => format!("code={code}"),
        None => {
            "error=access_denied&error_code=signup_disabled&error_description=Signups+not+allowed+for+this+instance"
                .to_owned()
        }
    };
    let place = shared.settings.redirect(&query.redirect_to);
    let separator = if place.contains('?') { '&' } else { '?' };
    let to = format!("{place}{separator}{result}");
    Ok((StatusCode::FOUND, [(header::LOCATION, to)]).into_response())
}

/// A page with a form for the user.
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

/// Escapes an attribute's value or a text: every character but letters and digits as a reference.
fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_string() } else { format!("&#{};", u32::from(c)) })
        .collect()
}

impl Shared {
    /// GoTrue's answer after a sign-in.
    pub(super) fn session(&self, granted: &Granted) -> Result<Response, Failure> {
        let (now, life) = (self.clock.now().as_second(), self.token_life.as_secs());
        let Granted { user, session, refresh_token } = granted;
        let mut methods = vec![json!({ "method": session.method, "timestamp": session.since.as_second() })];
        if let Some(since) = session.second_factor {
            methods.insert(0, json!({ "method": "totp", "timestamp": since.as_second() }));
        }
        let claims = json!({
            "iss": self.base_url,
            "sub": user.id,
            "aud": "authenticated",
            "exp": now + life,
            "iat": now,
            "email": user.email,
            "phone": "",
            "app_metadata": user.app_metadata(),
            "user_metadata": user.user_metadata(),
            "role": "authenticated",
            "aal": if session.second_factor.is_some() { "aal2" } else { "aal1" },
            "amr": methods,
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
    pub(super) fn bearer(&self, headers: &HeaderMap) -> Result<(String, String), Failure> {
        let claims = self.claims(headers)?;
        let text = |name: &str| claims[name].as_str().map(ToOwned::to_owned);
        Ok((text("sub").ok_or(Failure::NO_SUB)?, text("session_id").ok_or(Failure::NO_SESSION)?))
    }

    /// Refuses requests that are not the administrator's.
    pub(super) fn check_admin(&self, headers: &HeaderMap) -> Result<(), Failure> {
        if self.claims(headers)?["role"] == "service_role" { Ok(()) } else { Err(Failure::NOT_ADMIN) }
    }

    fn claims(&self, headers: &HeaderMap) -> Result<Value, Failure> {
        let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer ")).ok_or(Failure::NO_BEARER)?;
        self.keys().claims(token, self.clock.now()).ok_or(Failure::BAD_JWT)
    }

    /// The address for the rate limit.
    fn client(&self, wire: IpAddr, headers: &HeaderMap) -> IpAddr {
        let named = headers.get("sb-forwarded-for").filter(|_| self.settings.forwarded_for);
        let named = named.and_then(|value| value.to_str().ok()).and_then(|value| value.split(',').next());
        named.and_then(|value| value.trim().parse().ok()).unwrap_or(wire)
    }
}

pub(super) fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|_| Failure::BAD_JSON)
}

/// RFC 7636, section 4.2.
const SHORTEST_CHALLENGE: usize = 43;
