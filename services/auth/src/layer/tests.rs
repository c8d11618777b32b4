use std::convert::Infallible;
use std::sync::Mutex;

use gaia_api::ManualClock;
use gaia_api::mount::{Policy, SCHEMA_VERSION, ServiceIdentity, TlsMode, TokenRules};
use http::StatusCode;
use tower::ServiceExt as _;

use super::*;
use crate::api_key::tests::{record, table};
use crate::denylist::Denied;
use crate::testing::{caller, now, own, peer};

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
    };
    let mut reader = record("reader", "reader-key");
    reader.scopes = vec!["assets:read".into()];
    Arc::new(Rules::new(policy, None, Denied::default(), table(vec![reader]).unwrap()))
}

/// The status and body a route answers with; its handler answers with the subject it was given.
fn call(authenticator: &Arc<Authenticator>, access: Access, request: Request<()>) -> (StatusCode, String) {
    let handler = tower::service_fn(|request: Request<()>| {
        let subject = request.extensions().get::<Principal>().map_or("nobody".into(), |p| p.subject.to_string());
        std::future::ready(Ok::<_, Infallible>(Response::new(subject)))
    });
    let service = AuthLayer::new(Arc::clone(authenticator), "/assets", access).layer(handler);
    let response = now_or_never(service.oneshot(request)).unwrap();
    (response.status(), response.into_body())
}

fn now_or_never<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing here waits"),
    }
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
    let connection = Connection { transport: Transport::Mtls, peer: Some(peer(caller())) };
    request.extensions_mut().insert(Arc::new(connection));
    assert_eq!(call(&authenticator, Access::Peer, request), (StatusCode::OK, caller().to_string()));
}
