use gaia_api::mount::{AuthMode, Denylist};
use gaia_api::{Clock as _, SystemClock};
use jiff::SignedDuration;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::server::WebPkiClientVerifier;

use super::*;
use crate::credentials::parts::Bundle;
use crate::testing::{TRUST_DOMAIN, policy, spiffe_id};

fn bundle(roots: &[Certificate]) -> Arc<Bundle> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(CertificateDer::from(root.der().to_vec())).unwrap();
    }
    Arc::new(Bundle { roots: roots.to_vec(), store: Arc::new(store), hash: String::new() })
}

fn parts(roots: &[Certificate], denied: &Denylist) -> (Arc<Bundle>, Arc<Peers>, Arc<Denied>) {
    let bundle = bundle(roots);
    let peers = Arc::new(Peers::new(Arc::clone(&bundle), TRUST_DOMAIN));
    (bundle, peers, Arc::new(Denied::from(denied)))
}

fn ders(chain: &[Certificate]) -> Vec<CertificateDer<'static>> {
    chain.iter().map(|certificate| CertificateDer::from(certificate.der().to_vec())).collect()
}

fn unix(now: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.as_second().unsigned_abs()))
}

/// The result for a client with that chain.
pub(crate) fn as_client(
    roots: &[Certificate],
    chain: &[Certificate],
    denied: &Denylist,
    now: Timestamp,
) -> Result<(), Refused> {
    let (bundle, peers, denied) = parts(roots, denied);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let webpki = WebPkiClientVerifier::builder_with_provider(Arc::clone(&bundle.store), provider).build().unwrap();
    let verifier = ClientVerifier { chain: webpki, peers, denied, mode: TlsMode::Strict };
    let ders = ders(chain);
    verifier.check(&ders[0], &ders[1..], unix(now)).map(drop)
}

/// The result for a server `gateway` with that chain, by the identity in its leaf.
pub(crate) fn as_server(
    roots: &[Certificate],
    chain: &[Certificate],
    denied: &Denylist,
    now: Timestamp,
) -> Result<(), Error> {
    let (bundle, peers, denied) = parts(roots, denied);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::clone(&bundle.store), provider).build().unwrap();
    let policy = gaia_api::mount::Policy { mode: AuthMode::JWTOnly, ..policy("asset-service") };
    let id = gaia_api::SpiffeId::parse(&chain[0].uris()[0]).unwrap();
    let (namespace, name) = id.workload_parts().unwrap();
    let expected = Expected::of(&policy, &format!("{namespace}/{name}"));
    let metrics = Arc::new(Metrics::new(Arc::new(SystemClock), |_| ()));
    let verifier = ServerVerifier { chain: webpki, peers, denied, expected, metrics };
    let (ders, name) = (ders(chain), ServerName::try_from("gateway").unwrap());
    verifier.verify_server_cert(&ders[0], &ders[1..], &name, &[], unix(now)).map(drop)
}

/// A root, an intermediate below it and a leaf, with these key usages; none omits the extension.
fn chain(
    root: Option<&[KeyUsagePurpose]>,
    intermediate: Option<&[KeyUsagePurpose]>,
    leaf: Option<&[KeyUsagePurpose]>,
) -> (Certificate, Vec<Certificate>) {
    let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let ca = |name: &str, usages: Option<&[KeyUsagePurpose]>| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = usages.unwrap_or_default().to_vec();
        params
    };
    let root = CertifiedIssuer::self_signed(ca("root", root), key()).unwrap();
    let middle = CertifiedIssuer::signed_by(ca("middle", intermediate), key(), &root).unwrap();
    let mut params = CertificateParams::new(vec!["gateway".to_owned()]).unwrap();
    params.subject_alt_names.push(rcgen::SanType::URI(spiffe_id("gateway").as_str().try_into().unwrap()));
    params.key_usages = leaf.unwrap_or_default().to_vec();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = params.signed_by(&key(), &middle).unwrap();
    let read = |der: &[u8]| Certificate::from_der(der).unwrap();
    (read(root.der()), vec![read(leaf.der()), read(middle.der())])
}

/// Kind: keyUsage, which webpki does not check; on both sides, and in the check of the own leaf.
#[test]
fn key_usages_of_leaves_and_intermediates_decide_on_both_sides() {
    use KeyUsagePurpose::{CrlSign, DataEncipherment, DigitalSignature, KeyCertSign, KeyEncipherment};
    let (ca, leaf): (&[_], &[_]) = (&[KeyCertSign, CrlSign], &[DigitalSignature]);
    type Usages<'a> = Option<&'a [KeyUsagePurpose]>;
    let cases: [(&str, Usages<'_>, Usages<'_>, Usages<'_>, bool); 11] = [
        ("all as they should be", Some(ca), Some(ca), Some(leaf), true),
        ("an RSA leaf's usages", Some(ca), Some(ca), Some(&[DigitalSignature, KeyEncipherment]), true),
        ("no keyUsage at all", None, None, None, true),
        ("CAs without keyUsage", None, None, Some(leaf), true),
        ("a root that may not sign is an anchor", Some(&[DigitalSignature]), Some(ca), Some(leaf), true),
        ("leaf with keyCertSign", Some(ca), Some(ca), Some(&[DigitalSignature, KeyCertSign]), false),
        ("leaf with cRLSign", Some(ca), Some(ca), Some(&[DigitalSignature, CrlSign]), false),
        ("leaf without digitalSignature", Some(ca), Some(ca), Some(&[KeyEncipherment]), false),
        ("leaf for data only", Some(ca), Some(ca), Some(&[DataEncipherment]), false),
        ("intermediate with cRLSign only", Some(ca), Some(&[CrlSign]), Some(leaf), false),
        ("intermediate with digitalSignature only", Some(ca), Some(&[DigitalSignature]), Some(leaf), false),
    ];
    let now = SystemClock.now();
    for (what, root, intermediate, leaf, is_accepted) in cases {
        let (root, chain) = chain(root, intermediate, leaf);
        let roots = [root.clone()];
        let client = as_client(&roots, &chain, &Denylist::empty(), now);
        assert_eq!(client.is_ok(), is_accepted, "{what}: {client:?}");
        if let Err(refused) = client {
            assert_eq!(refused.reason, "key_usage", "{what}");
        }
        let server = as_server(&roots, &chain, &Denylist::empty(), now);
        assert_eq!(server.is_ok(), is_accepted, "{what}: {server:?}");
        let own = gaia_pki::verify_path(&chain[0], &chain[1..], &root, gaia_pki::Usage::ServerAuth, now);
        assert_eq!(own.is_ok(), is_accepted, "{what}: {own:?}");
    }
}

/// Without a handshake that could continue without a peer, as in Strict.
#[test]
fn outside_of_a_handshake_a_certificate_that_proves_nothing_is_refused() {
    let (_, stranger) = chain(None, None, None);
    let (root, chain) = chain(None, None, None);
    let (bundle, peers, denied) = parts(&[root], &Denylist::empty());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let webpki = WebPkiClientVerifier::builder_with_provider(Arc::clone(&bundle.store), provider).build().unwrap();
    let verifier = ClientVerifier { chain: webpki, peers, denied, mode: TlsMode::Permissive };
    let now = unix(SystemClock.now() + SignedDuration::from_secs(1));
    let (good, bad) = (ders(&chain), ders(&stranger));
    assert!(verifier.verify_client_cert(&good[0], &good[1..], now).is_ok());
    assert!(verifier.verify_client_cert(&bad[0], &bad[1..], now).is_err());
}
