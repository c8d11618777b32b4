//! Probes of endpoints with a fake resolver and real sockets on the loopback address.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use gaia_api::crd::AllowedEndpoint;
use gaia_api::mount::SCHEMA_VERSION;
use gaia_plan::instances::endpoint::Endpoint;
use rstest::rstest;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::super::dial::tests::{Server, ca, now, report};
use super::super::identity;
use super::*;

/// Answers with these addresses, or with an error if there are none, and counts.
#[derive(Default)]
struct FakeResolver {
    addresses: Vec<IpAddr>,
    asked: AtomicUsize,
}

impl FakeResolver {
    fn of(addresses: &[&str]) -> Arc<Self> {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Arc::new(Self { addresses, asked: AtomicUsize::new(0) })
    }
}

impl Resolver for FakeResolver {
    fn resolve(&self, _: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let addresses = self.addresses.clone();
        async move { if addresses.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(addresses) } }.boxed()
    }
}

fn rules(cidrs: &[&str]) -> DialRules {
    let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let grant = AllowedEndpoint { namespaces: list(&["shop"]), hosts: list(&["web.example.com"]), cidrs: list(cidrs) };
    DialRules { grants: vec![grant], name: Some("web.example.com".to_owned()), api_server: BTreeSet::new() }
}

/// The endpoint before its name is resolved.
fn named(subject: &Subject) -> Subject {
    let port = subject.address.port;
    Subject { address: Endpoint::parse(&format!("web.example.com:{port}")).unwrap(), ..subject.clone() }
}

fn dialer(resolver: &Arc<FakeResolver>) -> EndpointDialer {
    let resolver: Arc<dyn Resolver> = Arc::<FakeResolver>::clone(resolver);
    EndpointDialer { resolver, failed_after: FAILED_AFTER }
}

async fn look(resolver: &Arc<FakeResolver>, subject: &Subject, rules: &DialRules) -> (Outcome, Duration) {
    let config = identity::operator_client(&ca("first"), "gaia.local", now()).unwrap();
    let client = Client { config: Arc::new(config), is_operator: true };
    let began = Instant::now();
    let look = dialer(resolver).look(subject, rules, &client, &gaia_api::ManualClock::new(now())).await;
    (look, began.elapsed())
}

fn looked(outcome: Outcome) -> Look {
    let Outcome::Looked { look, .. } = outcome else { panic!("it was not dialled") };
    *look
}

#[tokio::test]
async fn name_is_resolved_to_its_addresses_and_each_is_dialled_by_itself() {
    let server = Server::new();
    let subject = server.start(200, report(SCHEMA_VERSION, 1)).await;
    let resolver = FakeResolver::of(&["127.0.0.1", "127.0.0.2"]);
    let allowed = rules(&["127.0.0.0/8"]);
    let (found, took) = look(&resolver, &named(&subject), &allowed).await;
    let Outcome::Resolved(addresses) = found else { panic!("it was dialled") };
    assert_eq!(addresses.len(), 2);
    assert!(took < FAILED_AFTER);

    // Each probe resolves once and dials its own address only.
    let (found, took) = look(&resolver, &subject, &allowed).await;
    let Outcome::Looked { look: seen, answer, is_vacant } = found else { panic!("it was not dialled") };
    assert!(seen.seen.unwrap().report.is_ok() && answer == addresses && !is_vacant);
    assert!(took < FAILED_AFTER);
    assert_eq!(resolver.asked.load(Ordering::Relaxed), 2);
    let mut second = subject.clone();
    second.address.host = gaia_plan::instances::endpoint::Host::Address([127, 0, 0, 2].into());
    let (found, _) = look(&resolver, &second, &allowed).await;
    let Outcome::Looked { look: seen, is_vacant, .. } = found else { panic!("it was not dialled") };
    assert_eq!(seen.seen.unwrap_err(), NO_ANSWER, "one that answers proves nothing about another");
    assert!(is_vacant, "nothing listens there");
}

/// A name that resolves to the operator's own network (DNS rebinding), alone or with an allowed address.
#[rstest]
#[case::loopback(&["127.0.0.1"], &[])]
#[case::mapped(&["::ffff:127.0.0.1"], &[])]
#[case::outside_the_networks(&["127.0.0.1"], &["10.0.0.0/8"])]
#[case::one_of_several(&["127.0.0.1", "10.1.2.3"], &["127.0.0.0/8"])]
#[tokio::test]
async fn nothing_is_dialled_if_one_address_is_not_allowed(#[case] addresses: &[&str], #[case] cidrs: &[&str]) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::new();
    let mut subject = named(&server.start(200, report(SCHEMA_VERSION, 1)).await);
    subject.address.port = listener.local_addr().unwrap().port();
    let (found, took) = look(&FakeResolver::of(addresses), &subject, &rules(cidrs)).await;
    assert!(matches!(found, Outcome::Refused));
    assert!(took >= FAILED_AFTER, "as long as any failure");
    let dialled = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(dialled.is_err(), "it was dialled");
}

/// A port scanner learns nothing: neither by the text, nor by the time, nor by the metric.
#[tokio::test]
async fn all_failures_of_endpoints_look_the_same() {
    let good = Server::new();
    let template = good.start(200, report(SCHEMA_VERSION, 1)).await;
    let at = |port: u16| {
        let mut subject = Subject { has_ledger: true, ..template.clone() };
        subject.address.port = port;
        subject
    };
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain_port = plain.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = plain.accept().await {
            let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let mut stranger = Server::new();
    stranger.ca = ca("stranger");
    let stranger = stranger.start(200, report(SCHEMA_VERSION, 1)).await.address.port;
    let mut other = Server::new();
    other.id = "spiffe://gaia.local/ns/shop/sa/other";
    let other = other.start(200, report(SCHEMA_VERSION, 1)).await.address.port;
    let resolves = FakeResolver::of(&["127.0.0.1"]);
    let cases = [
        ("closed", FakeResolver::of(&["127.0.0.1"]), at(closed)),
        ("silent", resolves.clone(), at(silent.local_addr().unwrap().port())),
        ("not TLS", resolves.clone(), at(plain_port)),
        ("another CA", resolves.clone(), at(stranger)),
        ("another identity", resolves.clone(), at(other)),
        ("unresolved", FakeResolver::of(&[]), Subject { has_ledger: true, ..named(&template) }),
    ];
    for (case, resolver, subject) in cases {
        let (found, took) = look(&resolver, &subject, &rules(&["127.0.0.0/8"])).await;
        let Look { seen, ledger, not_after, failure, .. } = looked(found);
        assert_eq!(seen.unwrap_err(), NO_ANSWER, "{case}");
        assert_eq!((ledger, not_after), (Some(Err(NO_ANSWER.to_owned())), None), "{case}");
        assert_eq!(failure, Some(Failure::Endpoint), "{case}");
        assert!(took >= FAILED_AFTER && took < FAILED_AFTER * 2, "{case} took {took:?}");
    }
    // A verified instance without a report: the leaf counts, and the rest is the same.
    let mute = good.start(404, vec![]).await.address.port;
    let (found, took) = look(&resolves, &at(mute), &rules(&["127.0.0.0/8"])).await;
    let found = looked(found);
    assert_eq!(found.seen.unwrap().report.unwrap_err(), NO_ANSWER);
    assert_eq!(found.failure, Some(Failure::Endpoint));
    assert!(took >= FAILED_AFTER);
}

/// Longer than a handshake on a busy machine takes.
const FAILED_AFTER: Duration = Duration::from_millis(1500);
