//! Callers with the certificates of the old scripts: X.509 version 1, a common name and nothing else, made by OpenSSL.

use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gaia_api::mount::{AuthMode, Policy, TlsMode};
use gaia_api::names::key;
use gaia_api::{Clock as _, SystemClock};
use gaia_e2e::{Curl, Standalone, process, wait};
use gaia_pki::{Jwk, JwkSet, PublicKey, SigningAlgorithm};
use gaia_runtime::testing::{Platform, api_keys, policy};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);
const API_KEY: &str = "gk_test_0123456789abcdef0123456789abcdef";

/// The tree of the old scripts in one of its forms, with copies under the file names that `Curl` reads.
async fn old_tree(dir: &Path, form: &str) {
    let mut command = Command::new("sh");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/old-scripts/setup-dev-ca.sh")).arg(dir).arg(form);
    let output = process::output(command).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::copy(dir.join("gateway/cert.pem"), dir.join("gateway/tls.crt")).unwrap();
    fs::copy(dir.join("gateway/key.pem"), dir.join("gateway/tls.key")).unwrap();
}

/// asset-service with the old CA in its bundle, as after `--adopt`, or without.
async fn service(dir: &Path, old_ca: Option<&str>, tls_mode: TlsMode, mode: AuthMode) -> Standalone {
    let platform = Platform::new();
    let mut files = platform.mount("asset-service");
    fs::write(dir.join(key::CA_CERT), platform.bundle()).unwrap();
    let bundle = format!("{}{}", platform.bundle(), old_ca.unwrap_or_default());
    files.insert(key::CA_CERT, bundle.into_bytes());
    files.insert(key::API_KEYS, api_keys(&[("app", API_KEY, &[])]));
    let policy = Policy { tls_mode, mode, ..policy("asset-service") };
    files.insert(key::POLICY, serde_json::to_vec(&policy).unwrap());
    Standalone::start("asset-service", dir, &files, &[]).await.unwrap()
}

/// The audit lines of handshakes.
fn audit(service: &Standalone) -> Vec<Value> {
    let log = fs::read_to_string(service.log()).unwrap();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == "gaia.audit" && line["event"] == "tls_handshake").collect()
}

/// Kind: an old caller's certificate excludes it, though its API key is valid.
#[tokio::test]
async fn a_version_1_certificate_is_no_peer_in_permissive_and_refused_in_strict() {
    let old = tempfile::tempdir().unwrap();
    old_tree(old.path(), "guide").await;
    let ca = fs::read_to_string(old.path().join("ca.pem")).unwrap();
    for (old_ca, mode) in [(Some(ca.as_str()), AuthMode::APIKeyOnly), (None, AuthMode::Dual)] {
        let dir = tempfile::tempdir().unwrap();
        let service = service(dir.path(), old_ca, TlsMode::Permissive, mode).await;
        let url = format!("https://{}", service.mesh);
        let call = |path: &str| Curl::to(&format!("{url}{path}"), dir.path()).as_peer(&old.path().join("gateway"));
        call("/assets").api_key(API_KEY).send().await.unwrap().expect(200).unwrap();
        call("/assets").send().await.unwrap().expect(401).unwrap();
        assert_eq!(call("/health").send().await.unwrap().expect(200).unwrap(), r#"{"status":"healthy"}"#);
        let metrics = service.metrics().await.unwrap();
        assert!(metrics.contains(r#"gaia_tls_unverified_client_certificates_total{reason="x509_v1"} 3"#), "{metrics}");
        let lines = audit(&service);
        let line = &lines[0];
        for (name, value) in [
            ("result", "unverified"),
            ("by", "local"),
            ("reason", "x509_v1"),
            ("presented_unverified", "CN=gateway"),
            ("address", "127.0.0.1"),
        ] {
            assert_eq!(line[name], value, "{line}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let service = service(dir.path(), Some(&ca), TlsMode::Strict, AuthMode::Dual).await;
    let call = Curl::to(&format!("https://{}/assets", service.mesh), dir.path());
    assert!(call.clone().as_peer(&old.path().join("gateway")).api_key(API_KEY).send().await.is_err());
    assert!(call.api_key(API_KEY).send().await.is_err(), "a certificate is needed");
    // A client that does not trust the service ends the handshake itself.
    let stranger = Curl::to(&format!("https://{}/assets", service.mesh), old.path());
    fs::copy(old.path().join("ca.pem"), old.path().join(key::CA_CERT)).unwrap();
    assert!(stranger.send().await.is_err());
    // The alert of a client arrives after its connection has ended.
    let is_audited = async || Ok::<_, Infallible>(audit(&service).len() >= 3);
    wait::until_true("three failed handshakes are audited", SOON, is_audited).await.unwrap();
    let lines = audit(&service);
    let found: Vec<_> =
        lines.iter().map(|line| (&line["by"], &line["reason"], &line["presented_unverified"])).collect();
    let expected = serde_json::json!([
        ["local", "bad_client_certificate", "CN=gateway"],
        ["local", "no_client_certificate", null],
        ["peer", "refused_by_client", null],
    ]);
    assert_eq!(serde_json::json!(found), expected, "{lines:?}");
    assert!(lines.iter().all(|line| line["address"] == "127.0.0.1"), "{lines:?}");
    let log = fs::read_to_string(service.log()).unwrap();
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains("TLS handshake failed")), "{log}");
}

/// A token as the old scripts made it: signed by `jwt-signing.key`, without `kid` and for all services.
async fn old_token(dir: &Path, now: i64) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = encode(&serde_json::json!({"alg": "RS256", "typ": "JWT"}));
    let claims = encode(&serde_json::json!({
        "iss": "gaia-platform", "aud": "gaia-services", "sub": "gateway", "service": "gateway", "iat": now, "exp": now + 3600,
    }));
    let signed = format!("{header}.{claims}");
    fs::write(dir.join("signed"), &signed).unwrap();
    let mut command = Command::new("openssl");
    command.args(["dgst", "-sha256", "-sign", "jwt-signing.key", "-out", "signature", "signed"]).current_dir(dir);
    assert!(process::output(command).await.unwrap().status.success());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(fs::read(dir.join("signature")).unwrap()))
}

/// Kind: a token of the old scripts beside a valid API key is a reason to refuse the call.
#[tokio::test]
async fn a_token_of_the_old_scripts_decides_nothing_beside_an_api_key() {
    let old = tempfile::tempdir().unwrap();
    old_tree(old.path(), "scripts").await;
    let public = PublicKey::from_pem(&fs::read_to_string(old.path().join("jwt-signing.pub")).unwrap()).unwrap();
    let adopted = JwkSet::new(vec![Jwk::from_public_key(&public, SigningAlgorithm::Rs256).unwrap()]).unwrap();
    let token = old_token(old.path(), SystemClock.now().as_second()).await;
    for (mode, with_key) in [(AuthMode::APIKeyOnly, 200), (AuthMode::Dual, 401)] {
        let dir = tempfile::tempdir().unwrap();
        let platform = Platform::new();
        let mut files = platform.mount("asset-service");
        fs::write(dir.path().join(key::CA_CERT), platform.bundle()).unwrap();
        files.insert(key::JWKS, serde_json::to_vec(&adopted).unwrap());
        files.insert(key::API_KEYS, api_keys(&[("app", API_KEY, &[])]));
        let policy = Policy { tls_mode: TlsMode::Permissive, mode, ..policy("asset-service") };
        files.insert(key::POLICY, serde_json::to_vec(&policy).unwrap());
        let service = Standalone::start("asset-service", dir.path(), &files, &[]).await.unwrap();
        let call = || Curl::to(&format!("https://{}/assets", service.mesh), dir.path()).bearer(&token);
        call().api_key(API_KEY).send().await.unwrap().expect(with_key).unwrap();
        call().send().await.unwrap().expect(401).unwrap();
    }
}
