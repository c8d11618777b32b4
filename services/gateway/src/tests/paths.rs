//! Paths outside the allowlist are not forwarded, in any spelling.

use super::*;

#[tokio::test]
async fn no_spelling_of_an_internal_path_is_passed_on() {
    let scene = Scene::open(&["--ip-rate", "0", "--account-rate", "0"]).await;
    let (mut statuses, user) = (Vec::new(), scene.as_user());
    for target in [
        "/internal/service-token",
        "/internal/token-exchange",
        "/internal/validate",
        "/INTERNAL/service-token",
        "/metrics",
        "/metrics/",
        "/readyz",
        "/.well-known/gaia/identity",
        "/.well-known/gaia/ledger",
        "/.well-known/jwks.json",
        "/%69nternal/service-token",
        "/auth/login/../../internal/service-token",
        "/assets/../internal/service-token",
        "/assets/./../internal/service-token",
        "/assets/..%2finternal/service-token",
        "/assets/..%2Finternal/service-token",
        "/assets/%2e%2e/internal/service-token",
        "/assets/%2E%2E/internal/service-token",
        "/assets/%2e./internal/service-token",
        "/assets/.%2e/internal/service-token",
        "/assets/%252e%252e/internal/service-token",
        "/assets/%25252e%25252e/internal/service-token",
        "/assets/%25%32%65%25%32%65/internal",
        "/assets/..%252finternal",
        "/assets/..%5cinternal",
        "/assets/..\\internal",
        "/assets\\..\\internal",
        "\\internal\\service-token",
        "//internal/service-token",
        "/assets//internal",
        "/assets/..;/internal/service-token",
        "/assets/..;a=b/internal",
        "/;/internal/service-token",
        "/assets/%c0%ae%c0%ae/internal",
        "/assets/%e0%80%ae%e0%80%ae/internal",
        "/assets/%00/../internal",
        "/assets/a%00",
        "/assets/a%0d%0aX-Gaia-Subject:%20admin",
        "/./internal/service-token",
        "/../internal/service-token",
        "http://shop.example/internal/service-token",
        "http://shop.example/assets/../internal/service-token",
        "http://asset-service/internal/service-token",
        "*",
        "asset-service:8443",
        "/auth/../internal/service-token",
        "/auth/callback",
        "/chat/../metrics",
        "/chat/completions",
        "/health/../metrics",
    ] {
        for method in ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE", "GAIA"] {
            for header in [AS_KEY, user.as_str()] {
                let answer = scene.send(method, target, &[header, "X-Original-URL: /internal/service-token"], "").await;
                assert!([400, 404, 405].contains(&answer.status), "{method} {target}: {answer:?}");
                statuses.push(answer.status);
            }
        }
    }
    assert!(statuses.contains(&400) && statuses.contains(&404));
    assert_eq!(scene.seen().len(), 0, "nothing came in behind");
}

#[tokio::test]
async fn a_path_that_could_be_read_in_two_ways_is_refused_before_anybody_asks_who_it_is() {
    let scene = Scene::open(&[]).await;
    for target in ["/assets/%2e%2e/a", "/assets//a", "/assets/a%2fb", "/assets/..", "/nothing/%2e"] {
        let answer = scene.get(target, "").await;
        assert_eq!(answer.status, 400, "{target}: {answer:?}");
        assert!(answer.body.contains("The path of this request is not allowed."), "{answer:?}");
        assert!(answer.header("x-request-id").is_some());
    }
    assert!(scene.has_metric(r#"gaia_gateway_refused_total{reason="path"} 5"#).await);
    assert_eq!(scene.get("/nothing", "").await.status, 404);
}

#[tokio::test]
async fn only_what_is_allowed_can_be_done_and_a_service_that_is_not_configured_is_not_there() {
    let scene = Scene::open(&[]).await;
    for (method, target, status) in [
        ("HEAD", "/assets", 200),
        ("POST", "/assets", 405),
        ("PATCH", "/assets/a", 405),
        ("GET", "/chat", 405),
        ("POST", "/chat", 200),
        ("GET", "/auth/login", 405),
        ("GET", "/health", 200),
        ("OPTIONS", "/assets", 405),
    ] {
        assert_eq!(scene.send(method, target, &[AS_KEY], "").await.status, status, "{method} {target}");
    }
}
