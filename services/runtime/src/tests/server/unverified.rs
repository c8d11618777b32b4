//! Client certificates that do not verify: no peer in Permissive, refused in Strict.

use gaia_api::mount::AuthMode;

use crate::testing::{TRUST_DOMAIN, api_keys};
use crate::tests::*;

const KEY: &str = "gk_test_0123456789abcdef0123456789abcdef";

/// A CA created with rcgen, and a leaf below it with these names.
fn foreign(names: &[rcgen::SanType]) -> (String, MountedFiles) {
    let key = || rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = rcgen::CertifiedIssuer::self_signed(params, key()).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "gateway");
    params.subject_alt_names = names.to_vec();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let private = key();
    let leaf = params.signed_by(&private, &ca).unwrap();
    let files = MountedFiles::from([
        (key::TLS_CERT, leaf.pem().into_bytes()),
        (key::TLS_KEY, private.serialize_pem().into_bytes()),
    ]);
    (ca.pem(), files)
}

/// A trusted bundle, and leaves that do not verify with it, each with its reason.
fn leaves(platform: &Platform) -> (String, Vec<(&'static str, MountedFiles)>) {
    let (now, hour) = (SystemClock.now(), SignedDuration::from_hours(1));
    let id = spiffe_id("gateway");
    let (first, no_san) = foreign(&[]);
    let (second, dns_only) = foreign(&[rcgen::SanType::DnsName("gateway".try_into().unwrap())]);
    let (_, stranger) = foreign(&[rcgen::SanType::URI(id.as_str().try_into().unwrap())]);
    let bundle = format!("{}{first}{second}", platform.bundle());
    let other_domain = platform.leaf_for("spiffe://other.local/ns/shop/sa/gateway", now - hour, now + hour);
    let leaves = vec![
        ("unknown_ca", Platform::new().leaf("gateway")),
        ("unknown_ca", stranger),
        ("expired", platform.leaf_for(id.as_str(), now - hour * 3, now - hour)),
        ("not_yet_valid", platform.leaf_for(id.as_str(), now + hour, now + hour * 3)),
        ("other_spiffe_id", other_domain),
        ("no_spiffe_id", no_san),
        ("no_spiffe_id", dns_only),
    ];
    (bundle, leaves)
}

fn mount(platform: &Platform, bundle: &str, tls_mode: TlsMode, mode: AuthMode) -> MountedFiles {
    let mut files = platform.mount("asset-service");
    let policy = Policy { tls_mode, mode, ..policy("asset-service") };
    files.insert(key::POLICY, serde_json::to_vec(&policy).unwrap());
    files.insert(key::CA_CERT, bundle.as_bytes().to_vec());
    files.insert(key::API_KEYS, api_keys(&[("app", KEY, &[])]));
    files
}

/// Kind: an outdated certificate cuts off a caller although its API key is valid.
#[tokio::test]
async fn a_certificate_that_does_not_verify_is_no_peer_in_permissive_and_fails_nothing() {
    for mode in [AuthMode::APIKeyOnly, AuthMode::Dual] {
        let platform = Platform::new();
        let (bundle, leaves) = leaves(&platform);
        let service = start(&mount(&platform, &bundle, TlsMode::Permissive, mode)).await;
        for (reason, leaf) in &leaves {
            let client = platform.client(Some(leaf));
            assert_eq!(service.health(&client).await, serde_json::json!({ "status": "healthy" }), "{reason}");
            assert_eq!(service.get(&client, "/who").await.unwrap().0, StatusCode::UNAUTHORIZED, "{reason}");
            let request = Request::get(format!("{}/anyone", service.mesh)).header("x-api-key", KEY);
            let answer = client.request(request.body(Body::empty()).unwrap()).await.unwrap();
            let (status, subject) = read(answer).await;
            assert_eq!((status, subject.as_slice()), (StatusCode::OK, &b"key:app"[..]), "{reason}");
        }
        for reason in ["expired", "not_yet_valid", "other_spiffe_id"] {
            let line = format!("gaia_tls_unverified_client_certificates_total{{reason=\"{reason}\"}} 1");
            assert!(service.metric(&line).await, "{line}");
        }
        assert!(service.metric(r#"gaia_tls_unverified_client_certificates_total{reason="unknown_ca"} 2"#).await);
        assert!(service.metric(r#"gaia_tls_unverified_client_certificates_total{reason="no_spiffe_id"} 2"#).await);
        let client = platform.client(Some(&platform.leaf("gateway")));
        assert_eq!(service.get(&client, "/who").await.unwrap().1, spiffe_id("gateway").to_string());
    }
}

#[tokio::test]
async fn a_certificate_that_does_not_verify_is_refused_in_strict() {
    let platform = Platform::new();
    let (bundle, leaves) = leaves(&platform);
    let service = start(&mount(&platform, &bundle, TlsMode::Strict, AuthMode::Dual)).await;
    for (reason, leaf) in &leaves {
        let client = platform.client(Some(leaf));
        assert!(service.get(&client, "/health").await.is_err(), "{reason}");
    }
    assert!(service.metric(r#"gaia_tls_handshake_failures_total{reason="expired_client_certificate"} 1"#).await);
    assert!(service.metric(r#"gaia_tls_handshake_failures_total{reason="bad_client_certificate"} 6"#).await);
    assert!(
        !get_plain(&format!("{}/metrics", service.admin)).await.1.contains("unverified_client_certificates_total{")
    );
}

/// A change to Strict ends connections without a peer, like those without a certificate.
#[tokio::test]
async fn a_connection_without_a_peer_ends_when_a_certificate_is_needed() {
    let platform = Platform::new();
    let mut service = start(&platform.mount("asset-service")).await;
    let mut stream = service.connect(&platform, &Platform::new().leaf("gateway")).await;
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
    service.mount.swap(&strict(&platform));
    let closed = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut [0; 1024])).await.unwrap();
    assert!(!closed.is_ok_and(|bytes| bytes > 0));
}

/// The operator's name in a certificate of another CA grants no access.
#[tokio::test]
async fn an_identity_is_never_read_from_a_certificate_that_does_not_verify() {
    let platform = Platform::new();
    let service = start(&platform.mount("asset-service")).await;
    for id in [format!("spiffe://{TRUST_DOMAIN}/gaia/operator"), spiffe_id("gateway").to_string()] {
        let (_, leaf) = foreign(&[rcgen::SanType::URI(id.as_str().try_into().unwrap())]);
        let client = platform.client(Some(&leaf));
        let report = service.get(&client, gaia_api::identity::IDENTITY_PATH).await.unwrap();
        assert_eq!(report.0, StatusCode::NOT_FOUND, "{id}");
        assert_eq!(service.get(&client, "/who").await.unwrap().0, StatusCode::UNAUTHORIZED, "{id}");
    }
}
