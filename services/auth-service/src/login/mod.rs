//! `POST /auth/login`, `/auth/refresh` and `/auth/logout`: signing users in at the project's own login server (GoTrue, as
//! Supabase Auth runs it), for the services that users reach.
//!
//! Nobody but a service may ask. What comes back from GoTrue is checked before it is passed on; what GoTrue cannot tell at
//! the moment never ends a session.

mod client_address;
mod failure;
mod flights;
mod gotrue;
mod limits;
mod request;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use gaia_auth::{Access, Authenticator, Connection, Credential, Identity, Principal};
use gaia_runtime::telemetry::AUDIT_TARGET;
use gaia_runtime::{Generation, Routes};
use http::{HeaderMap, StatusCode, header};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::watch;

use failure::LoginFailure;
use flights::Flights;
use gotrue::{KeyWatch, Project, Session};
use limits::{Asker, LoginLimits};
use request::{Logout, Refresh, SignIn};

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct Login {
    generations: watch::Receiver<Option<Arc<Generation>>>,
    authenticator: Arc<Authenticator>,
    /// Where `issuer-<name>.key` is mounted.
    dir: PathBuf,
    key_watch: KeyWatch,
    limits: Arc<LoginLimits>,
    flights: Flights,
    requests: Family<LoginLabels, Counter>,
}

/// Labels of `gaia_login_requests_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct LoginLabels {
    action: &'static str,
    result: &'static str,
}

/// Who asks.
struct Caller {
    principal: Principal,
    connection: Arc<Connection>,
    asker: Asker,
}

impl Login {
    pub(crate) fn new(
        generations: watch::Receiver<Option<Arc<Generation>>>,
        authenticator: Arc<Authenticator>,
        dir: PathBuf,
        requests: Family<LoginLabels, Counter>,
    ) -> Self {
        Self {
            generations,
            authenticator,
            dir,
            key_watch: KeyWatch::default(),
            limits: Arc::default(),
            flights: Flights::default(),
            requests,
        }
    }

    /// The project that users sign in at.
    async fn project(&self) -> Result<Project, LoginFailure> {
        let generation = self.generations.borrow().clone().ok_or(LoginFailure::Unavailable)?;
        let issuer = generation.policy().user_tokens.sign_in_issuer();
        Ok(Project::of(issuer.ok_or(LoginFailure::Off)?, &self.dir, &self.key_watch).await)
    }

    fn caller(
        &self,
        principal: Principal,
        connection: Arc<Connection>,
        headers: &HeaderMap,
    ) -> Result<Caller, LoginFailure> {
        if matches!(principal.actor, Identity::User { .. }) {
            return Err(LoginFailure::NotAService);
        }
        let generation = self.generations.borrow().clone();
        let is_declared = |peer| generation.is_some_and(|generation| generation.declares(peer));
        let client = match &principal.actor {
            Identity::Service(peer) if connection.peer.is_some() && is_declared(peer) => client_address::of(headers),
            _ => None,
        };
        let asker = match client {
            Some(client) => Asker::Client(client),
            None => Asker::Service(principal.actor.to_string(), connection.address),
        };
        Ok(Caller { principal, connection, asker })
    }

    async fn sign_in(&self, caller: &Caller, wanted: &SignIn) -> Result<Session, LoginFailure> {
        self.limits.check_sign_in(&caller.asker, wanted.account())?;
        let project = self.project().await?;
        let session = project.sign_in(wanted).await?;
        self.checked(&project, &caller.connection, session).await
    }

    /// However many ask for the same at once, GoTrue is asked once.
    async fn refresh(&self, caller: &Caller, wanted: Refresh) -> Result<Arc<Session>, LoginFailure> {
        self.limits.check_other(&caller.asker)?;
        let project = self.project().await?;
        let (login, connection) = (self.clone(), Arc::clone(&caller.connection));
        let flight = wanted.flight();
        let asking = async move {
            let session = project.refresh(&wanted).await?;
            login.checked(&project, &connection, session).await.map(Arc::new)
        };
        self.flights.join(flight, asking).await
    }

    async fn log_out(&self, caller: &Caller, wanted: &Logout) -> Result<(), LoginFailure> {
        self.limits.check_other(&caller.asker)?;
        let project = self.project().await?;
        // A token of anybody else is not shown to the project.
        self.user_of(&project, &caller.connection, &wanted.access_token).await?;
        project.log_out(wanted).await
    }

    /// A session is passed on only if its access token is one that the platform takes for this project's.
    async fn checked(
        &self,
        project: &Project,
        connection: &Connection,
        session: Session,
    ) -> Result<Session, LoginFailure> {
        match self.user_of(project, connection, &session.access_token).await {
            Ok(sub) if session.user["id"] == sub.as_str() => Ok(session),
            Ok(sub) => {
                tracing::error!(issuer = project.name(), sub, "the login server gave a token of another user");
                Err(LoginFailure::Unavailable)
            }
            Err(_) => Err(LoginFailure::Unavailable),
        }
    }

    /// Whose access token it is, if it is a good one of the project.
    async fn user_of(&self, project: &Project, connection: &Connection, token: &str) -> Result<String, LoginFailure> {
        let examined = self.authenticator.examine_token(token, connection.peer.as_ref()).await;
        match examined {
            Ok(examined) if examined.kind == Credential::UserToken => match examined.subject {
                Identity::User { issuer, sub } if issuer == project.name() => Ok(sub),
                _ => Err(LoginFailure::InvalidCredentials),
            },
            Ok(_) => Err(LoginFailure::InvalidCredentials),
            Err(refusal) => {
                tracing::warn!(
                    issuer = project.name(),
                    reason = refusal.reason.as_str(),
                    kid = refusal.trace.kid.as_deref(),
                    "an access token of the login is not taken"
                );
                Err(match refusal.reason.status() {
                    StatusCode::SERVICE_UNAVAILABLE => LoginFailure::Unavailable,
                    _ => LoginFailure::InvalidCredentials,
                })
            }
        }
    }

    /// Counts a request and puts it on record, and gives what there is to answer otherwise.
    fn done<T>(
        &self,
        action: &'static str,
        caller: Option<&Caller>,
        sub: Option<&str>,
        result: &Result<T, LoginFailure>,
    ) {
        let outcome = result.as_ref().err().map_or("ok", |failure| failure.code());
        self.requests.get_or_create(&LoginLabels { action, result: outcome }).inc();
        if matches!(result, Err(LoginFailure::RateLimited(_))) {
            return;
        }
        tracing::info!(
            target: AUDIT_TARGET,
            event = "login",
            action,
            result = outcome,
            who = caller.map(|caller| caller.principal.actor.to_string()),
            serial = caller.and_then(|caller| caller.connection.peer.as_ref()).map(|peer| peer.serial.as_ref()),
            sub,
        );
    }
}

/// The routes. A caller needs no scope, but must be somebody.
pub(crate) fn routes(routes: Routes, login: &Login) -> Routes {
    let limit = || DefaultBodyLimit::max(MAX_REQUEST_BYTES);
    routes
        .route("/auth/login", Access::Scopes(&[]), post(sign_in).layer(limit()).with_state(login.clone()))
        .route("/auth/refresh", Access::Scopes(&[]), post(refresh).layer(limit()).with_state(login.clone()))
        .route("/auth/logout", Access::Scopes(&[]), post(log_out).layer(limit()).with_state(login.clone()))
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
    let action = wanted.as_ref().map_or("unknown", SignIn::action);
    let result = match (&caller, &wanted) {
        (Ok(caller), Ok(wanted)) => login.sign_in(caller, wanted).await,
        (Err(failure), _) | (_, Err(failure)) => Err(*failure),
    };
    let sub = result.as_ref().ok().and_then(|session| session.user["id"].as_str());
    login.done(action, caller.as_ref().ok(), sub, &result);
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
    let result = match (&caller, Refresh::parse(body)) {
        (Ok(caller), Ok(wanted)) => login.refresh(caller, wanted).await,
        (Err(failure), _) => Err(*failure),
        (_, Err(failure)) => Err(failure),
    };
    let sub = result.as_ref().ok().and_then(|session| session.user["id"].as_str());
    login.done("refresh", caller.as_ref().ok(), sub, &result);
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
    let result = match (&caller, Logout::parse(body)) {
        (Ok(caller), Ok(wanted)) => login.log_out(caller, &wanted).await,
        (Err(failure), _) => Err(*failure),
        (_, Err(failure)) => Err(failure),
    };
    login.done("logout", caller.as_ref().ok(), None, &result);
    match result {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(failure) => failure.response(),
    }
}

fn session_or(result: Result<&Session, LoginFailure>) -> Response {
    match result {
        Ok(session) => ([(header::CACHE_CONTROL, "no-store")], Json(session)).into_response(),
        Err(failure) => failure.response(),
    }
}

/// An access token of 8 KiB, and what stands around it.
const MAX_REQUEST_BYTES: usize = 12 * 1024;
