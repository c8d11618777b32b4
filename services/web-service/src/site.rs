//! Shared state of all pages, and middleware in front of them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Redirect, Response};
use gaia_api::Clock;
use gaia_api::mount::UserTokenIssuer;
use gaia_auth::{Connection, REQUEST_ID_HEADER};
use gaia_runtime::client_ip::client_ip;
use gaia_runtime::{Caller, CredentialsSnapshot, Recent, random};
use http::header::{ACCEPT, HeaderMap, SET_COOKIE};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use ipnet::IpNet;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::watch;

use crate::origin::{PublicUrl, may_act};
use crate::pages::headers;
use crate::pages::user_error::UserError;
use crate::sessions::refresh::{Refreshed, Refreshes};
use crate::sessions::session::{SESSION, Session, SessionKey};
use crate::sessions::session_keys::SessionKeys;
use crate::sign_in::audit::Audit;
use crate::sign_in::by_gateway;
use crate::sign_in::login::{Login, LoginError};
use crate::sign_in::methods::Methods;
use crate::upstream::Upstream;

/// Shared state of all pages.
pub(crate) struct Site {
    pub(crate) mounted: Arc<SessionKeys>,
    pub(crate) generations: watch::Receiver<Option<Arc<CredentialsSnapshot>>>,
    pub(crate) login: Login,
    pub(crate) refreshes: Refreshes,
    /// Sessions signed out here: copies of their cookie are refused.
    pub(crate) signed_out: Recent<SessionKey, ()>,
    pub(crate) methods: Methods,
    pub(crate) audit: Audit,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) public_url: Option<PublicUrl>,
    pub(crate) providers: Vec<String>,
    pub(crate) assets: Option<Upstream>,
    pub(crate) chat: Option<Upstream>,
    pub(crate) clients: Clients,
    pub(crate) counts: Counts,
    /// Caller with the API key, if there is one.
    pub(crate) by_key: Caller,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("assets", &self.assets).field("chat", &self.chat).finish_non_exhaustive()
    }
}

/// Settings for determining client addresses.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    /// Proxies whose `X-Forwarded-For` is honoured.
    pub(crate) trusted: Vec<IpNet>,
    /// Whether browsers connect directly.
    pub(crate) has_own_tls: bool,
}

impl Clients {
    /// Returns the client of a request.
    fn client(&self, request: &Request) -> Client {
        let connection = request.extensions().get::<Arc<Connection>>();
        let wire = connection.and_then(|connection| connection.address);
        Client::new(self.address(request), wire, random().map(u128::from_be_bytes))
    }

    /// Returns the address of a browser; `None` if it could be that of an unconfigured ingress controller, whose users
    /// would all be counted as one.
    fn address(&self, request: &Request) -> Option<IpAddr> {
        let connection = request.extensions().get::<Arc<Connection>>()?;
        let is_known = self.has_own_tls || !self.trusted.is_empty();
        connection.address.filter(|_| is_known).map(|at| client_ip(at, request.headers(), &self.trusted))
    }
}

/// The client of a request, stored as an extension.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    /// The address of the browser, if known.
    pub(crate) address: Option<IpAddr>,
    /// The peer address: the browser's, or that of an unconfigured ingress controller.
    wire: Option<IpAddr>,
    /// The request ID.
    request: Option<u128>,
}

impl Client {
    pub(crate) fn new(address: Option<IpAddr>, wire: Option<IpAddr>, request: Option<u128>) -> Self {
        Self { address, wire, request }
    }

    /// Returns the source for audit lines: the browser's address, otherwise the peer address.
    pub(crate) fn source(&self) -> Option<IpAddr> {
        self.address.or(self.wire)
    }

    /// Returns the request ID that appears in the logs of every service involved.
    pub(crate) fn request_id(&self) -> Option<String> {
        self.request.map(|id| format!("{id:032x}"))
    }
}

/// Metrics of the pages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    pub(crate) sign_ins: Family<ResultLabels, Counter>,
    pub(crate) refreshes: Family<ResultLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ResultLabels {
    result: &'static str,
}

impl ResultLabels {
    pub(crate) fn of<T>(result: &Result<T, LoginError>) -> Self {
        Self { result: result.as_ref().err().map_or("ok", |error| error.as_str()) }
    }
}

/// Authentication state of a request.
#[derive(Debug, Clone)]
pub(crate) enum Visitor {
    /// The user is signed in.
    SignedIn(Arc<Session>),
    /// The user is signed in, but the access token has expired and could not be refreshed at present.
    Late(Arc<Session>),
    /// There is no session.
    SignedOut,
    /// The session has just ended.
    Ended,
}

impl Visitor {
    /// Returns the session of a signed-in user.
    pub(crate) fn session(&self) -> Option<&Session> {
        match self {
            Self::SignedIn(session) | Self::Late(session) => Some(session),
            Self::SignedOut | Self::Ended => None,
        }
    }
}

/// The authentication state of a request, and the cookies to set in the response.
struct Arrival {
    visitor: Visitor,
    set: Vec<HeaderValue>,
}

impl Site {
    /// Applies `of` to the issuer used for sign-in; none if sign-in is disabled.
    pub(crate) fn issuer<T>(&self, of: impl FnOnce(&UserTokenIssuer) -> T) -> Option<T> {
        let generation = self.generations.borrow().clone()?;
        generation.policy().user_tokens.sign_in_issuer().map(of)
    }

    /// Returns the headers that store a session.
    pub(crate) fn keep(&self, session: &Session, sent: &HeaderMap) -> Option<Vec<HeaderValue>> {
        let set = session.write(&self.mounted.newest(), sent);
        if set.is_none() {
            tracing::error!(issuer = session.issuer, "a session exceeds the size limit of cookies");
        }
        set
    }

    async fn arrival(&self, sent: &HeaderMap, client: Client) -> Arrival {
        let nobody = Arrival { visitor: Visitor::SignedOut, set: Vec::new() };
        let session = Session::read(&self.mounted.newest(), sent);
        let is_current = |session: &Session| self.issuer(|issuer| issuer.name == session.issuer).unwrap_or_default();
        let Some(session) = session.filter(is_current) else { return nobody };
        if self.signed_out.contains(&session.key()) {
            return Arrival { set: SESSION.forget(sent), ..nobody };
        }
        self.refreshed(Arc::new(session), sent, client).await
    }

    /// Refreshes the session if needed. Only the response that must carry a new state sets a cookie.
    async fn refreshed(&self, mut session: Arc<Session>, sent: &HeaderMap, client: Client) -> Arrival {
        let mut set = Vec::new();
        // The result of a recent refresh may itself need a refresh by now.
        for _ in 0..MAX_STATES {
            if !session.is_due(self.clock.now()) {
                break;
            }
            let Refreshed { outcome, is_carrier } =
                self.refreshes.next(&session, Box::pin(self.refresh(&session, client))).await;
            match outcome {
                Ok(next) => {
                    if is_carrier {
                        set = self.keep(&next, sent).unwrap_or_default();
                    }
                    session = next;
                }
                Err(error) if ends(error, session.has_ended(self.clock.now())) => {
                    return Arrival { visitor: Visitor::Ended, set: SESSION.forget(sent) };
                }
                Err(_) if session.has_ended(self.clock.now()) => {
                    return Arrival { visitor: Visitor::Late(session), set };
                }
                Err(_) => break,
            }
        }
        Arrival { visitor: Visitor::SignedIn(session), set }
    }

    fn refresh(
        &self,
        old: &Arc<Session>,
        client: Client,
    ) -> impl Future<Output = Result<Session, LoginError>> + Send + 'static + use<> {
        let (login, clock, counts) = (self.login.clone(), Arc::clone(&self.clock), self.counts.refreshes.clone());
        let old = Arc::clone(old);
        async move {
            let result = login.refresh(&old, client, clock.now()).await;
            counts.get_or_create(&ResultLabels::of(&result)).inc();
            if let Err(error) = &result {
                tracing::info!(issuer = old.issuer, sub = old.sub, %error, "failed to refresh a session");
            }
            result
        }
    }
}

/// Middleware of all pages: refuses requests from other origins, authenticates the user, and adds security headers.
pub(crate) async fn meet(State(site): State<Arc<Site>>, mut request: Request, next: Next) -> Response {
    let public_url = PublicUrl::of(site.public_url.as_ref(), request.headers());
    if !may_act(request.method(), request.headers(), site.public_url.as_ref()) {
        tracing::info!(path = request.uri().path(), "refused a request from another origin");
        let wants_page = wants_page(request.headers());
        return headers::secure(UserError::OtherOrigin.response(&site, None, wants_page), public_url.as_ref());
    }
    let client = site.clients.client(&request);
    let Arrival { visitor, set } = site.arrival(request.headers(), client).await;
    request.extensions_mut().insert(client);
    request.extensions_mut().insert(visitor);
    let mut response = by_gateway::for_client(client, next.run(request)).await;
    if let Some(id) = client.request_id().and_then(|id| HeaderValue::try_from(id).ok()) {
        response.headers_mut().insert(REQUEST_ID_HEADER, id);
    }
    // A sign-in or sign-out sets the session cookie itself.
    if !sets_session(response.headers()) {
        for cookie in set {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
    }
    headers::secure(response, public_url.as_ref())
}

/// Middleware of static files.
pub(crate) async fn dress(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let public_url = PublicUrl::of(site.public_url.as_ref(), request.headers());
    headers::secure(next.run(request).await, public_url.as_ref())
}

/// Returns true if a failed refresh ends the session: it was ended, or its token has expired and cannot be refreshed.
fn ends(error: LoginError, has_ended: bool) -> bool {
    error == LoginError::SessionEnded || (error.is_final() && has_ended)
}

fn sets_session(headers: &HeaderMap) -> bool {
    let first = format!("{}=", SESSION.name);
    headers.get_all(SET_COOKIE).iter().any(|value| value.as_bytes().starts_with(first.as_bytes()))
}

/// Returns true if the response is shown as a page rather than read by a script.
pub(crate) fn wants_page(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|accept| accept.contains("text/html"))
}

/// A signed-in user, possibly with an expired access token. Other visitors are redirected to sign-in.
pub(crate) struct Person {
    pub(crate) session: Arc<Session>,
    pub(crate) is_late: bool,
}

impl FromRequestParts<Arc<Site>> for Person {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Response> {
        match parts.extensions.get::<Visitor>() {
            Some(Visitor::SignedIn(session)) => Ok(Self { session: Arc::clone(session), is_late: false }),
            Some(Visitor::Late(session)) => Ok(Self { session: Arc::clone(session), is_late: true }),
            Some(Visitor::Ended) => Err(to_sign_in(parts, site, HasEnded::Yes)),
            Some(Visitor::SignedOut) | None => Err(to_sign_in(parts, site, HasEnded::No)),
        }
    }
}

/// A signed-in user with a valid access token, for calls to other services.
pub(crate) struct User(pub(crate) Arc<Session>);

impl FromRequestParts<Arc<Site>> for User {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Response> {
        let Person { session, is_late } = Person::from_request_parts(parts, site).await?;
        if is_late {
            return Err(UserError::LoginUnavailable.response(site, Some(&session), wants_page(&parts.headers)));
        }
        Ok(Self(session))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum HasEnded {
    Yes,
    No,
}

fn to_sign_in(parts: &Parts, site: &Arc<Site>, has_ended: HasEnded) -> Response {
    if !wants_page(&parts.headers) {
        let user_error = if has_ended == HasEnded::Yes { UserError::SessionEnded } else { UserError::SignedOut };
        return user_error.response(site, None, false);
    }
    let mut place = "/sign-in".to_owned();
    // The page of a form is not the URL that the form is sent to.
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut separator = '?';
    if parts.method == http::Method::GET && path != "/" {
        place.push_str(&format!("?next={}", utf8_percent_encode(path, NON_ALPHANUMERIC)));
        separator = '&';
    }
    if has_ended == HasEnded::Yes {
        place.push_str(&format!("{separator}why=ended"));
    }
    Redirect::to(&place).into_response()
}

/// Redirects the browser and sets these cookies.
pub(crate) fn redirect(place: &str, set: Vec<HeaderValue>) -> Response {
    let mut response = Redirect::to(place).into_response();
    for cookie in set {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    debug_assert_eq!(response.status(), StatusCode::SEE_OTHER);
    response
}

const MAX_STATES: usize = 3;
