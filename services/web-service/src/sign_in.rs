//! Sign-in with a password or a provider, and sign-out.

pub(crate) mod audit;
pub(crate) mod by_gateway;
pub(crate) mod login;
pub(crate) mod methods;
pub(crate) mod refusal;
use std::sync::Arc;

use axum::Extension;
use axum::Form;
use axum::extract::rejection::FormRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use gaia_runtime::rate::when_to_retry;
use http::header::{HeaderMap, HeaderName};
use http::{HeaderValue, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::origin::{PublicUrl, own_path};
use crate::pages::user_error::UserError;
use crate::pages::{self, Frame, Notice, Provider};
use crate::sessions::known_client::Known;
use crate::sessions::pkce::{PKCE, Start};
use crate::sessions::session::{SESSION, Session};
use crate::sign_in::login::{LoginError, Proof};
use crate::sign_in::refusal::Refusal;
use crate::site::{Client, Person, ResultLabels, Site, Visitor, redirect};

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Asked {
    #[serde(default)]
    next: String,
    #[serde(default)]
    why: String,
}

/// Renders the form.
pub(crate) async fn show(
    State(site): State<Arc<Site>>,
    Extension(visitor): Extension<Visitor>,
    Query(asked): Query<Asked>,
) -> Response {
    if let Visitor::SignedIn(_) = visitor {
        return Redirect::to(own_path(&asked.next).unwrap_or("/")).into_response();
    }
    let notice = match (asked.why.as_str(), &visitor) {
        ("ended", _) | (_, Visitor::Ended) => Some(Notice::plain("Your session has ended. Please sign in again.")),
        ("out", _) => Some(Notice::good("You are signed out.")),
        _ => None,
    };
    form(&site, StatusCode::OK, notice, "", &asked.next, IsWrong::No)
}

#[derive(Deserialize)]
pub(crate) struct Credentials {
    email: String,
    password: String,
    #[serde(default)]
    next: String,
}

/// Handles the submitted form.
pub(crate) async fn submit(
    State(site): State<Arc<Site>>,
    Extension(client): Extension<Client>,
    sent: HeaderMap,
    credentials: Result<Form<Credentials>, FormRejection>,
) -> Response {
    let Ok(Form(Credentials { email, password, next })) = credentials else {
        return UserError::BadForm.response(&site, None, true);
    };
    let Some(issuer) = site.issuer(|issuer| issuer.name.clone()) else {
        return form(&site, StatusCode::SERVICE_UNAVAILABLE, None, &email, &next, IsWrong::No);
    };
    let proof = Proof::Password { email: email.trim(), password: &password };
    let keys = site.mounted.newest();
    let known = Known::read(&keys, &sent);
    let result = site.login.sign_in(proof, &issuer, (client, known.id(&email)), site.clock.now()).await;
    site.audit.sign_in(client, Some(&email), &result);
    let set = if result.is_ok() { known.signed_in(&email, &keys, &sent).unwrap_or_default() } else { Vec::new() };
    match signed_in(&site, &sent, &result, &next, set) {
        Ok(response) => response,
        Err(error) => refused(&site, error, &email, &next),
    }
}

/// Redirects to the provider through the issuer, with a PKCE challenge (RFC 7636).
pub(crate) async fn start(
    State(site): State<Arc<Site>>,
    Extension(client): Extension<Client>,
    Path(provider): Path<String>,
    Query(asked): Query<Asked>,
    sent: HeaderMap,
) -> Response {
    let (Some(issuer), true) = (site.issuer(|issuer| issuer.issuer.clone()), site.providers.contains(&provider)) else {
        return UserError::PageNotFound.response(&site, None, true);
    };
    let Some(url) = PublicUrl::of(site.public_url.as_ref(), &sent) else {
        return UserError::BadForm.response(&site, None, true);
    };
    let next = own_path(&asked.next).unwrap_or("/");
    // The issuer would send the browser a JSON error.
    if site.methods.is_off(&provider, &site.login, client).await {
        return refused(&site, LoginError::Refused(Refusal::MethodOff), "", next);
    }
    let Some(start) = Start::new(next, site.clock.now()) else {
        return UserError::LoginUnavailable.response(&site, None, true);
    };
    let Some(set) = start.write(&site.mounted.newest(), &sent) else {
        return UserError::LoginUnavailable.response(&site, None, true);
    };
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let place = format!(
        "{}/authorize?provider={provider}&redirect_to={}&code_challenge={}&code_challenge_method=s256",
        issuer.trim_end_matches('/'),
        encode(&format!("{}/auth/callback", url.origin())),
        start.challenge(),
    );
    redirect(&place, set)
}

#[derive(Debug, Deserialize)]
pub(crate) struct Back {
    #[serde(default)]
    code: String,
    /// The issuer's error code instead of a code.
    #[serde(default)]
    error_code: String,
}

/// Handles the redirect from the provider.
pub(crate) async fn callback(
    State(site): State<Arc<Site>>,
    Extension(client): Extension<Client>,
    Query(Back { code, error_code }): Query<Back>,
    sent: HeaderMap,
) -> Response {
    let start = Start::read(&site.mounted.newest(), &sent, site.clock.now());
    if let (Some(start), Some(refusal), true) = (&start, refusal_of(&error_code), code.is_empty()) {
        return with(refused(&site, LoginError::Refused(refusal), "", start.next()), PKCE.forget(&sent));
    }
    let (Some(issuer), Some(start), false) = (site.issuer(|issuer| issuer.name.clone()), start, code.is_empty()) else {
        let notice =
            Notice::bad("provider_failed", "Sign-in at the provider failed or took too long. Please try again.");
        return with(form(&site, StatusCode::BAD_REQUEST, Some(notice), "", "/", IsWrong::No), PKCE.forget(&sent));
    };
    let proof = Proof::Code { auth_code: &code, code_verifier: start.verifier() };
    let result = site.login.sign_in(proof, &issuer, (client, None), site.clock.now()).await;
    site.audit.sign_in(client, None, &result);
    let forget = PKCE.forget(&sent);
    match signed_in(&site, &sent, &result, start.next(), forget.clone()) {
        Ok(response) => response,
        Err(LoginError::InvalidCredentials | LoginError::SessionEnded) => {
            let notice = Notice::bad("sign_in_expired", "This sign-in has expired. Please try again.");
            with(form(&site, StatusCode::UNAUTHORIZED, Some(notice), "", "/", IsWrong::No), forget)
        }
        Err(error) => with(refused(&site, error, "", start.next()), forget),
    }
}

/// Ends the session at the issuer, and in this browser even if the issuer fails.
pub(crate) async fn out(
    State(site): State<Arc<Site>>,
    Extension(client): Extension<Client>,
    Person { session, .. }: Person,
    sent: HeaderMap,
) -> Response {
    site.signed_out.insert(session.key(), ());
    site.refreshes.forget(&session);
    let result = site.login.sign_out(&session, client).await;
    site.audit.sign_out(client, &session, &result);
    if let Err(error) = result {
        tracing::warn!(issuer = session.issuer, sub = session.sub, %error, "failed to revoke a session");
    } else {
        tracing::info!(issuer = session.issuer, sub = session.sub, "signed out");
    }
    redirect("/sign-in?why=out", SESSION.forget(&sent))
}

/// Redirects after a sign-in and sets the session cookie.
fn signed_in(
    site: &Site,
    sent: &HeaderMap,
    result: &Result<Session, LoginError>,
    next: &str,
    mut set: Vec<HeaderValue>,
) -> Result<Response, LoginError> {
    site.counts.sign_ins.get_or_create(&ResultLabels::of(result)).inc();
    let session = result.as_ref().map_err(|error| *error)?;
    // A cookie that is too long will still be too long at a retry.
    set.extend(site.keep(session, sent).ok_or(LoginError::Refused(Refusal::SessionTooLarge))?);
    tracing::info!(issuer = session.issuer, sub = session.sub, "signed in");
    Ok(redirect(own_path(next).unwrap_or("/"), set))
}

fn refused(site: &Site, error: LoginError, email: &str, next: &str) -> Response {
    let code = error.as_str();
    let (status, notice) = match error {
        LoginError::InvalidCredentials | LoginError::SessionEnded => {
            (StatusCode::UNAUTHORIZED, Notice::bad(code, "The email address or the password is incorrect."))
        }
        LoginError::RateLimited { retry_after } => {
            let seconds = retry_after.unwrap_or(USUAL_WAIT_SECONDS);
            (StatusCode::TOO_MANY_REQUESTS, Notice::wait(code, "Too many attempts.", seconds))
        }
        LoginError::Unavailable => {
            let text = "Sign-in is temporarily unavailable. Please try again in a minute.";
            (StatusCode::SERVICE_UNAVAILABLE, Notice::bad(code, text))
        }
        LoginError::Refused(refusal) => (StatusCode::FORBIDDEN, Notice::bad(code, refusal.text())),
    };
    let is_wrong = if status == StatusCode::UNAUTHORIZED { IsWrong::Yes } else { IsWrong::No };
    let response = form(site, status, Some(notice), email, next, is_wrong);
    let LoginError::RateLimited { retry_after } = error else { return response };
    when_to_retry(response, retry_after)
}

/// Returns the refusal for the issuer's error code in a redirect.
fn refusal_of(error_code: &str) -> Option<Refusal> {
    match error_code {
        "signup_disabled" | "provider_disabled" | "oauth_provider_not_supported" => Some(Refusal::MethodOff),
        "provider_email_needs_verification" => Some(Refusal::NotConfirmed),
        _ => None,
    }
}

/// Default when auth-service sends no `Retry-After`.
const USUAL_WAIT_SECONDS: u64 = 30;

/// Whether the input of the form was wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IsWrong {
    Yes,
    No,
}

fn form(
    site: &Site,
    status: StatusCode,
    notice: Option<Notice>,
    email: &str,
    next: &str,
    is_wrong: IsWrong,
) -> Response {
    let providers = site.providers.iter().map(|name| Provider::new(name)).collect();
    let sign_in = pages::SignIn {
        frame: Frame::new(site, None, "sign-in"),
        is_on: site.issuer(|_| ()).is_some(),
        notice,
        is_wrong: is_wrong == IsWrong::Yes,
        email,
        next: own_path(next).unwrap_or("/"),
        providers,
    };
    pages::page(status, &sign_in)
}

fn with(mut response: Response, set: Vec<HeaderValue>) -> Response {
    const SET_COOKIE: HeaderName = http::header::SET_COOKIE;
    for cookie in set {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}
