//! Authentication and authorization of one request by the current rules.

use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use gaia_api::Clock;
use gaia_api::mount::AuthMode;
use http::{HeaderMap, HeaderName, Request};
use jiff::{SignedDuration, Timestamp};

use crate::decision::access::Access;
use crate::decision::layer::connection_of;
use crate::issuers::{Answer, Ask, Confirmed, Source};
use crate::policy::mode;
use crate::policy::rules::{Known, Rules, Verdict};
use crate::principal::{Connection, Credential, Identity, Listener, PeerIdentity, Principal, Transport};
use crate::request::{client::Client, extract_credentials::ExtractedCredentials};
use crate::tokens::cache::{Token, TokenCache, TokenHash};
use crate::tokens::external_keys::UserKeys;
use crate::usage::{Caller, Ledger};
use crate::{Reason, Refusal, Trace};

/// The header with the request ID that appears in the logs of every service involved. gateway sets it.
pub const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Route label of requests that match no route.
const UNMATCHED: &str = "unmatched";
const MAX_REQUEST_ID_BYTES: usize = 64;

/// Receives every decision, for metrics.
pub trait Observer: Send + Sync + 'static {
    /// Called once per decision.
    fn decided(&self, decision: &Decision<'_>);

    /// Called when an API key was presented for introspection or exchange rather than for the request itself.
    fn key_used(&self, _key_id: &str) {}
}

/// One decision. The fields used as labels are bounded: route, transport, mode, credential, reasons and record IDs.
#[derive(Debug, Clone, Copy)]
pub struct Decision<'a> {
    /// The route's path pattern.
    pub route: &'static str,
    /// The transport of the connection.
    pub transport: Transport,
    /// The mode applied; none before a policy was loaded.
    pub mode: Option<AuthMode>,
    /// The credential that decided.
    pub credential: Credential,
    /// The authenticated principal; none if the request was refused.
    pub principal: Option<&'a Principal>,
    /// The reason for the refusal; none if the request was accepted.
    pub refused: Option<Reason>,
    /// Loggable details of the credential.
    pub trace: &'a Trace,
    /// The mTLS peer.
    pub peer: Option<&'a PeerIdentity>,
    /// The ID of the matching API key record.
    pub key_id: Option<&'a str>,
    /// Reason why the next stricter mode would have refused the accepted request.
    pub would_deny: Option<Reason>,
    /// The token that the next mode would have accepted, if it did not decide in this mode.
    pub would_pass: Option<Credential>,
    /// The request ID, if the request has one.
    pub request_id: Option<&'a str>,
    /// The peer address of the connection.
    pub address: Option<IpAddr>,
    /// Time of the decision.
    pub time: Timestamp,
    /// Duration of the decision.
    pub took: SignedDuration,
}

/// An accepted request.
#[derive(Debug, Clone, Default)]
pub struct Passed {
    /// The principal; none on a public route.
    pub principal: Option<Principal>,
    /// Headers to add to the response.
    pub notice: Option<HeaderMap>,
}

/// A refused request.
#[derive(Debug, Clone)]
pub struct Refused {
    /// The refusal.
    pub refusal: Refusal,
    /// Headers to add to the response.
    pub notice: Option<HeaderMap>,
}

/// Authenticates requests by the current [`Rules`], and reports to the observer, the API-key usage report and the log.
pub struct Authenticator {
    rules: ArcSwapOption<Rules>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
    cache: TokenCache,
    user_keys: UserKeys,
    ledger: Ledger,
    outside: OnceLock<Arc<dyn Ask>>,
    ends_exactly: AtomicBool,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator").field("is_loaded", &self.rules.load().is_some()).finish_non_exhaustive()
    }
}

impl Authenticator {
    /// Creates one without rules: all routes except public ones respond with 503.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, observer: Arc<dyn Observer>) -> Self {
        Self {
            rules: ArcSwapOption::empty(),
            clock,
            observer,
            cache: TokenCache::default(),
            user_keys: UserKeys::default(),
            ledger: Ledger::default(),
            outside: OnceLock::new(),
            ends_exactly: AtomicBool::new(false),
        }
    }

    /// Rejects credentials from their expiry on, without clock skew. Used by services that exchange credentials,
    /// because the token issuer rejects expired ones.
    pub fn end_exactly(&self) {
        self.ends_exactly.store(true, Ordering::Relaxed);
    }

    /// Returns true if a peer may carry another identity: the policy declares it so, and its certificate is neither
    /// expired nor revoked.
    #[must_use]
    pub fn may_carry(&self, peer: &PeerIdentity) -> bool {
        let is_declared = |rules: Arc<Rules>| rules.callers().may_carry(&peer.spiffe_id);
        self.check_peer(peer, self.clock.now()).is_ok() && self.rules.load_full().is_some_and(is_declared)
    }

    /// Sets the client for external issuers. Only the first call has an effect; without one, external issuers are not
    /// queried.
    pub fn ask_through(&self, outside: Arc<dyn Ask>) {
        // A second call is ignored: a process has one such client.
        let _ = self.outside.set(outside);
    }

    /// Replaces the rules for subsequent requests.
    pub fn replace(&self, rules: Arc<Rules>) {
        self.rules.store(Some(rules));
    }

    /// Returns the API-key usage of this process by caller and day.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Returns the API keys, as subjects, that belong to this user by their records.
    #[must_use]
    pub fn keys_of(&self, user: &Identity) -> Vec<Identity> {
        self.rules().map(|rules| rules.api_keys().keys_of(user)).unwrap_or_default()
    }

    /// Returns the keys of external issuers, which the fetching task updates.
    #[must_use]
    pub fn user_keys(&self) -> &UserKeys {
        &self.user_keys
    }

    /// Returns true if a request comes from a valid peer or carries a valid credential. It grants no access and is not
    /// counted.
    #[must_use]
    pub fn recognises(&self, headers: &HeaderMap, connection: &Connection) -> bool {
        let Some(rules) = self.rules.load_full() else { return false };
        let now = self.clock.now();
        rules.authenticate_peer(connection, now).is_ok()
            || rules.authenticate_with(headers, connection, now, self.known()).result.is_ok()
    }

    /// Checks that a peer certificate is neither expired nor revoked. It grants no access and is not counted.
    ///
    /// # Errors
    /// [`Reason::PolicyNotLoaded`] before the first rules, otherwise as [`crate::Denied::check_peer`].
    pub fn check_peer(&self, peer: &PeerIdentity, now: Timestamp) -> Result<(), Reason> {
        self.rules.load_full().ok_or(Reason::PolicyNotLoaded)?.denied().check_peer(peer, now)
    }

    /// Authenticates and authorizes one request.
    ///
    /// # Errors
    /// [`Refused`] with the response to send.
    pub fn check(
        &self,
        route: &'static str,
        access: Access,
        headers: &HeaderMap,
        connection: &Connection,
    ) -> Result<Passed, Box<Refused>> {
        self.check_after(route, access, headers, connection, None)
    }

    /// Records a request that matches no route like any other, because an API key sent there is in use.
    pub fn note_unmatched<B>(&self, request: &Request<B>) {
        // The result is ignored: the response is a 404 in any case.
        drop(self.check(UNMATCHED, Access::Scopes(&[]), request.headers(), &connection_of(request)));
    }

    /// Like [`Self::check`], with the answer of an external issuer.
    pub(crate) fn check_after(
        &self,
        route: &'static str,
        access: Access,
        headers: &HeaderMap,
        connection: &Connection,
        answer: Option<&Answer>,
    ) -> Result<Passed, Box<Refused>> {
        if access == Access::Public {
            return Ok(Passed::default());
        }
        let now = self.clock.now();
        let rules = self.rules.load_full();
        let verdict = match &rules {
            None => None,
            Some(rules) if access == Access::Peer => {
                let result = rules.authenticate_peer(connection, now);
                Some(Verdict::of(rules.policy().mode, Credential::Peer, result))
            }
            Some(rules) => {
                let known = Known { answer, ..self.known() };
                let verdict = rules.authenticate_with(headers, connection, now, known);
                let end = self.ends_exactly.load(Ordering::Relaxed).then_some(now);
                Some(allowed(on_listener(verdict, connection), access, end))
            }
        };
        let notice = rules.zip(verdict.as_ref()).and_then(|(rules, verdict)| rules.notice(verdict).cloned());
        let request = Asked { route, headers, connection, now };
        match verdict {
            None => {
                let refusal = Refusal::from(Reason::PolicyNotLoaded);
                self.tell(&request, None, &Err(refusal.clone()));
                Err(Box::new(Refused { refusal, notice }))
            }
            Some(verdict) => {
                self.tell(&request, Some(&verdict), &verdict.result);
                match verdict.result {
                    Ok(principal) => Ok(Passed { principal: Some(principal), notice }),
                    Err(refusal) => Err(Box::new(Refused { refusal, notice })),
                }
            }
        }
    }

    /// Returns the query to an external issuer that the decision needs; almost always none. In the mode that only
    /// accepts API keys no issuer is queried: a token that does not decide must not delay the request.
    pub(crate) fn ahead(
        self: &Arc<Self>,
        access: Access,
        headers: &HeaderMap,
        connection: &Connection,
    ) -> Option<impl Future<Output = Option<Answer>> + Send + use<>> {
        let rules = self.rules.load_full()?;
        let policy = rules.policy();
        if matches!(access, Access::Public | Access::Peer) || policy.user_tokens.is_empty() {
            return None;
        }
        let ExtractedCredentials { token, api_key, .. } = ExtractedCredentials::find(headers).ok()?;
        let token = token?;
        let is_decided_by_key = || {
            let record = api_key.and_then(|key| rules.api_keys().find_record(key));
            mode::effective(policy.mode, record) == AuthMode::APIKeyOnly
        };
        if policy.mode == AuthMode::APIKeyOnly && is_decided_by_key() {
            return None;
        }
        let peer = connection.peer.as_ref();
        let client = peer.filter(|peer| self.may_carry(peer)).map_or_else(Client::default, |_| Client::of(headers));
        self.asking(&rules, token, (peer, Source::new(peer, client, connection.address)))
    }

    /// Queries the issuer of a token if needed. The result has no answer if the query only refreshed its keys.
    pub(crate) fn asking(
        self: &Arc<Self>,
        rules: &Arc<Rules>,
        text: &str,
        origin: (Option<&PeerIdentity>, Source),
    ) -> Option<impl Future<Output = Option<Answer>> + Send + use<>> {
        let outside = self.outside.get()?;
        let asked = rules.question(text, origin, self.clock.now(), self.known())?;
        let (outside, this, rules) = (Arc::clone(outside), Arc::clone(self), Arc::clone(rules));
        let text = text.to_owned();
        Some(async move {
            let (question, token) = match asked {
                Ok(asked) => asked,
                Err(refusal) => return Some(Answer::Refused(refusal)),
            };
            let answered = outside.ask(question).await;
            let token = token?;
            if let Err(reason) = answered {
                return Some(Answer::Refused(Refusal { trace: token.trace, ..reason.into() }));
            }
            let token = Arc::new(token.confirmed());
            let (hash, context) = (TokenHash::of(&text), rules.context());
            this.cache.put(hash, Token::User(Arc::clone(&token)), None, context, this.clock.now());
            Some(Answer::Confirmed(Confirmed { token, hash, context }))
        })
    }

    pub(crate) fn rules(&self) -> Option<Arc<Rules>> {
        self.rules.load_full()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Records the use of a key that did not authenticate the request itself.
    pub(crate) fn note_key(&self, key_id: &str, caller: Caller<'_>, now: Timestamp) {
        self.ledger.note(key_id, caller, now);
        self.observer.key_used(key_id);
    }

    pub(crate) fn known(&self) -> Known<'_> {
        Known { cache: &self.cache, user_keys: &self.user_keys, answer: None }
    }

    fn tell(&self, asked: &Asked<'_>, verdict: Option<&Verdict>, result: &Result<Principal, Refusal>) {
        let Asked { route, headers, connection, now } = *asked;
        let key_id = verdict.and_then(|verdict| verdict.key_id.as_deref());
        if let Some(key_id) = key_id {
            self.ledger.note(key_id, Caller::of(connection, headers, route), now);
        }
        if let Ok(principal) = result {
            self.ledger.note_accepted(connection, principal, Caller::of(connection, headers, route), now);
        }
        let nothing = Trace::default();
        let trace = match (result, verdict) {
            (Err(refusal), _) => &refusal.trace,
            (Ok(_), Some(verdict)) => &verdict.trace,
            (Ok(_), None) => &nothing,
        };
        let decision = Decision {
            route,
            transport: connection.transport,
            mode: verdict.map(|verdict| verdict.mode),
            credential: verdict.map_or(Credential::None, |verdict| verdict.credential),
            principal: result.as_ref().ok(),
            refused: result.as_ref().err().map(|refusal| refusal.reason),
            trace,
            peer: connection.peer.as_ref(),
            key_id,
            would_deny: verdict.and_then(Verdict::would_deny),
            would_pass: verdict.and_then(Verdict::would_pass),
            request_id: request_id(headers),
            address: connection.address,
            time: now,
            took: self.clock.now().duration_since(now).max(SignedDuration::ZERO),
        };
        self.observer.decided(&decision);
        log(&decision);
    }
}

/// Returns the request ID from [`REQUEST_ID_HEADER`], if it is short and plain enough for logs.
#[must_use]
pub fn request_id(headers: &HeaderMap) -> Option<&str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let text = headers.get(REQUEST_ID_HEADER)?.to_str().ok()?;
    ((1..=MAX_REQUEST_ID_BYTES).contains(&text.len()) && text.bytes().all(is_plain)).then_some(text)
}

/// The request that a decision is about.
#[derive(Clone, Copy)]
struct Asked<'a> {
    route: &'static str,
    headers: &'a HeaderMap,
    connection: &'a Connection,
    now: Timestamp,
}

fn log(decision: &Decision<'_>) {
    let Decision { route, trace, .. } = decision;
    if let Some(reason) = decision.refused {
        // At debug level because any client can cause refusals without limit; the audit log has a sampled line.
        tracing::debug!(
            route,
            reason = reason.as_str(),
            credential = decision.credential.as_str(),
            transport = decision.transport.as_str(),
            peer = decision.peer.map(|peer| peer.spiffe_id.as_str()),
            kid = trace.kid.as_deref(),
            jti = trace.jti.as_deref(),
            sub = trace.sub.as_deref(),
            claimed_sub = trace.claimed_sub(),
            key_id = trace.key_id.as_deref(),
            would_pass = decision.would_pass.map(Credential::as_str),
            "request refused"
        );
    }
}

/// A platform token refused on an ingress listener for lack of a client certificate gets a reason of its own: clients
/// cannot present one there.
fn on_listener(mut verdict: Verdict, connection: &Connection) -> Verdict {
    if connection.listener == Listener::Ingress
        && let Err(refusal) = &mut verdict.result
        && refusal.reason == Reason::PeerMissing
    {
        refusal.reason = Reason::MeshOnly;
    }
    verdict
}

/// Applies the route's requirement under the current and the next mode. Credentials that expire by `end` are rejected.
fn allowed(mut verdict: Verdict, access: Access, end: Option<Timestamp>) -> Verdict {
    let trace = &verdict.trace;
    let check = |principal: Principal| {
        let reason = if end.is_some_and(|now| principal.expires.is_some_and(|expires| expires <= now)) {
            Reason::Expired
        } else if principal.is_anonymous && !matches!(access, Access::AnonymousToo(_)) {
            Reason::AnonymousUser
        } else if access.scopes().iter().any(|scope| !principal.scopes.allow(scope)) {
            Reason::ScopeMissing
        } else {
            return Ok(principal);
        };
        Err(Refusal { trace: trace.clone(), ..reason.into() })
    };
    verdict.result = verdict.result.and_then(check);
    verdict.next = verdict.next.map(|(credential, result)| (credential, result.and_then(check)));
    verdict
}
