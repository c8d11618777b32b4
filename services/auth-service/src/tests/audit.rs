//! Audit lines of the token routes and the login.

use std::collections::BTreeSet;

use gaia_runtime::testing::AuditLines;

use super::exchange::{JWT, REQUEST_ID, World, world};
use super::*;

impl World {
    async fn login(&self, path: &str, token: &str, body: &Value) {
        let request = Request::post(format!("{}auth/{path}", self.service.url)).header("x-request-id", REQUEST_ID);
        let request =
            request.header("x-gaia-client-ip", "203.0.113.9").header("authorization", format!("Bearer {token}"));
        let request = request.body(Body::from(body.to_string())).unwrap();
        self.client("gateway").request(request).await.unwrap();
    }
}

/// Kind: an event that does not say where it came from, or for which request.
#[tokio::test]
async fn every_audit_line_has_an_address_and_a_request_id() {
    let world = world().await;
    let gateway = world.client("gateway");
    let lines = AuditLines::record();
    let user = world.user_token();
    assert_eq!(world.exchange(&gateway, JWT, &user, "asset-service").await.0, StatusCode::OK);
    for _ in 0..2 {
        assert_eq!(world.exchange(&gateway, JWT, "a.b.c", "asset-service").await.0, StatusCode::BAD_REQUEST);
        let refused = json!({ "service_name": "web-service" });
        assert_eq!(world.service.post(&gateway, &refused).await.0, StatusCode::FORBIDDEN);
    }
    let wanted = json!({ "service_name": "gateway", "target_service": "auth-service" });
    let (status, answer, _) = world.service.post(&gateway, &wanted).await;
    assert_eq!(status, StatusCode::OK);
    let token = answer["access_token"].as_str().unwrap();
    for path in ["login", "refresh", "logout"] {
        world.login(path, token, &json!({ "refresh_token": "r" })).await;
    }
    let lines = lines.written();
    let direct: Vec<&Value> = lines.iter().filter(|line| line["event"] != "request").collect();
    for line in &direct {
        assert!(["127.0.0.1", "203.0.113.9"].map(Value::from).contains(&line["address"]), "{line}");
        assert_eq!(line["request_id"], REQUEST_ID, "{line}");
    }
    let seen: BTreeSet<(&str, &str)> = direct
        .iter()
        .filter_map(|line| Some((line["event"].as_str()?, line["route"].as_str().or(line["action"].as_str())?)))
        .collect();
    let expected = [
        ("login", "logout"),
        ("login", "refresh"),
        ("login", "unknown"),
        ("token_issued", "/internal/service-token"),
        ("token_issued", "/internal/token-exchange"),
        ("token_refused", "/internal/service-token"),
        ("token_refused", "/internal/token-exchange"),
    ];
    assert_eq!(seen, BTreeSet::from(expected), "{direct:#?}");
}
