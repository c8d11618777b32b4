//! Token exchange and introspection over real mTLS, with users of an issuer whose keys are fetched over HTTP.

use std::collections::BTreeMap;

use axum::routing::get;
use futures::{StreamExt as _, stream};
use gaia_api::mount::{Policy, UserTokenIssuer, UserTokenProfile, UserTokenVerification, UserTokens};
use gaia_auth::testing::Issuer;
use gaia_runtime::testing::{api_keys, policy};

use super::*;

pub(super) const USER: &str = "3fa85f64-5717-4562-b3fc-2c963f66afa6";

pub(super) struct World {
    pub(super) service: Service,
    users: Issuer,
    issuer: UserTokenIssuer,
}

/// An auth-service with a user-token issuer and one API key, on which `gateway` may use both routes.
pub(super) async fn world() -> World {
    let platform = Platform::new();
    let tokens = policy("auth-service").tokens;
    let users = Issuer::new(tokens);
    let (jwks, listener) = (users.jwks(), tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
    let issuer = issuer(&format!("http://{}", listener.local_addr().unwrap()));
    let app = axum::Router::new().route("/jwks", get(move || std::future::ready(jwks.clone())));
    tokio::spawn(async move { axum::serve(listener, app).await });

    let mut files = platform.mount("auth-service");
    let user_tokens = UserTokens { issuers: vec![issuer.clone()], scopes: vec![] };
    let policy = Policy { user_tokens, ..policy("auth-service") };
    files.insert(key::POLICY, serde_json::to_vec(&policy).unwrap());
    files.insert(key::API_KEYS, api_keys(&[("mobile", "secret-of-mobile", &["assets:read"])]));
    files.insert(key::JWT_SIGNING_KEY, platform.signing_key().into_bytes());
    let services = ["auth-service", "gateway", "asset-service", "chat-service", "web-service"];
    let pairs: [(&str, &str, &[&str]); 3] = [
        ("gateway", "asset-service", &["assets:read", "assets:write"]),
        ("gateway", "auth-service", &[]),
        ("web-service", "asset-service", &[]),
    ];
    files.insert(key::GRANTS, grants(&services, &pairs));
    World { service: start_with(platform, files).await, users, issuer }
}

fn issuer(url: &str) -> UserTokenIssuer {
    UserTokenIssuer {
        name: "supabase".to_owned(),
        issuer: format!("{url}/auth/v1"),
        profile: UserTokenProfile::Supabase,
        verification: UserTokenVerification::JWKS,
        jwks_url: Some(format!("{url}/jwks")),
        audiences: vec![],
        algorithms: vec![],
        required_claims: BTreeMap::new(),
        client_ids: vec![],
        ca_bundle: None,
        max_ttl_seconds: None,
    }
}

impl World {
    pub(super) fn client(&self, name: &str) -> MeshClient {
        self.service.platform.client(Some(&self.service.platform.leaf(name)))
    }

    pub(super) fn user_token(&self) -> String {
        self.users.user_token(&self.issuer, USER, SystemClock.now())
    }

    async fn form(&self, client: &MeshClient, path: &str, pairs: &[(&str, &str)], bearer: &str) -> (StatusCode, Value) {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        let mut request = Request::post(format!("{}{path}", self.service.url))
            .header("content-type", "application/x-www-form-urlencoded")
            .header("x-request-id", REQUEST_ID);
        if !bearer.is_empty() {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        let response = client.request(request.body(Body::from(body)).unwrap()).await.unwrap();
        assert_eq!(response.headers()["cache-control"], "no-store");
        let (status, body) = read(response).await;
        (status, serde_json::from_slice(&body).unwrap())
    }

    pub(super) async fn exchange(
        &self,
        client: &MeshClient,
        kind: &str,
        subject: &str,
        audience: &str,
    ) -> (StatusCode, Value) {
        let pairs = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", subject),
            ("subject_token_type", kind),
            ("audience", audience),
        ];
        self.form(client, "internal/token-exchange", &pairs, "").await
    }

    fn verify(&self, token: &str, at: &str, from: &str) -> Result<gaia_auth::tokens::ServiceToken, Reason> {
        let (keys, denied) = (KeySet::parse(self.service.platform.jwks().as_bytes()).unwrap(), Denied::default());
        let own = spiffe_id(at);
        let rules = TokenRules {
            keys: &keys,
            issuer: "gaia-platform",
            own: &own,
            broad_audience: None,
            max_ttl_seconds: 3600,
            denied: &denied,
        };
        let peer = PeerIdentity {
            spiffe_id: spiffe_id(from),
            fingerprint: String::new(),
            serial: "".into(),
            not_after: SystemClock.now() + jiff::SignedDuration::from_hours(1),
        };
        rules.verify(token, Some(&peer), SystemClock.now()).map_err(|refusal| refusal.reason)
    }
}

pub(super) const REQUEST_ID: &str = "r-1";
pub(super) const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
pub(super) const API_KEY: &str = "urn:gaia:params:oauth:token-type:api-key";

#[tokio::test]
async fn a_user_is_carried_one_hop_and_then_another_and_no_further_than_was_granted() {
    let world = world().await;
    let gateway = world.client("gateway");
    let (status, answer) = world.exchange(&gateway, JWT, &world.user_token(), "asset-service").await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!((&answer["issued_token_type"], &answer["token_type"]), (&JWT.into(), &"Bearer".into()));
    assert_eq!((&answer["expires_in"], &answer["scope"]), (&300.into(), &"assets:read assets:write".into()));
    let token = answer["access_token"].as_str().unwrap();
    let subject = format!("user:supabase:{USER}");
    let accepted = world.verify(token, "asset-service", "gateway").unwrap();
    assert_eq!(accepted.on_behalf_of.unwrap().to_string(), subject);
    assert_eq!(world.verify(token, "asset-service", "web-service"), Err(Reason::PeerDiffers));
    assert_eq!(world.verify(token, "chat-service", "gateway"), Err(Reason::AudienceWrong));

    // The target has no grant to exchange it further, and a service that is not its audience cannot exchange it.
    let onwards = world.client("asset-service");
    let (status, answer) = world.exchange(&onwards, JWT, token, "chat-service").await;
    assert_eq!((status, &answer["error"]), (StatusCode::FORBIDDEN, &"invalid_target".into()));
    let (status, answer) = world.exchange(&gateway, JWT, token, "asset-service").await;
    assert_eq!((status, &answer["error"]), (StatusCode::BAD_REQUEST, &"invalid_request".into()));

    let metrics = get_plain(&format!("{}/metrics", world.service.admin)).await.1;
    assert!(metrics.contains(r#"gaia_token_issued_total{kind="delegated",result="issued",reason=""} 1"#), "{metrics}");
    assert!(metrics.contains(r#"reason="audience_wrong"} 1"#), "{metrics}");
}

#[tokio::test]
async fn a_key_is_exchanged_for_a_token_about_the_key_within_its_scopes() {
    let world = world().await;
    let gateway = world.client("gateway");
    let (status, answer) = world.exchange(&gateway, API_KEY, "secret-of-mobile", "asset-service").await;
    assert_eq!((status, &answer["scope"]), (StatusCode::OK, &"assets:read".into()), "{answer}");
    let accepted = world.verify(answer["access_token"].as_str().unwrap(), "asset-service", "gateway").unwrap();
    assert_eq!(accepted.on_behalf_of.unwrap().to_string(), "key:mobile");
    let metrics = get_plain(&format!("{}/metrics", world.service.admin)).await.1;
    assert!(metrics.contains(r#"gaia_auth_legacy_last_used_timestamp_seconds{key_id="mobile"}"#), "{metrics}");
}

#[tokio::test]
async fn everything_else_is_not_exchanged_and_told_in_words_an_oauth_client_knows() {
    let world = world().await;
    let (gateway, web) = (world.client("gateway"), world.client("web-service"));
    let user = world.user_token();
    let service = Issuer::new(policy("auth-service").tokens);
    let own = service.service_token(&spiffe_id("gateway"), &spiffe_id("gateway"), &[], SystemClock.now());
    for (client, kind, subject, target, status, error) in [
        (&gateway, JWT, user.as_str(), "chat-service", StatusCode::FORBIDDEN, "invalid_target"),
        (&gateway, JWT, &user, "nobody", StatusCode::FORBIDDEN, "invalid_target"),
        (&web, JWT, &user, "asset-service", StatusCode::FORBIDDEN, "unauthorized_client"),
        (&gateway, JWT, "a.b.c", "asset-service", StatusCode::BAD_REQUEST, "invalid_request"),
        (&gateway, JWT, &own, "asset-service", StatusCode::BAD_REQUEST, "invalid_request"),
        (&gateway, API_KEY, "no-such-key", "asset-service", StatusCode::BAD_REQUEST, "invalid_request"),
        (&gateway, "urn:x", &user, "asset-service", StatusCode::BAD_REQUEST, "invalid_request"),
    ] {
        let (answered, answer) = world.exchange(client, kind, subject, target).await;
        assert_eq!((answered, &answer["error"]), (status, &error.into()), "{kind} {target}");
        assert_eq!(answer["status"], status.as_u16());
        assert!(!answer.to_string().contains(subject), "{answer}");
    }
    let (status, _) = world.exchange(&world.service.platform.client(None), JWT, &user, "asset-service").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_service_may_ask_what_a_token_says_that_was_meant_for_it() {
    let world = world().await;
    let gateway = world.client("gateway");
    let wanted =
        TokenRequest { service_name: "gateway", target_service: Some("auth-service"), scope: None, expires_in: None };
    let own = gateway.service_token(&world.service.url, &wanted).await.unwrap().access_token;
    let ask = async |token: &str| world.form(&gateway, "internal/validate", &[("token", token)], &own).await;

    let (status, answer) = ask(&world.user_token()).await;
    assert_eq!((status, &answer["active"]), (StatusCode::OK, &true.into()), "{answer}");
    assert_eq!(answer["sub"], format!("user:supabase:{USER}"));
    assert_eq!(answer["iss"], world.issuer.issuer);

    let issuer = world.service.platform.signer();
    let claims = gaia_auth::issue::ServiceClaims {
        iss: "gaia-platform".into(),
        sub: spiffe_id("web-service").to_string(),
        client_id: spiffe_id("web-service").to_string(),
        service: "web-service".into(),
        aud: spiffe_id("gateway").to_string(),
        jti: "j".into(),
        iat: SystemClock.now().as_second(),
        exp: SystemClock.now().as_second() + 60,
        scope: Some("a b".into()),
    };
    let (_, answer) = ask(&issuer.sign(&claims).unwrap()).await;
    let expected = json!({
        "active": true, "token_type": "Bearer", "iss": "gaia-platform", "sub": claims.sub, "client_id": claims.client_id,
        "aud": claims.aud, "jti": "j", "iat": claims.iat, "exp": claims.exp, "scope": "a b",
    });
    assert_eq!(answer, expected);
    let elsewhere = gaia_auth::issue::ServiceClaims { aud: spiffe_id("asset-service").to_string(), ..claims };
    for token in [issuer.sign(&elsewhere).unwrap().as_str(), "a.b.c", "secret-of-mobile", ""] {
        assert_eq!(ask(token).await, (StatusCode::OK, json!({ "active": false })), "{token}");
    }
}

#[tokio::test]
async fn whoever_may_not_validate_is_not_told() {
    let world = world().await;
    let gateway = world.client("gateway");
    let (status, _) = world.form(&gateway, "internal/validate", &[("token", "a.b.c")], "").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    // The key has only the scope for assets.
    let (status, _) = world.form(&gateway, "internal/validate", &[("token", "a.b.c")], "secret-of-mobile").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn who_asks_for_too_many_tokens_is_told_when_to_come_again_and_others_are_served() {
    let world = world().await;
    let gateway = world.client("gateway");
    let request = json!({ "service_name": "gateway" });
    let mut answers = stream::iter(0..2000).map(|_| world.service.post(&gateway, &request)).buffer_unordered(UNDER_WAY);
    let mut served = 0;
    let (status, _, headers) = loop {
        match answers.next().await {
            Some((StatusCode::OK, _, _)) => served += 1,
            Some(refused) => break refused,
            None => panic!("2000 at once are more than a burst of 100 and 20 a second"),
        }
    };
    assert_eq!((status, &headers["retry-after"]), (StatusCode::TOO_MANY_REQUESTS, &"1".parse().unwrap()));
    assert!(served >= 100 - UNDER_WAY, "{served} were served before");
    let web = json!({ "service_name": "web-service" });
    assert_eq!(world.service.post(&world.client("web-service"), &web).await.0, StatusCode::OK);
}

const UNDER_WAY: usize = 16;
