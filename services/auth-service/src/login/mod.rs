//! `POST /auth/login`, `/auth/refresh` and `/auth/logout`: sign-in of users at the project's login server (GoTrue, as
//! operated by Supabase Auth), for services that users reach. `GET /auth/methods` lists the available methods.
//!
//! Only services may call these routes. Sessions of GoTrue are verified before they are returned, and a temporary
//! failure of GoTrue never ends a session.

mod audit;
mod failure;
mod gotrue;
mod limits;
mod meaning;
mod request;
mod routes;
mod token;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use gaia_auth::{Authenticator, Client, Connection, Credential, Identity, Principal};
use gaia_runtime::{CredentialsSnapshot, SingleFlight};
use http::HeaderMap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::files::IssuerFiles;
use audit::{Entry, LoginAudit};
use failure::LoginFailure;
use gotrue::{KeyWatch, Methods, Project, Session};
use limits::{Asker, LoginLimits};
use request::{Logout, Refresh, SignIn};

pub(crate) use routes::routes;

/// Settings of user sign-in.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The directory in which `issuer-<name>.key` is mounted.
    pub(crate) dir: PathBuf,
    /// Whether the user's address is forwarded to the login server.
    pub(crate) forwards_address: bool,
}

/// State of the handlers.
#[derive(Clone)]
pub(crate) struct Login {
    generations: watch::Receiver<Option<Arc<CredentialsSnapshot>>>,
    authenticator: Arc<Authenticator>,
    settings: Settings,
    key_watch: KeyWatch,
    limits: Arc<LoginLimits>,
    refreshes: SingleFlight<[u8; 32], Result<Arc<Session>, LoginFailure>>,
    methods: Arc<Mutex<Option<KnownMethods>>>,
    audit: Arc<LoginAudit>,
    requests: Family<LoginLabels, Counter>,
}

/// The sign-in methods of a project, and the time they were fetched.
#[derive(Clone)]
struct KnownMethods {
    issuer: String,
    methods: Methods,
    since: Instant,
}

/// Labels of `gaia_login_requests_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct LoginLabels {
    action: &'static str,
    result: &'static str,
}

/// The calling service, and the client that it calls for.
struct Caller {
    principal: Principal,
    connection: Arc<Connection>,
    asker: Asker,
}

/// The calling service and the client that a token is examined for.
type Bearer<'a> = (&'a Connection, &'a Asker);

impl Login {
    pub(crate) fn new(
        generations: watch::Receiver<Option<Arc<CredentialsSnapshot>>>,
        authenticator: Arc<Authenticator>,
        settings: Settings,
        files: Arc<IssuerFiles>,
        requests: Family<LoginLabels, Counter>,
    ) -> Self {
        Self {
            generations,
            authenticator,
            settings,
            key_watch: KeyWatch::default(),
            limits: Arc::default(),
            refreshes: SingleFlight::new(MAX_REFRESHES),
            methods: Arc::default(),
            audit: Arc::new(LoginAudit::new(files)),
            requests,
        }
    }

    /// Returns the project at which users sign in.
    async fn project(&self, asker: &Asker) -> Result<Project, LoginFailure> {
        let generation = self.generations.borrow().clone().ok_or(LoginFailure::Unavailable)?;
        let issuer = generation.policy().user_tokens.sign_in_issuer();
        let project = Project::of(issuer.ok_or(LoginFailure::Off)?, &self.settings.dir, &self.key_watch).await;
        Ok(project.forwarded_for(asker.client.address.filter(|_| self.settings.forwards_address)))
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
            Identity::Service(peer) if connection.peer.is_some() && is_declared(peer) => Client::of(headers),
            _ => Client::default(),
        };
        let asker = Asker { service: principal.actor.to_string(), instance: connection.address, client };
        Ok(Caller { principal, connection, asker })
    }

    async fn sign_in(&self, caller: &Caller, wanted: &SignIn) -> Result<Session, LoginFailure> {
        match wanted.account() {
            Some(account) => self.limits.check_password(&caller.asker, account)?,
            None => self.limits.check_code(&caller.asker)?,
        }
        let project = self.project(&caller.asker).await?;
        let session = project.sign_in(wanted).await?;
        let session = self.checked(&project, caller.bearer(), session).await?;
        if let Some(account) = wanted.account() {
            self.limits.signed_in(&caller.asker, account);
        }
        self.limits.issued(session.token_hash());
        Ok(session)
    }

    /// Concurrent requests for the same session result in one request to GoTrue.
    async fn refresh(&self, caller: &Caller, wanted: Refresh) -> Result<Arc<Session>, LoginFailure> {
        let hash = wanted.hash();
        self.limits.check_refresh(&caller.asker, hash)?;
        let project = self.project(&caller.asker).await?;
        let (login, connection, asker) = (self.clone(), Arc::clone(&caller.connection), caller.asker.clone());
        let asking = async move {
            let session = project.refresh(&wanted).await?;
            let session = login.checked(&project, (&connection, &asker), session).await?;
            login.limits.issued(session.token_hash());
            Ok(Arc::new(session))
        };
        // The login server may have consumed the token, so a disconnect of the caller does not end the refresh.
        self.refreshes.run_to_end(hash, asking).await.unwrap_or(Err(LoginFailure::Unavailable))
    }

    async fn log_out(&self, caller: &Caller, wanted: &Logout) -> Result<(), LoginFailure> {
        let project = self.project(&caller.asker).await?;
        // A token of another issuer is not sent to the project.
        match self.user_of(&project, caller.bearer(), &wanted.access_token).await {
            Ok(sub) => self.limits.check_sign_out(&sub)?,
            Err(failure) => {
                self.limits.check_refused_sign_out(&caller.asker)?;
                return Err(failure);
            }
        }
        project.log_out(wanted).await
    }

    /// Returns the sign-in methods of the project, at most a minute old.
    async fn methods(&self, caller: &Caller) -> Result<Methods, LoginFailure> {
        let project = self.project(&caller.asker).await?;
        // One request to GoTrue at a time; waiting requests use its result.
        let mut known = self.methods.lock().await;
        if let Some(known) = known.as_ref().filter(|known| known.issuer == project.name() && known.is_fresh()) {
            return Ok(known.methods.clone());
        }
        let methods = project.methods().await?;
        let fetched =
            KnownMethods { issuer: project.name().to_owned(), methods: methods.clone(), since: Instant::now() };
        *known = Some(fetched);
        Ok(methods)
    }

    /// Returns a session only if the platform accepts its access token as one of this project.
    async fn checked(&self, project: &Project, bearer: Bearer<'_>, session: Session) -> Result<Session, LoginFailure> {
        if session.access_token.len() > token::MAX_BYTES {
            tracing::warn!(
                issuer = project.name(),
                bytes = session.access_token.len(),
                "access token of the login server is larger than 8 KiB"
            );
            return Err(LoginFailure::SessionTooLarge);
        }
        match self.user_of(project, bearer, &session.access_token).await {
            Ok(sub) if session.user["id"] == sub.as_str() => Ok(session),
            Ok(sub) => {
                tracing::error!(issuer = project.name(), sub, "the login server returned a token of another user");
                Err(LoginFailure::Unavailable)
            }
            // The token came directly from the project, so its claims explain the rejection.
            Err(LoginFailure::InvalidCredentials) => {
                Err(token::refused_user(&session.access_token, project.required_claims())
                    .unwrap_or(LoginFailure::Unavailable))
            }
            Err(_) => Err(LoginFailure::Unavailable),
        }
    }

    /// Returns the user of an access token, if it is a valid one of the project. A query to the project is charged to the
    /// client.
    async fn user_of(
        &self,
        project: &Project,
        (connection, asker): Bearer<'_>,
        token: &str,
    ) -> Result<String, LoginFailure> {
        let client = Client { address: asker.client.address.or(connection.address), ..asker.client.clone() };
        let examined = self.authenticator.introspect_token(token, connection.peer.as_ref(), client).await;
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
                    "access token of the login server rejected"
                );
                Err(match refusal.reason.status() {
                    http::StatusCode::SERVICE_UNAVAILABLE => LoginFailure::Unavailable,
                    _ => LoginFailure::InvalidCredentials,
                })
            }
        }
    }

    /// Counts a request and writes its audit line.
    fn done<T>(&self, entry: &Entry<'_>, result: &Result<T, LoginFailure>) {
        let failure = result.as_ref().err().copied();
        let outcome = failure.map_or("ok", LoginFailure::code);
        self.requests.get_or_create(&LoginLabels { action: entry.action, result: outcome }).inc();
        self.audit.write(entry, failure);
    }
}

impl KnownMethods {
    fn is_fresh(&self) -> bool {
        self.since.elapsed() < METHODS_KEPT
    }
}

impl Caller {
    fn bearer(&self) -> Bearer<'_> {
        (&self.connection, &self.asker)
    }

    fn audited(&self) -> (&Principal, &Connection, &Asker) {
        (&self.principal, &self.connection, &self.asker)
    }
}

const MAX_REFRESHES: usize = 1024;
/// Time until a change of the enabled providers is noticed.
const METHODS_KEPT: Duration = Duration::from_secs(60);
