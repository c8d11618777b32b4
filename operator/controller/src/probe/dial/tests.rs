//! Probes of real TLS servers on the loopback address.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use gaia_api::ledger::LedgerReport;
use gaia_api::mount::{AuthMode, SCHEMA_VERSION, ServiceIdentity};
use gaia_api::{ManualClock, SpiffeId};
use gaia_pki::{Ca, CaRequest, KeySpec, LeafRequest, PrivateKey, Serial, Validity, issue_leaf};
use gaia_plan::instances::endpoint::{Endpoint as Address, Host};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::server::conn::auto;
use jiff::SignedDuration;
use rstest::rstest;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, UnixTime};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::super::identity;
use super::*;
use crate::cache::Subject;

const WEB: &str = "spiffe://gaia.local/ns/shop/sa/web";

pub(in crate::probe) fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

pub(in crate::probe) fn ca(name: &str) -> Ca {
    let day = SignedDuration::from_hours(24);
    let request = CaRequest {
        common_name: name,
        trust_domain: "gaia.local",
        serial: Serial::from_random([9; 16]),
        validity: Validity { not_before: now() - day, not_after: now() + day },
    };
    Ca::self_signed(&request, PrivateKey::generate(KeySpec::Ecdsa256).unwrap()).unwrap()
}

/// Configuration of a server; its response is passed to [`Server::start`].
pub(in crate::probe) struct Server {
    pub(in crate::probe) ca: Ca,
    pub(in crate::probe) id: &'static str,
    ended: bool,
    /// The CA whose clients it accepts; none: all clients.
    clients: Option<Certificate>,
    alpn: &'static [u8],
}

/// The server's clock is set to the time of the test.
#[derive(Debug)]
struct Then;

impl TimeProvider for Then {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now().as_second().unsigned_abs())))
    }
}

impl Server {
    pub(in crate::probe) fn new() -> Self {
        Self { ca: ca("first"), id: WEB, ended: false, clients: None, alpn: b"http/1.1" }
    }

    fn config(&self) -> ServerConfig {
        let hour = SignedDuration::from_hours(1);
        let not_after = if self.ended { now() - hour / 2 } else { now() + hour };
        let private = PrivateKey::generate(KeySpec::Ecdsa256).unwrap();
        let request = LeafRequest {
            spiffe_id: self.id,
            dns_names: &[],
            ip_addresses: &[],
            usages: &[Usage::ServerAuth],
            serial: Serial::from_random([7; 16]),
            validity: Validity { not_before: now() - hour, not_after },
        };
        let leaf = issue_leaf(&self.ca, &request, &private).unwrap();
        let chain = CertificateDer::pem_slice_iter(leaf.chain_pem.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(private.to_pem().as_bytes()).unwrap();
        let provider = Arc::new(default_provider());
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&TLS13]).unwrap();
        let builder = match &self.clients {
            None => builder.with_no_client_auth(),
            Some(root) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from(root.der().to_vec())).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.time_provider = Arc::new(Then);
        config.alpn_protocols = vec![self.alpn.to_vec()];
        config
    }

    /// Serves this response to every client, and returns the subject for a probe of it.
    pub(in crate::probe) async fn start(&self, status: u16, body: Vec<u8>) -> Subject {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(self.config()));
        let body = Bytes::from(body);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, body) = (acceptor.clone(), body.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else { return };
                    let answer = service_fn(move |request: Request<Incoming>| {
                        let (status, body) = match request.uri().path() {
                            IDENTITY_PATH => (status, body.clone()),
                            LEDGER_PATH => (200, Bytes::from(ledger())),
                            _ => (500, Bytes::new()),
                        };
                        let response = Response::builder().status(status).body(Full::new(body)).unwrap();
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        subject(address, self.ca.root())
    }
}

fn subject(address: SocketAddr, root: &Certificate) -> Subject {
    Subject {
        trust_domain: "gaia".to_owned(),
        spiffe_trust_domain: "gaia.local".to_owned(),
        address: Address { host: Host::Address(address.ip()), port: address.port() },
        rules: None,
        server_name: "web.shop.svc".to_owned(),
        expected: SpiffeId::parse(WEB).unwrap(),
        roots: vec![ca("another").root().to_pem(), root.to_pem()],
        ca: root.fingerprint(),
        has_ledger: false,
    }
}

pub(in crate::probe) fn report(schema_version: u32, kids: usize) -> Vec<u8> {
    let report = IdentityReport {
        enforces: vec![],
        schema_version,
        instance: "5e1f".to_owned(),
        started_at: now(),
        service: ServiceIdentity {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            spiffe_id: SpiffeId::parse(WEB).unwrap(),
        },
        leaf: gaia_api::identity::LeafReport {
            serial: "07".to_owned(),
            fingerprint: "f0".to_owned(),
            not_after: now(),
        },
        bundle_hash: "b0".to_owned(),
        jwks_kids: (0..kids).map(|kid| format!("kid-{kid}")).collect(),
        signing_kid: None,
        denylist_hash: None,
        policy_hash: "p0".to_owned(),
        mode: AuthMode::Dual,
        refused: BTreeMap::new(),
        connections: BTreeMap::new(),
    };
    serde_json::to_vec(&report).unwrap()
}

fn ledger() -> Vec<u8> {
    let (instance, started_at) = ("5e1f".to_owned(), now());
    let report =
        LedgerReport { schema_version: SCHEMA_VERSION, instance, started_at, entries: vec![], plain: Some(vec![]) };
    serde_json::to_vec(&report).unwrap()
}

/// A look as the operator whose certificate this CA signed.
async fn look_as_operator_of(ca: &Ca, subject: &Subject) -> Look {
    let config = identity::operator_client(ca, "gaia.local", now()).unwrap();
    look(subject, socket(subject), &Client { config: Arc::new(config), is_operator: true }, &ManualClock::new(now()))
        .await
}

fn socket(subject: &Subject) -> SocketAddr {
    let Host::Address(ip) = subject.address.host else { panic!("an address") };
    SocketAddr::new(ip, subject.address.port)
}

#[rstest]
#[case::http1(b"http/1.1")]
#[case::http2(b"h2")]
#[tokio::test]
async fn a_verified_instance_shows_its_leaf_and_its_report(#[case] alpn: &'static [u8]) {
    let mut server = Server { alpn, ..Server::new() };
    server.clients = Some(server.ca.root().clone());
    let subject = server.start(200, report(SCHEMA_VERSION, 2)).await;
    let look = look_as_operator_of(&server.ca, &subject).await;
    assert_eq!(look.failure, None);
    assert_eq!(look.not_after, Some(now() + SignedDuration::from_hours(1)));
    let shown = look.seen.unwrap();
    assert!(shown.is_verified);
    assert_eq!(shown.fingerprint.len(), 64);
    assert_eq!(shown.report.unwrap().jwks_kids, ["kid-0", "kid-1"]);
    assert_eq!(look.ledger, None, "no probe requested it");

    let keyed = Subject { has_ledger: true, ..subject };
    let look = look_as_operator_of(&server.ca, &keyed).await;
    assert_eq!(look.failure, None);
    assert_eq!(look.ledger.unwrap().unwrap().instance, "5e1f");
    // An instance without one kind of report may have the other.
    let silent = Subject { has_ledger: true, ..server.start(404, vec![]).await };
    let look = look_as_operator_of(&server.ca, &silent).await;
    assert_eq!(look.seen.unwrap().report, Err("404".to_owned()));
    assert!(look.ledger.unwrap().is_ok());
}

#[tokio::test]
async fn a_ledger_is_read_from_nobody_but_the_instance_itself() {
    let server = Server { id: "spiffe://gaia.local/ns/shop/sa/other", ..Server::new() };
    let somebody_else = Subject { has_ledger: true, ..server.start(200, report(SCHEMA_VERSION, 0)).await };
    let look = look_as_operator_of(&server.ca, &somebody_else).await;
    assert_eq!(look.ledger, Some(Err("unexpected SPIFFE ID in the peer certificate".to_owned())));
    let nobody = Subject { address: Address { host: Host::Address([127, 0, 0, 1].into()), port: 9 }, ..somebody_else };
    let look = look_as_operator_of(&server.ca, &nobody).await;
    assert_eq!(look.ledger, Some(Err("connection refused :9".to_owned())));
}

#[rstest]
#[case::no_such_page(404, b"no".to_vec(), "404")]
#[case::moved(302, b"".to_vec(), "302")]
#[case::too_new(200, report(SCHEMA_VERSION + 1, 0), "the report has schemaVersion 2")]
#[case::garbage(200, b"<html>".to_vec(), "the response is not a report")]
#[case::huge(200, report(SCHEMA_VERSION, 10_000), "the report is too long")]
#[tokio::test]
async fn an_instance_without_a_report_still_shows_its_leaf(
    #[case] status: u16,
    #[case] body: Vec<u8>,
    #[case] expected: &str,
) {
    let server = Server::new();
    let subject = server.start(status, body).await;
    let look = look_as_operator_of(&server.ca, &subject).await;
    let shown = look.seen.unwrap();
    assert!(shown.is_verified);
    assert_eq!(shown.report.unwrap_err(), expected);
    assert_eq!(look.failure, Some(Failure::NoReport));
}

#[tokio::test]
async fn an_instance_that_refuses_the_operator_still_shows_its_leaf() {
    let server = Server { clients: Some(ca("old").root().clone()), ..Server::new() };
    let subject = server.start(200, report(SCHEMA_VERSION, 1)).await;
    let look = look_as_operator_of(&server.ca, &subject).await;
    let shown = look.seen.unwrap();
    assert!(shown.is_verified);
    let why = shown.report.unwrap_err();
    assert!(why.starts_with("refuses the operator's certificate"), "{why}");
}

#[rstest]
#[case::another_identity(Server { id: "spiffe://gaia.local/ns/shop/sa/chat", ..Server::new() }, "unexpected SPIFFE ID")]
#[case::past_its_end(Server { ended: true, ..Server::new() }, "does not verify")]
#[tokio::test]
async fn a_report_counts_from_a_verified_instance_only(#[case] server: Server, #[case] expected: &str) {
    let subject = server.start(200, report(SCHEMA_VERSION, 1)).await;
    let look = look_as_operator_of(&server.ca, &subject).await;
    let shown = look.seen.unwrap();
    assert!(!shown.is_verified);
    assert!(shown.report.unwrap_err().contains(expected));
    assert_eq!(look.failure, Some(Failure::NotVerified));
}

#[tokio::test]
async fn a_leaf_of_a_ca_that_is_not_in_the_ring_is_not_verified() {
    let server = Server::new();
    let mut subject = server.start(200, report(SCHEMA_VERSION, 1)).await;
    subject.roots = vec![ca("another").root().to_pem()];
    let shown = look_as_operator_of(&server.ca, &subject).await.seen.unwrap();
    assert!(!shown.is_verified);
    assert_eq!(shown.report.unwrap_err(), "its certificate does not verify");
}

#[tokio::test]
async fn who_speaks_no_tls_shows_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    let ca = ca("first");
    let look = look_as_operator_of(&ca, &subject(address, ca.root())).await;
    assert_eq!(look.seen.unwrap_err(), format!("TLS: not TLS :{}", address.port()));
    assert_eq!(look.failure, Some(Failure::Tls));
}

#[tokio::test]
async fn nobody_there_is_told_apart_from_somebody_silent() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (silent_at, closed_at) = (silent.local_addr().unwrap(), closed.local_addr().unwrap());
    drop(closed);
    let ca = ca("first");
    let refused = look_as_operator_of(&ca, &subject(closed_at, ca.root())).await;
    assert_eq!(refused.seen.unwrap_err(), format!("connection refused :{}", closed_at.port()));
    assert_eq!(refused.failure, Some(Failure::Refused));

    // The connection is queued by the listener, and no data ever arrives.
    let slow = look_as_operator_of(&ca, &subject(silent_at, ca.root())).await;
    assert_eq!(slow.seen.unwrap_err(), format!("timed out :{}", silent_at.port()));
    assert_eq!(slow.failure, Some(Failure::TimedOut));
}

#[tokio::test]
async fn an_operator_without_a_certificate_sees_the_leaf() {
    let server = Server::new();
    let subject = server.start(200, report(SCHEMA_VERSION, 1)).await;
    let client = Client { config: Arc::new(identity::anonymous()), is_operator: false };
    let look = look(&subject, socket(&subject), &client, &ManualClock::new(now())).await;
    let shown = look.seen.unwrap();
    assert!(shown.is_verified);
    assert_eq!(shown.report.unwrap_err(), UNKNOWN_HERE);
}
