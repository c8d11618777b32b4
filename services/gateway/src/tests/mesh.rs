//! The mesh listener: services call through the gateway for themselves and for the clients that they carry.

use axum::body::Bytes;
use gaia_runtime::MeshClient;
use gaia_runtime::testing::read;
use http::{Method, Request};

use super::*;

impl Scene {
    fn service(&self, name: &str) -> MeshClient {
        self.platform.client(Some(&self.platform.leaf(name)))
    }

    /// A token of `service` for the gateway, which the stand-in of auth-service exchanges.
    fn token_of(&self, service: &str) -> String {
        let token = self.platform.service_token(service, "gateway", None);
        self.behind.of_services.lock().unwrap().insert(token.clone(), spiffe_id(service).to_string());
        token
    }

    async fn on_mesh(
        &self,
        client: &MeshClient,
        (method, path): (Method, &str),
        headers: &[(&str, &str)],
    ) -> (StatusCode, String) {
        let mut request = Request::builder().method(method).uri(format!("https://{}{path}", self.mesh));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (status, body) = read(client.request(request.body(Bytes::new().into()).unwrap()).await.unwrap()).await;
        (status, String::from_utf8(body).unwrap())
    }
}

const LIST: (Method, &str) = (Method::GET, "/assets");

#[tokio::test]
async fn a_service_calls_through_the_mesh_in_its_own_name() {
    let scene = Scene::open(&[]).await;
    let batch = scene.service("batch");
    let bearer = format!("Bearer {}", scene.token_of("batch"));
    for _ in 0..3 {
        let (status, body) = scene.on_mesh(&batch, LIST, &[("authorization", &bearer)]).await;
        assert_eq!((status, body), (StatusCode::OK, format!("{} GET 0", spiffe_id("batch"))));
    }
    assert_eq!(scene.behind.exchanged.load(Ordering::Relaxed), 1);
    let other = scene.service("web-service");
    let (status, _) = scene.on_mesh(&other, LIST, &[("authorization", &bearer)]).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "the token is bound to the peer");
    let edge = scene.get("/assets", &format!("Authorization: {bearer}")).await;
    assert_eq!(edge.status, 401);
    assert!(edge.body.contains("mesh listener"), "{edge:?}");
}

#[tokio::test]
async fn a_carrier_brings_users_and_keys_and_another_service_brings_neither() {
    let scene = Scene::open(&[]).await;
    let (web, batch) = (scene.service("web-service"), scene.service("batch"));
    let user = scene.as_user();
    let user = ("authorization", user.strip_prefix("Authorization: ").unwrap());
    let client = ("x-forwarded-for", "6.6.6.6, 203.0.113.7");
    let (status, body) = scene.on_mesh(&web, LIST, &[user, client]).await;
    assert_eq!((status, body), (StatusCode::OK, format!("user:supabase:{USER} GET 0")));
    assert_eq!(*scene.behind.clients.lock().unwrap().last().unwrap(), "203.0.113.7");
    let (status, body) = scene.on_mesh(&web, LIST, &[("x-api-key", KEY), client]).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "key:mobile GET 0"));
    for credential in [user, ("x-api-key", KEY)] {
        let (status, _) = scene.on_mesh(&batch, LIST, &[credential, client]).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{}", credential.0);
    }
    let seen = scene.seen();
    assert!(seen.iter().all(|seen| !seen.headers.contains_key("x-forwarded-for")));
}

#[tokio::test]
async fn clients_of_a_carrier_are_told_apart_by_the_addresses_that_it_names() {
    let scene = Scene::open(&["--ip-rate", "1:3", "--account-rate", "0"]).await;
    let (web, batch) = (scene.service("web-service"), scene.service("batch"));
    let from = async |service: &MeshClient, address: &str| {
        let headers = [("x-api-key", KEY), ("x-forwarded-for", address)];
        scene.on_mesh(service, LIST, &headers).await.0
    };
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(from(&web, "203.0.113.9").await);
    }
    assert!(statuses.contains(&StatusCode::OK) && statuses.contains(&StatusCode::TOO_MANY_REQUESTS), "{statuses:?}");
    assert_eq!(from(&web, "203.0.113.10").await, StatusCode::OK);
    for _ in 0..5 {
        let (status, _) = scene.on_mesh(&web, LIST, &[("x-api-key", KEY)]).await;
        assert_eq!(status, StatusCode::OK, "the carrier's own address stands for no client");
    }
    let mut statuses = Vec::new();
    for number in 0..8 {
        statuses.push(from(&batch, &format!("203.0.113.{number}")).await);
    }
    assert!(statuses.contains(&StatusCode::TOO_MANY_REQUESTS), "no other service names clients: {statuses:?}");
}

#[tokio::test]
async fn signing_in_on_the_mesh_names_the_client_of_the_carrier() {
    let scene = Scene::open(&[]).await;
    let web = scene.service("web-service");
    let known = ("x-gaia-known-client", "session-1");
    let headers = [("x-forwarded-for", "203.0.113.7"), ("x-gaia-client-ip", "6.6.6.6"), known];
    let (status, _) = scene.on_mesh(&web, (Method::POST, "/auth/login"), &headers).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let seen = scene.seen();
    assert_eq!(seen[0].headers["x-gaia-client-ip"], "203.0.113.7");
    assert_eq!(seen[0].headers["x-gaia-known-client"], "session-1");
    assert_eq!(seen[0].subject, spiffe_id("gateway").to_string(), "in the gateway's own name");
    scene.on_mesh(&scene.service("batch"), (Method::POST, "/auth/login"), &[known]).await;
    scene.send("POST", "/auth/login", &["X-Gaia-Known-Client: session-1"], "").await;
    let seen = scene.seen();
    assert_eq!(seen.len(), 2);
    assert!(
        seen.iter().all(|seen| !seen.headers.contains_key("x-gaia-known-client")),
        "only a carrier may name clients"
    );
}

#[tokio::test]
async fn nothing_internal_is_reached_through_the_mesh() {
    let scene = Scene::open(&["--ip-rate", "0"]).await;
    let batch = scene.service("batch");
    let bearer = format!("Bearer {}", scene.token_of("batch"));
    for path in [
        "/internal/service-token",
        "/internal/token-exchange",
        "/assets/%2e%2e/internal/service-token",
        "/metrics",
        "/.well-known/gaia/identity",
    ] {
        for method in [Method::GET, Method::POST] {
            let (status, _) = scene.on_mesh(&batch, (method, path), &[("authorization", &bearer)]).await;
            assert!([400, 404].contains(&status.as_u16()), "{path}: {status}");
        }
    }
    assert_eq!(scene.seen().len(), 0);
    assert_eq!(scene.on_mesh(&batch, (Method::GET, "/health"), &[]).await.0, StatusCode::OK);
}
