mod sources;

use std::convert::Infallible;
use std::sync::Mutex;

use gaia_api::ManualClock;
use gaia_api::mount::{
    ApiKeyRecord, ApiKeyRules, AuthMode, Brownout, Denylist, Deprecation, Policy, SCHEMA_VERSION, ServiceIdentity,
    TlsMode, TokenRules, UserTokenIssuer, UserTokenVerification, UserTokens,
};
use http::StatusCode;
use jiff::SignedDuration;
use tower::ServiceExt as _;

use super::*;
use crate::decision::authenticator::{Decision, Observer};
use crate::denylist::Denied;
use crate::fixtures::{
    USER, USER_SIGNER, caller, now, now_or_never, own, peer, user_claims, user_issuer, user_key_set, user_token,
};
use crate::issuers::{Ask, Question};
use crate::policy::api_key::tests::{record, table};
use crate::policy::rules::Rules;
use crate::principal::{Listener, PeerIdentity, Principal, Transport};
use crate::tokens::cache::{Token, TokenHash};
use crate::{Reason, Refusal};

type Seen = (&'static str, Option<Reason>, Option<String>);

#[derive(Default)]
struct Counted(Mutex<Vec<Seen>>);

impl Observer for Counted {
    fn decided(&self, decision: &Decision<'_>) {
        let mut counted = self.0.lock().unwrap();
        counted.push((decision.route, decision.refused, decision.key_id.map(str::to_owned)));
    }
}

fn authenticator(observer: Arc<Counted>) -> Arc<Authenticator> {
    Arc::new(Authenticator::new(Arc::new(ManualClock::new(now())), observer))
}

fn rules() -> Arc<Rules> {
    let policy = Policy {
        schema_version: SCHEMA_VERSION,
        service: ServiceIdentity { namespace: "shop".into(), name: "asset-service".into(), spiffe_id: own() },
        tls_mode: TlsMode::Permissive,
        mode: AuthMode::Dual,
        tokens: TokenRules { issuer: "i".into(), audience: "a".into(), max_ttl_seconds: 60 },
        callers: vec![],
        api_keys: ApiKeyRules::default(),
        user_tokens: UserTokens::default(),
        targets: None,
        token_issuer: None,
    };
    let mut reader = record("reader", "reader-key");
    reader.scopes = vec!["assets:read".into()];
    Arc::new(Rules::new(policy, None, Denied::default(), table(vec![reader]).unwrap()))
}

/// Status and body of a route whose handler responds with the subject.
fn call(authenticator: &Arc<Authenticator>, access: Access, request: Request<()>) -> (StatusCode, String) {
    let handler = tower::service_fn(|request: Request<()>| {
        let subject = request.extensions().get::<Principal>().map_or("nobody".into(), |p| p.subject.to_string());
        std::future::ready(Ok::<_, Infallible>(Response::new(subject)))
    });
    let service = AuthLayer::new(Arc::clone(authenticator), "/assets", access).layer(handler);
    let response = now_or_never(service.oneshot(request)).unwrap();
    (response.status(), response.into_body())
}

fn with_key(key: &str) -> Request<()> {
    Request::builder().header("x-api-key", key).body(()).unwrap()
}

#[test]
fn the_inner_service_is_reached_with_a_principal_or_not_at_all() {
    let counted = Arc::new(Counted::default());
    let authenticator = authenticator(Arc::clone(&counted));
    authenticator.replace(rules());
    let read = Access::Scopes(&["assets:read"]);
    assert_eq!(call(&authenticator, read, with_key("reader-key")), (StatusCode::OK, "key:reader".into()));
    assert_eq!(
        call(&authenticator, Access::Scopes(&["assets:write"]), with_key("reader-key")).0,
        StatusCode::FORBIDDEN
    );
    let (status, body) = call(&authenticator, read, with_key("other"));
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(body.contains("valid credentials") && !body.contains("other"), "{body}");
    assert_eq!(
        *counted.0.lock().unwrap(),
        [
            ("/assets", None, Some("reader".to_owned())),
            ("/assets", Some(Reason::ScopeMissing), Some("reader".to_owned())),
            ("/assets", Some(Reason::ApiKeyUnknown), None),
        ]
    );
}

#[test]
fn a_public_route_looks_at_no_credential() {
    let authenticator = authenticator(Arc::default());
    assert_eq!(call(&authenticator, Access::Public, with_key("bad")), (StatusCode::OK, "nobody".into()));
}

#[test]
fn without_rules_everything_but_public_is_a_503() {
    let authenticator = authenticator(Arc::default());
    for access in [Access::Peer, Access::Scopes(&[])] {
        assert_eq!(call(&authenticator, access, with_key("reader-key")).0, StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[test]
fn a_peer_route_needs_a_certificate_and_nothing_more() {
    let authenticator = authenticator(Arc::default());
    authenticator.replace(rules());
    assert_eq!(call(&authenticator, Access::Peer, with_key("reader-key")).0, StatusCode::UNAUTHORIZED);
    let mut request = Request::new(());
    let connection =
        Connection { transport: Transport::Mtls, peer: Some(peer(caller())), address: None, listener: Listener::Mesh };
    request.extensions_mut().insert(Arc::new(connection));
    assert_eq!(call(&authenticator, Access::Peer, request), (StatusCode::OK, caller().to_string()));
}

/// The response of a route whose handler responds with the subject.
fn answer(authenticator: &Arc<Authenticator>, access: Access, request: Request<()>) -> Response<String> {
    let handler = tower::service_fn(|request: Request<()>| {
        let subject = request.extensions().get::<Principal>().map_or("nobody".into(), |p| p.subject.to_string());
        std::future::ready(Ok::<_, Infallible>(Response::new(subject)))
    });
    now_or_never(AuthLayer::new(Arc::clone(authenticator), "/assets", access).layer(handler).oneshot(request)).unwrap()
}

#[test]
fn a_user_of_a_key_is_told_in_every_answer_that_keys_end() {
    let authenticator = authenticator(Arc::default());
    let mut policy = rules().policy().clone();
    policy.api_keys.deprecation = Some(Deprecation { since: now(), sunset: Some(now()), guide: Some("/docs".into()) });
    let with = |policy: &Policy| {
        let keys = table(vec![record("reader", "reader-key")]).unwrap();
        authenticator.replace(Arc::new(Rules::new(policy.clone(), None, Denied::default(), keys)));
    };
    let read = Access::Scopes(&["assets:read"]);
    with(&policy);
    let accepted = answer(&authenticator, read, with_key("reader-key"));
    assert_eq!(accepted.headers()["deprecation"], "@1800000000");
    assert_eq!(accepted.headers()["sunset"], "Fri, 15 Jan 2027 08:00:00 GMT");
    assert_eq!(accepted.headers()["link"], "</docs>; rel=\"deprecation\"");
    let unknown = answer(&authenticator, read, with_key("other"));
    assert!(!unknown.headers().contains_key("deprecation"), "an unauthenticated client gets no details");

    let hour = SignedDuration::from_hours(1);
    policy.api_keys.brownouts = vec![Brownout { start: now() - hour, end: now() + hour }];
    with(&policy);
    let refused = answer(&authenticator, read, with_key("reader-key"));
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(refused.headers()["deprecation"], "@1800000000");
    assert_eq!(refused.headers()["retry-after"], "Fri, 15 Jan 2027 09:00:00 GMT");
    assert!(refused.headers().contains_key("www-authenticate"));
    assert!(refused.body().contains("until 2027-01-15T09:00:00Z"), "{}", refused.body());

    policy.mode = AuthMode::APIKeyOnly;
    with(&policy);
    let untold = answer(&authenticator, read, with_key("reader-key"));
    assert_eq!((untold.status(), untold.headers().get("deprecation")), (StatusCode::OK, None));
}

#[test]
fn an_answer_keeps_its_own_links_beside_the_notice() {
    let authenticator = authenticator(Arc::default());
    let mut policy = rules().policy().clone();
    policy.api_keys.deprecation = Some(Deprecation { since: now(), sunset: None, guide: Some("/docs".into()) });
    let keys = table(vec![record("reader", "reader-key")]).unwrap();
    authenticator.replace(Arc::new(Rules::new(policy, None, Denied::default(), keys)));
    let handler = tower::service_fn(|_: Request<()>| {
        let response = Response::builder().header("link", "</assets?page=2>; rel=\"next\"").body(String::new());
        std::future::ready(Ok::<_, Infallible>(response.unwrap()))
    });
    let service = AuthLayer::new(authenticator, "/assets", Access::Scopes(&[])).layer(handler);
    let response = now_or_never(service.oneshot(with_key("reader-key"))).unwrap();
    let links: Vec<_> = response.headers().get_all("link").iter().collect();
    assert_eq!(links, ["</assets?page=2>; rel=\"next\"", "</docs>; rel=\"deprecation\""]);
}

#[test]
fn a_public_route_is_told_of_a_peer_only_while_its_leaf_holds() {
    let clock = Arc::new(ManualClock::new(now()));
    let authenticator = Arc::new(Authenticator::new(Arc::clone(&clock) as Arc<_>, Arc::new(Counted::default())));
    authenticator.replace(rules());
    let has_peer = || {
        let handler = tower::service_fn(|request: Request<()>| {
            let connection = connection_of(&request);
            assert_eq!(connection.transport, Transport::Mtls);
            std::future::ready(Ok::<_, Infallible>(Response::new(connection.peer.is_some().to_string())))
        });
        let mut request = Request::new(());
        request.extensions_mut().insert(Arc::new(crate::testing::connection(&caller(), now())));
        let service = AuthLayer::new(Arc::clone(&authenticator), "/health", Access::Public).layer(handler);
        now_or_never(service.oneshot(request)).unwrap().into_body() == "true"
    };
    assert!(has_peer());
    let leaves = vec!["AB".repeat(32)];
    let denied = Denied::from(&Denylist { leaves, ..Denylist::empty() });
    authenticator.replace(Arc::new(Rules::new(rules().policy().clone(), None, denied, table(vec![]).unwrap())));
    assert!(!has_peer(), "it was revoked");
    authenticator.replace(rules());
    clock.set(now() + SignedDuration::from_hours(2));
    assert!(!has_peer(), "it has ended");
}

#[test]
fn a_request_without_a_route_is_told_of_with_its_key() {
    let counted = Arc::new(Counted::default());
    let authenticator = authenticator(Arc::clone(&counted));
    authenticator.replace(rules());
    for key in ["reader-key", "other"] {
        authenticator.note_unmatched(&with_key(key));
    }
    let expected = [("unmatched", None, Some("reader".to_owned())), ("unmatched", Some(Reason::ApiKeyUnknown), None)];
    assert_eq!(*counted.0.lock().unwrap(), expected);
    assert_eq!(authenticator.ledger().entries().len(), 1);
}

#[test]
fn a_user_nobody_signed_in_as_gets_in_only_where_the_route_says_so() {
    let authenticator = authenticator(Arc::default());
    let mut policy = rules().policy().clone();
    policy.user_tokens.issuers = vec![user_issuer()];
    authenticator.replace(Arc::new(Rules::new(policy, None, Denied::default(), table(vec![]).unwrap())));
    let status = |access, is_anonymous: bool| {
        let mut claims = user_claims();
        claims["is_anonymous"] = is_anonymous.into();
        let mut request = Request::new(());
        let value = format!("Bearer {}", user_token(&claims)).parse().unwrap();
        request.headers_mut().insert("authorization", value);
        call(&authenticator, access, request).0
    };
    assert_eq!(status(Access::Scopes(&[]), false), StatusCode::SERVICE_UNAVAILABLE, "the issuer's keys are not there");
    authenticator.user_keys().set("supabase", &Arc::new(user_key_set()));
    assert_eq!(status(Access::Scopes(&[]), false), StatusCode::OK);
    assert_eq!(status(Access::Scopes(&[]), true), StatusCode::UNAUTHORIZED);
    assert_eq!(status(Access::AnonymousToo(&[]), true), StatusCode::OK);
    authenticator.user_keys().remove("supabase");
    assert_eq!(status(Access::Scopes(&[]), false), StatusCode::SERVICE_UNAVAILABLE, "cached tokens expire too");
}

#[test]
fn a_handler_gets_the_peer_and_the_principal_it_asks_for_or_an_answer_that_says_why_not() {
    use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};

    let (mut parts, ()) = Request::new(()).into_parts();
    let no_peer =
        now_or_never(<PeerIdentity as FromRequestParts<()>>::from_request_parts(&mut parts, &())).unwrap_err();
    assert_eq!(no_peer.status(), StatusCode::UNAUTHORIZED);
    let none = now_or_never(<PeerIdentity as OptionalFromRequestParts<()>>::from_request_parts(&mut parts, &()));
    assert_eq!(none, Ok(None));
    let no_principal = now_or_never(Principal::from_request_parts(&mut parts, &())).unwrap_err();
    assert_eq!(no_principal.status(), StatusCode::INTERNAL_SERVER_ERROR, "route and handler disagree");

    let connection = crate::testing::connection(&caller(), now());
    parts.extensions.insert(Arc::new(connection));
    let peer = now_or_never(<PeerIdentity as FromRequestParts<()>>::from_request_parts(&mut parts, &()));
    assert_eq!(peer.unwrap().spiffe_id, caller());
}

/// An issuer that gives a fixed answer and counts queries.
struct Oracle(Result<(), Reason>, Arc<Mutex<u32>>);

impl Ask for Oracle {
    fn ask(&self, _: Question) -> Pin<Box<dyn Future<Output = Result<(), Reason>> + Send>> {
        *self.1.lock().unwrap() += 1;
        Box::pin(std::future::ready(self.0))
    }
}

/// An authenticator with an issuer that gives this answer, and the number of queries.
fn asking(mode: AuthMode, answer: Result<(), Reason>) -> (Arc<Authenticator>, Arc<Mutex<u32>>) {
    let authenticator = authenticator(Arc::default());
    let count = Arc::new(Mutex::new(0));
    authenticator.ask_through(Arc::new(Oracle(answer, Arc::clone(&count))));
    let mut policy = rules().policy().clone();
    policy.mode = mode;
    policy.user_tokens.issuers = vec![UserTokenIssuer { verification: UserTokenVerification::Remote, ..user_issuer() }];
    authenticator.replace(Arc::new(Rules::new(policy, None, Denied::default(), table(vec![]).unwrap())));
    (authenticator, count)
}

fn with_token(claims: &serde_json::Value) -> Request<()> {
    Request::builder().header("authorization", format!("Bearer {}", user_token(claims))).body(()).unwrap()
}

/// The status of two requests with the same token, and the number of queries to the issuer.
fn asked(mode: AuthMode, answer: Result<(), Reason>, claims: &serde_json::Value) -> ([StatusCode; 2], u32) {
    let (authenticator, count) = asking(mode, answer);
    let request = with_token(claims);
    let statuses = [(); 2].map(|()| call(&authenticator, Access::Scopes(&[]), request.clone()).0);
    let count = *count.lock().unwrap();
    (statuses, count)
}

#[test]
fn what_an_issuer_says_of_a_token_is_remembered_if_it_is_good() {
    let (ok, unauthorized, unavailable) = (StatusCode::OK, StatusCode::UNAUTHORIZED, StatusCode::SERVICE_UNAVAILABLE);
    let claims = user_claims();
    assert_eq!(asked(AuthMode::Dual, Ok(()), &claims), ([ok; 2], 1));
    assert_eq!(asked(AuthMode::Dual, Err(Reason::IssuerRefused), &claims), ([unauthorized; 2], 2));
    assert_eq!(asked(AuthMode::Dual, Err(Reason::IssuerUnavailable), &claims), ([unavailable; 2], 2));
}

#[test]
fn an_issuer_is_asked_where_the_mode_of_a_key_lets_the_token_decide() {
    let authenticator = authenticator(Arc::default());
    authenticator.ask_through(Arc::new(Oracle(Ok(()), Arc::default())));
    let mut policy = rules().policy().clone();
    policy.mode = AuthMode::APIKeyOnly;
    policy.user_tokens.issuers = vec![UserTokenIssuer { verification: UserTokenVerification::Remote, ..user_issuer() }];
    let own = ApiKeyRecord { mode: Some(AuthMode::Dual), shared: true, ..record("own", "own-key") };
    authenticator.replace(Arc::new(Rules::new(policy, None, Denied::default(), table(vec![own]).unwrap())));
    let mut request = with_key("own-key");
    request.headers_mut().insert("authorization", format!("Bearer {}", user_token(&user_claims())).parse().unwrap());
    let (status, subject) = call(&authenticator, Access::Scopes(&[]), request);
    assert_eq!((status, subject), (StatusCode::OK, format!("user:supabase:{USER}")));
}

#[test]
fn nobody_is_asked_about_a_token_that_is_bad_anyway_or_decides_nothing() {
    let mut claims = user_claims();
    assert_eq!(asked(AuthMode::APIKeyOnly, Ok(()), &claims), ([StatusCode::UNAUTHORIZED; 2], 0));
    claims["exp"] = (now().as_second() - 61).into();
    claims["iat"] = (now().as_second() - 600).into();
    assert_eq!(asked(AuthMode::Dual, Ok(()), &claims), ([StatusCode::UNAUTHORIZED; 2], 0));
    claims["role"] = "service_role".into();
    assert_eq!(asked(AuthMode::Dual, Ok(()), &claims), ([StatusCode::UNAUTHORIZED; 2], 0));
}

#[test]
fn what_an_issuer_confirms_is_taken_also_where_the_clocks_differ() {
    let mut claims = user_claims();
    claims["exp"] = (now().as_second() - 5).into();
    claims["iat"] = (now().as_second() - 600).into();
    assert_eq!(
        asked(AuthMode::Dual, Ok(()), &claims),
        ([StatusCode::OK; 2], 2),
        "its end is past: it is not remembered"
    );
}

/// Queries the issuer about the token of one request, runs `between`, and decides another request.
fn decide_after(
    said: Result<(), Reason>,
    [asked, decided]: [&Request<()>; 2],
    between: impl FnOnce(&Authenticator),
) -> Result<Passed, Refusal> {
    let (authenticator, _) = asking(AuthMode::Dual, said);
    let (access, connection) = (Access::Scopes(&[]), Connection::default());
    let answer = now_or_never(authenticator.ahead(access, asked.headers(), &connection).unwrap());
    between(&authenticator);
    let checked = authenticator.check_after("/assets", access, decided.headers(), &connection, answer.as_ref());
    checked.map_err(|refused| refused.refusal)
}

#[test]
fn what_an_issuer_confirms_is_taken_also_if_nothing_is_remembered() {
    let request = with_token(&user_claims());
    let flood = |authenticator: &Authenticator| {
        let rules = authenticator.rules().unwrap();
        let issuer = &rules.policy().user_tokens.issuers[0];
        let other = rules.user_rules(issuer).read_unverified(&user_token(&user_claims())).unwrap();
        let other = Token::User(Arc::new(other));
        for number in 0..10_000 {
            let hash = TokenHash::of(&number.to_string());
            authenticator.known().cache.put(hash, other.clone(), None, [0; 32], now());
        }
    };
    assert!(decide_after(Ok(()), [&request; 2], flood).is_ok());
}

#[test]
fn what_an_issuer_confirms_is_not_taken_under_another_policy_nor_for_another_token() {
    let request = with_token(&user_claims());
    let moved = |authenticator: &Authenticator| {
        let mut policy = authenticator.rules().unwrap().policy().clone();
        policy.user_tokens.issuers[0].ca_bundle = Some("other roots".into());
        authenticator.replace(Arc::new(Rules::new(policy, None, Denied::default(), table(vec![]).unwrap())));
    };
    let refused = decide_after(Ok(()), [&request; 2], moved).unwrap_err();
    assert_eq!(refused.reason, Reason::IssuerUnavailable, "the current issuer was not queried");
    let mut claims = user_claims();
    claims["session_id"] = USER.into();
    let refused = decide_after(Ok(()), [&request, &with_token(&claims)], |_| {}).unwrap_err();
    assert_eq!(refused.reason, Reason::IssuerUnavailable);
}

#[test]
fn a_refused_token_of_an_issuer_that_is_asked_is_logged_with_its_claims_as_claims() {
    let refused = |said, claims: &serde_json::Value| {
        let Refusal { reason, trace, .. } = decide_after(said, [&with_token(claims); 2], |_| {}).unwrap_err();
        assert_eq!((trace.jti.as_deref(), trace.sub.as_deref()), (None, None), "nothing has verified them");
        (
            reason,
            [trace.kid.clone(), trace.claimed_jti().map(Into::into), trace.claimed_sub().map(Into::into)]
                .map(Option::unwrap_or_default),
        )
    };
    let mut claims = user_claims();
    claims["jti"] = "u1".into();
    let known = [USER_SIGNER.kid(), "u1", USER].map(Arc::from);
    for reason in [Reason::IssuerRefused, Reason::IssuerUnavailable] {
        assert_eq!(refused(Err(reason), &claims), (reason, known.clone()), "what the issuer says");
    }
    claims["iat"] = (now().as_second() - 600).into();
    claims["exp"] = (now().as_second() - 61).into();
    assert_eq!(refused(Ok(()), &claims), (Reason::Expired, known.clone()), "no query needed");
    claims["role"] = "service_role".into();
    assert_eq!(refused(Ok(()), &claims), (Reason::ProjectKey, known));
}
