//! Sources of questions to an issuer: each client of a peer that forwards requests of others has its own share.

use gaia_api::mount::Caller;

use super::*;
use crate::issuers::Source;
use crate::request::client::{CLIENT_IP_HEADER, Client, KNOWN_CLIENT_HEADER};

/// An issuer that confirms every token and notes the source of each question.
struct Noting(Arc<Mutex<Vec<Source>>>);

impl Ask for Noting {
    fn ask(&self, question: Question) -> Pin<Box<dyn Future<Output = Result<(), Reason>> + Send>> {
        let Question::Token { source, .. } = question else { panic!("{question:?}") };
        self.0.lock().unwrap().push(source);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A service that declares one caller, and the sources of the questions that it asks.
fn noting(on_behalf_of: bool) -> (Arc<Authenticator>, Arc<Mutex<Vec<Source>>>) {
    let authenticator = authenticator(Arc::default());
    let sources = Arc::default();
    authenticator.ask_through(Arc::new(Noting(Arc::clone(&sources))));
    let mut policy = rules().policy().clone();
    policy.callers = vec![Caller { spiffe_id: caller(), scopes: vec![], on_behalf_of }];
    policy.user_tokens.issuers = vec![UserTokenIssuer { verification: UserTokenVerification::Remote, ..user_issuer() }];
    authenticator.replace(Arc::new(Rules::new(policy, None, Denied::default(), table(vec![]).unwrap())));
    (authenticator, sources)
}

/// The source of a question about the token of a request with these headers.
fn source(on_behalf_of: bool, peer: bool, headers: &[(&http::HeaderName, &str)]) -> Source {
    let (authenticator, sources) = noting(on_behalf_of);
    let mut request = with_token(&user_claims());
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let connection = Connection {
        address: Some("10.0.0.7".parse().unwrap()),
        peer: peer.then(|| crate::fixtures::peer(caller())),
        ..Connection::default()
    };
    now_or_never(authenticator.ahead(Access::Scopes(&[]), request.headers(), &connection).unwrap());
    sources.lock().unwrap().pop().unwrap()
}

#[test]
fn questions_for_a_forwarding_peer_are_charged_to_its_client() {
    let (ip, known) = (&CLIENT_IP_HEADER, &KNOWN_CLIENT_HEADER);
    let address = |text: &str| Some(text.parse().unwrap());
    let of_peer = Source { peer: Some(caller()), ..Source::default() };
    let (named, user) = ((ip, "2001:db8:1:2:3:4:5:6"), (known, "0d6a"));
    assert_eq!(source(true, true, &[named]), Source { address: address("2001:db8:1:2::"), ..of_peer.clone() });
    let of_user = Source { known: Some("0d6a".into()), ..of_peer.clone() };
    assert_eq!(source(true, true, &[named, user]), of_user, "whatever its address");
    assert_eq!(source(true, true, &[user]), of_user);
    // A peer that forwards no requests of others, and a client without a certificate, are clients themselves.
    let of_address = Source { address: address("10.0.0.7"), ..Source::default() };
    assert_eq!(source(false, true, &[named, user]), Source { peer: Some(caller()), ..of_address.clone() });
    assert_eq!(source(true, false, &[named, user]), of_address);
}

#[test]
fn examined_tokens_are_charged_to_the_named_client() {
    let (authenticator, sources) = noting(true);
    for user in ["ada", "bob"] {
        let client = Client { address: None, known: Some(user.to_owned()) };
        let mut claims = user_claims();
        claims["jti"] = user.into();
        now_or_never(authenticator.introspect_token(&user_token(&claims), None, client)).unwrap();
    }
    let known: Vec<_> = sources.lock().unwrap().iter().map(|source| source.known.clone().unwrap()).collect();
    assert_eq!(known, ["ada", "bob"]);
}
