//! Identities and headers that reach an upstream, and behaviour without a response.

use gaia_runtime::testing::AuditLines;
use gaia_runtime::{Hosts, MeshClient};

use super::*;

#[tokio::test]
async fn a_user_and_a_program_are_known_behind_by_their_own_names_and_their_credentials_stay_in_front() {
    let scene = Scene::open(&[]).await;
    let user = scene.as_user();
    for (header, subject) in [(user.as_str(), format!("user:supabase:{USER}")), (AS_KEY, "key:mobile".to_owned())] {
        let lines =
            [header, "Cookie: a=b", "X-Gaia-Subject: user:supabase:admin", "X-Forwarded-For: 1.2.3.4", "Accept: */*"];
        let answer = scene.send("PUT", "/assets/a%20b?x=%2e&y", &lines, "content").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, format!("{subject} PUT 7").as_str()), "{answer:?}");
        let [seen] = &scene.seen()[..] else { panic!("it was asked once") };
        assert_eq!(
            (seen.subject.as_str(), seen.method.as_str(), seen.body.as_slice()),
            (&*subject, "PUT", &b"content"[..])
        );
        assert!(seen.uri.ends_with("/assets/a%20b?x=%2e&y"), "as it came: {}", seen.uri);
        for gone in ["cookie", "x-gaia-subject", "x-forwarded-for", "x-api-key", "connection"] {
            assert!(!seen.headers.contains_key(gone), "{gone}: {:?}", seen.headers);
        }
        let token = header.rsplit(' ').next().unwrap();
        assert!(!format!("{:?}", seen.headers).contains(token));
        assert_eq!(answer.header("x-request-id").unwrap(), seen.headers["x-request-id"]);
    }
    assert_eq!(scene.behind.exchanged.load(Ordering::Relaxed), 2, "one token for each");
}

#[tokio::test]
async fn without_a_credential_or_with_a_bad_one_nothing_is_passed_on() {
    let scene = Scene::open(&[]).await;
    let forged = format!("{}x", scene.as_user());
    for (header, status) in
        [("", 401), ("X-API-Key: guessed", 401), (&forged, 401), ("Authorization: Bearer a.b.c.d", 400)]
    {
        let answer = scene.get("/assets", header).await;
        assert_eq!(answer.status, status, "{header}: {answer:?}");
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401);
    }
    assert_eq!(scene.get("/assets", "X-API-Key: reader-key-reader-key").await.status, 200);
    let reader = scene.send("DELETE", "/assets/a", &["X-API-Key: reader-key-reader-key"], "").await;
    assert_eq!(reader.status, 403, "its scopes are asked for in front already");
    assert_eq!(scene.seen().len(), 1);
}

#[tokio::test]
async fn a_platform_token_is_nothing_at_the_edge() {
    let scene = Scene::open(&[]).await;
    let platform = Platform::new();
    let own = own_token(&platform.signer(), &json!({ "target_service": "gateway" }));
    let header = format!("Authorization: Bearer {}", own.0["access_token"].as_str().unwrap());
    assert_eq!(scene.get("/assets", &header).await.status, 401);
}

#[tokio::test]
async fn who_signs_in_is_nobody_yet_and_gateway_calls_in_its_own_name() {
    let scene = Scene::open(&[]).await;
    let login = async |body: &str| {
        let lines =
            ["Content-Type: application/json", "Authorization: Bearer not.a.token", "X-Gaia-Client-IP: 6.6.6.6"];
        scene.send("POST", "/auth/login", &lines, body).await
    };
    let answer = login(r#"{"email":"ann@example.com"}"#).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"access_token":"a"}"#));
    assert_eq!(answer.header("set-cookie"), None);
    let seen = scene.seen();
    assert_eq!(seen[0].subject, spiffe_id("gateway").to_string());
    assert_eq!(seen[0].headers["x-gaia-client-ip"], "127.0.0.1", "auth-service counts by it");
    let answer = login(r#"{"email":"bob@example.com"}"#).await;
    assert_eq!((answer.status, answer.body.as_str()), (401, r#"{"code":"invalid_credentials"}"#), "as it is");
}

#[tokio::test]
async fn a_wrong_password_is_told_as_such_while_others_are_called_with_the_key_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("api-key");
    std::fs::write(&file, AS_KEY.strip_prefix("X-API-Key: ").unwrap()).unwrap();
    let scene = Scene::open(&["--api-key-file", file.to_str().unwrap()]).await;
    let login =
        scene.send("POST", "/auth/login", &["Content-Type: application/json"], r#"{"email":"bob@example.com"}"#);
    let answer = login.await;
    assert_eq!((answer.status, answer.body.as_str()), (401, r#"{"code":"invalid_credentials"}"#));
    std::fs::write(&file, "a-key-that-nobody-knows-0123456789abcdef").unwrap();
    let refused = async || scene.get("/assets", AS_KEY).await.status == 502;
    eventually("the key of the gateway is refused, which is no fault of the client", refused).await;
}

#[tokio::test]
async fn of_an_answer_nothing_internal_passes_but_what_keys_are_told() {
    let scene = Scene::open(&[]).await;
    let answer = scene.get("/assets?headers", AS_KEY).await;
    assert_eq!((answer.status, answer.header("etag")), (200, Some("\"1\"")));
    for gone in ["set-cookie", "x-gaia-instance", "server", "sunset"] {
        assert_eq!(answer.header(gone), None, "{answer:?}");
    }
    let told = answer.header("deprecation").expect("clients with a deprecated key get the headers");
    assert_ne!(told, "@1", "and not what the service behind says of the gateway's");
    assert_eq!(scene.get("/assets?headers", &scene.as_user()).await.header("deprecation"), None);
}

#[tokio::test]
async fn a_service_that_does_not_take_this_gateways_token_is_no_fault_of_the_client() {
    let scene = Scene::open(&[]).await;
    assert_eq!(scene.get("/assets?unwelcome", AS_KEY).await.status, 502);
    assert_eq!(scene.seen().len(), 2, "with another token, once more");
    assert_eq!(scene.get("/assets?forbidden", AS_KEY).await.status, 403);
}

#[tokio::test]
async fn while_auth_service_gives_nothing_whom_it_has_given_is_served_and_others_come_again() {
    let scene = Scene::open(&[]).await;
    scene.behind.is_away.store(true, Ordering::Relaxed);
    assert_eq!(scene.get("/assets", &scene.as_user()).await.status, 503, "another token of the same user");
    let answer = scene.get("/assets", AS_KEY).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    scene.behind.is_away.store(false, Ordering::Relaxed);
    assert_eq!(scene.get("/assets", AS_KEY).await.status, 200);
    scene.behind.is_away.store(true, Ordering::Relaxed);
    assert_eq!(scene.get("/assets", AS_KEY).await.status, 200);
}

#[tokio::test]
async fn a_token_that_has_just_ended_is_refused_here_and_costs_auth_service_nothing() {
    let scene = Scene::open(&[]).await;
    let long_ago = SystemClock.now() - jiff::SignedDuration::from_secs(3600 + 5);
    let token = scene.issuer.user_token(&users("http://127.0.0.1"), USER, long_ago);
    for _ in 0..3 {
        assert_eq!(scene.get("/assets", &format!("Authorization: Bearer {token}")).await.status, 401);
    }
    assert_eq!(scene.behind.exchanged.load(Ordering::Relaxed), 0);
}

/// Kind: an audit trail in which a refused credential stands as accepted.
#[tokio::test]
async fn a_credential_that_auth_service_refuses_has_an_audit_line() {
    let scene = Scene::open(&[]).await;
    let lines = AuditLines::record();
    let later = SystemClock.now() - jiff::SignedDuration::from_secs(1);
    let token = scene.issuer.user_token(&users("http://127.0.0.1"), USER, later);
    scene.behind.refuses_credentials.store(true, Ordering::Relaxed);
    let answer = scene.get("/assets", &format!("Authorization: Bearer {token}")).await;
    assert_eq!(answer.status, 401, "{answer:?}");
    let lines = lines.written();
    let text = format!("{lines:?}");
    let [line] = &lines.iter().filter(|line| line["event"] == "exchange").collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    let sub = format!("user:supabase:{USER}");
    for (name, value) in [
        ("result", "refused"),
        ("sub", sub.as_str()),
        ("upstream", "asset-service"),
        ("address", "127.0.0.1"),
        ("request_id", answer.header("x-request-id").unwrap()),
    ] {
        assert_eq!(line[name], value, "{line}");
    }
    assert!(!text.contains(&token), "{text}");
}

#[tokio::test]
async fn each_route_waits_as_long_as_its_service_may_take() {
    let scene = Scene::open(&["--upstream-timeout", "500ms"]).await;
    assert_eq!(scene.send("POST", "/chat?slow", &[AS_KEY], "{}").await.status, 200, "a model has minutes");
    assert_eq!(scene.get("/assets?slow", AS_KEY).await.status, 504);
    let scene = Scene::open(&["--upstream-chat-timeout", "500ms"]).await;
    assert_eq!(scene.send("POST", "/chat?slow", &[AS_KEY], "{}").await.status, 504);
    assert_eq!(scene.get("/assets?slow", AS_KEY).await.status, 200);
}

#[tokio::test]
async fn the_edges_own_tls_tells_browsers_to_stay_with_it() {
    let platform = Platform::new();
    let issuer = Arc::new(Issuer::new(policy("gateway").tokens));
    let certificate = tempfile::tempdir().unwrap();
    let key = gaia_pki::PrivateKey::generate(gaia_pki::KeySpec::Ecdsa256).unwrap().to_pem();
    let public = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let public = public.self_signed(&rcgen::KeyPair::from_pem(&key).unwrap()).unwrap();
    std::fs::write(certificate.path().join(key::TLS_CERT), public.pem()).unwrap();
    std::fs::write(certificate.path().join(key::TLS_KEY), key.as_bytes()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(public.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let browser = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let browser = MeshClient::new(browser.with_root_certificates(roots).with_no_client_auth(), Hosts::default());
    let flags = owned(&["--edge-tls-dir", certificate.path().to_str().unwrap()]);
    let ([edge, mesh, _], _dir) = gateway(&platform, &issuer, "https://localhost:1", &flags).await;
    let sent = async |client: &MeshClient, address: SocketAddr, path: &str| {
        let request = http::Request::get(format!("https://{address}{path}")).body(Body::empty()).unwrap();
        let answer = client.request(request).await.unwrap();
        answer.headers().get(header::STRICT_TRANSPORT_SECURITY).cloned()
    };
    for path in ["/health", "/nothing", "/a//b"] {
        assert_eq!(sent(&browser, edge, path).await.unwrap(), "max-age=31536000", "{path}");
    }
    assert_eq!(sent(&platform.client(None), mesh, "/health").await, None, "no browser comes here");
    let scene = Scene::open(&[]).await;
    assert_eq!(scene.get("/health", "").await.header("strict-transport-security"), None, "plain HTTP (RFC 6797, 7.2)");
}

#[tokio::test]
async fn nobody_there_is_a_502_and_nobody_answering_a_504() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = format!("https://{free}");
    let scene = Scene::open(&["--upstream-chat-service", &nobody, "--upstream-timeout", "1s"]).await;
    assert_eq!(scene.send("POST", "/chat", &[AS_KEY], "{}").await.status, 502);
    assert!(
        scene.has_metric(r#"gaia_gateway_retried_total{upstream="chat-service"} 1"#).await,
        "nothing had been sent"
    );
    assert_eq!(scene.get("/assets?never", AS_KEY).await.status, 504);
}
