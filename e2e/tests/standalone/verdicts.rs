//! Answers to curl, with every credential of a caller, in every mode; and no credential is logged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gaia_api::mount::{ApiKeyRecord, AuthMode, Caller, UserTokenIssuer, UserTokens};
use gaia_api::names::key;
use gaia_api::{Clock as _, SystemClock};
use gaia_e2e::wait::Seen;
use gaia_e2e::{Curl, Standalone, wait};
use gaia_pki::{KeySpec, PrivateKey};
use gaia_runtime::testing::{MountedFiles, Platform, api_key, api_key_file, policy, spiffe_id};
use gaia_stand_ins::gotrue::{GoTrue, GoTrueOptions};
use rstest::rstest;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use AuthMode::{APIKeyOnly, Dual, JWTOnly};

/// asset-service, and the mounted directories of its callers.
struct Shop {
    platform: Platform,
    assets: Standalone,
    gotrue: GoTrue,
    dir: tempfile::TempDir,
}

/// One call: the caller's certificate, the other credential, and the statuses in APIKeyOnly, Dual and JWTOnly.
struct Call {
    what: &'static str,
    peer: Option<&'static str>,
    token: Option<String>,
    key: Option<&'static str>,
    statuses: [u16; 3],
}

#[rstest]
#[case(APIKeyOnly)]
#[case(Dual)]
#[case(JWTOnly)]
#[tokio::test]
async fn every_credential_gets_the_verdict_of_the_mode_and_leaves_no_trace_of_itself(#[case] mode: AuthMode) {
    let shop = Shop::open(mode).await;
    let mut messages: BTreeMap<u16, BTreeSet<String>> = BTreeMap::new();
    let (mut wrong, mut secrets) = (vec![], vec![SHARED.to_owned(), OWNED.to_owned()]);
    for call in shop.calls() {
        let expected = call.statuses[mode as usize];
        secrets.extend(call.token.clone());
        let answer = shop.curl(&call).send().await.unwrap();
        if answer.status != expected {
            wrong.push(format!("{}: {} in place of {expected}, {}", call.what, answer.status, answer.body));
        }
        assert_eq!(answer.status == 401, answer.header("www-authenticate").is_some(), "{}", call.what);
        if answer.status >= 400 {
            messages.entry(answer.status).or_default().insert(answer.body);
        }
    }
    assert!(wrong.is_empty(), "{mode:?}: {wrong:#?}");
    for (status, messages) in &messages {
        // A request with a key gets a message where keys are no longer accepted.
        let told = if (mode, *status) == (JWTOnly, 401) { 2 } else { 1 };
        assert_eq!(messages.len(), told, "{status}: {messages:?}");
    }
    let metrics = shop.assets.metrics().await.unwrap();
    let log = fs::read_to_string(shop.assets.log()).unwrap();
    for secret in &secrets {
        // A token's signature makes it one.
        let secret = secret.rsplit('.').next().filter(|part| part.len() > 16).unwrap_or(secret);
        assert!(!metrics.contains(secret) && !log.contains(secret), "{secret} was written down");
    }
    if mode == Dual {
        for reason in
            ["algorithm_wrong", "kid_unknown", "header_field_refused", "claim_repeated", "peer_differs", "expired"]
        {
            assert!(metrics.contains(&format!(r#"reason="{reason}""#)), "{reason} is not counted");
        }
        assert!(log.contains(r#""reason":"audience_wrong""#), "a refusal of a known caller is on record");
    }
}

#[tokio::test]
async fn a_bad_bundle_or_an_issuer_that_is_away_makes_nobody_unready() {
    let mut shop = Shop::open(Dual).await;
    let good = shop.service_token(&[]);
    let call = |token: &str| Call {
        what: "",
        peer: Some("gateway"),
        token: Some(token.to_owned()),
        key: None,
        statuses: [0; 3],
    };
    shop.curl(&call(&good)).send().await.unwrap().expect(200).unwrap();

    let mut files = shop.files(Dual);
    files.insert(key::CA_CERT, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec());
    files.insert(key::JWKS, br#"{"keys": "none"}"#.to_vec());
    shop.assets.mount.swap(&files);
    let rejected = async || {
        let metrics = shop.assets.metrics().await.unwrap();
        let lines = metrics.lines().filter(|line| line.starts_with("gaia_mount_reloads") && line.contains("refused"));
        lines.into_iter().any(|line| !line.ends_with(" 0"))
    };
    wait::until("the bad files are counted as rejected", SOON, rejected).await.unwrap();
    shop.assets.ready().await.unwrap();
    shop.curl(&call(&good)).send().await.unwrap().expect(200).unwrap();

    // Its keys were fetched; now it is unavailable, and its users are still accepted.
    let user = shop.user_token(&json!({}));
    let Shop { gotrue, assets, dir, platform } = shop;
    drop(gotrue);
    let curl = curl(&assets, dir.path(), Some("web-service")).bearer(&user);
    curl.send().await.unwrap().expect(200).unwrap();
    assets.ready().await.unwrap();
    drop(platform);
}

impl Shop {
    async fn open(mode: AuthMode) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let platform = Platform::with_signing_key(KeySpec::Rsa2048);
        let gotrue = GoTrue::start(GoTrueOptions::default()).await.unwrap();
        for caller in ["gateway", "web-service", "chat-service"] {
            let home = dir.path().join(caller);
            fs::create_dir(&home).unwrap();
            for (file, content) in platform.leaf(caller) {
                fs::write(home.join(file), content).unwrap();
            }
        }
        fs::write(dir.path().join("ca.crt"), platform.bundle()).unwrap();
        let files = files(&platform, &gotrue, mode);
        let assets = Standalone::start("asset-service", &dir.path().join("assets"), &files, &[]).await.unwrap();
        let shop = Self { platform, assets, gotrue, dir };
        let fetched = async || {
            let call = shop.curl(&Call {
                what: "",
                peer: Some("web-service"),
                token: Some(shop.user_token(&json!({}))),
                key: Some(SHARED),
                statuses: [0; 3],
            });
            let answer = call.send().await.unwrap();
            if answer.status == 200 { Seen::Yes(()) } else { Seen::NotYet(answer.status.to_string()) }
        };
        wait::until("the keys of the login server are fetched", SOON, fetched).await.unwrap();
        shop
    }

    fn files(&self, mode: AuthMode) -> MountedFiles {
        files(&self.platform, &self.gotrue, mode)
    }

    fn curl(&self, call: &Call) -> Curl {
        let mut curl = curl(&self.assets, self.dir.path(), call.peer);
        if let Some(token) = &call.token {
            curl = curl.bearer(token);
        }
        if let Some(key) = call.key {
            curl = curl.api_key(key);
        }
        curl
    }

    /// All credentials of a caller.
    fn calls(&self) -> Vec<Call> {
        let gateway = Some("gateway");
        let call = |what, peer, token, key, statuses| Call { what, peer, token, key, statuses };
        let bad = |what, token| call(what, gateway, Some(token), None, [401; 3]);
        let good = self.service_token(&[]);
        let now = now();
        let public = PrivateKey::from_pem(&self.platform.signing_key()).unwrap().public_key();
        let with_header = |name: &str, value: Value| self.forge(&merged(self.header(), name, value), &claims(&[]));
        vec![
            call("no credential", gateway, None, None, [401; 3]),
            call("no credential and no certificate", None, None, None, [401; 3]),
            call("a shared key", None, None, Some(SHARED), [200, 200, 401]),
            call("an owned key", gateway, None, Some(OWNED), [200, 200, 401]),
            call("an unknown key", gateway, None, Some("gk_test_unknown"), [401; 3]),
            call("a shared key and a good token", gateway, Some(good.clone()), Some(SHARED), [200; 3]),
            call("a good key and a bad token", gateway, Some(format!("{good}x")), Some(SHARED), [200, 401, 401]),
            call("a service token", gateway, Some(good.clone()), None, [401, 200, 200]),
            call("a service token without a peer", None, Some(good.clone()), None, [401; 3]),
            call("a service token of another peer", Some("web-service"), Some(good.clone()), None, [401; 3]),
            call(
                "a service token by an undeclared caller",
                Some("chat-service"),
                Some(self.token_of("chat-service", &[])),
                None,
                [401, 200, 403],
            ),
            call(
                "delegated by who may",
                Some("web-service"),
                Some(self.delegated("web-service")),
                None,
                [401, 200, 200],
            ),
            call("delegated by who may not", gateway, Some(self.delegated("gateway")), None, [401, 403, 403]),
            call("a user token", Some("web-service"), Some(self.user_token(&json!({}))), None, [401, 200, 200]),
            call(
                "a user token carried by who may not",
                gateway,
                Some(self.user_token(&json!({}))),
                None,
                [401, 403, 403],
            ),
            call("a user token without a peer", None, Some(self.user_token(&json!({}))), None, [401, 200, 200]),
            bad("a user called gateway", self.user_token(&json!({ "sub": "gateway" }))),
            bad("the project's anon key", self.gotrue.anon_key().to_owned()),
            bad("the project's service_role key", self.gotrue.service_role_key().to_owned()),
            bad("another project", self.user_token(&json!({ "iss": "https://other.example/auth/v1" }))),
            bad("alg none", unsigned(&json!({ "alg": "none", "kid": self.kid(), "typ": "at+jwt" }), &claims(&[]))),
            bad("a signature cut off", good.rsplit_once('.').unwrap().0.to_owned() + "."),
            bad("HS256 with the public key", hs256(&self.kid(), public.to_pem().as_bytes())),
            bad("a kid that is a path", with_header("kid", json!("../../../../etc/passwd"))),
            bad("a kid that is SQL", with_header("kid", json!("' OR 1=1 --"))),
            bad("a jku", with_header("jku", json!("https://attacker.example/jwks.json"))),
            bad("an x5u", with_header("x5u", json!("https://attacker.example/x.pem"))),
            bad("expired", self.service_token(&[("iat", json!(now - 400)), ("exp", json!(now - 75))])),
            bad("from the future", self.service_token(&[("iat", json!(now + 90)), ("exp", json!(now + 300))])),
            bad("for somebody else", self.service_token(&[("aud", json!(spiffe_id("chat-service")))])),
            bad(
                "claims twice",
                self.forge_text(&claims(&[]).replacen('{', r#"{"sub": "spiffe://gaia.local/ns/shop/sa/admin","#, 1)),
            ),
            call(
                "a clock 45 s behind",
                gateway,
                Some(self.service_token(&[("iat", json!(now + 45))])),
                None,
                [401, 200, 200],
            ),
            call(
                "a clock 45 s ahead",
                gateway,
                Some(self.service_token(&[("exp", json!(now - 45)), ("iat", json!(now - 300))])),
                None,
                [401, 200, 200],
            ),
            call(
                "9 KiB of token",
                gateway,
                Some("a".repeat(3000) + "." + &"b".repeat(3200) + "." + &"c".repeat(3000)),
                None,
                [401, 400, 400],
            ),
            call("no token at all", gateway, Some("a.b.c.d".to_owned()), None, [401, 400, 400]),
        ]
    }

    fn kid(&self) -> String {
        let jwks: Value = serde_json::from_str(&self.platform.jwks()).unwrap();
        jwks["keys"][0]["kid"].as_str().unwrap().to_owned()
    }

    fn header(&self) -> Value {
        json!({ "alg": "RS256", "kid": self.kid(), "typ": "at+jwt" })
    }

    fn service_token(&self, changes: &[(&str, Value)]) -> String {
        self.token_of("gateway", changes)
    }

    fn token_of(&self, caller: &str, changes: &[(&str, Value)]) -> String {
        let id = json!(spiffe_id(caller));
        let own = [("sub", id.clone()), ("client_id", id), ("service", json!(caller))];
        self.forge_text(&claims(&[&own, changes].concat()))
    }

    fn delegated(&self, caller: &str) -> String {
        let act = json!({ "sub": spiffe_id(caller) });
        let exp = json!(now() + 200);
        self.token_of(caller, &[("act", act), ("sub", json!("key:mobile")), ("exp", exp)])
    }

    fn user_token(&self, changes: &Value) -> String {
        let mut claims = json!({
            "iss": self.gotrue.base_url(), "aud": "authenticated", "sub": "7b0d5a9e-3f0c-4f8e-9a57-2f2f6f0c1d11",
            "role": "authenticated", "session_id": "0d6a4a5c-2f7b-4d0a-9a38-5f0f3b2f9c11", "is_anonymous": false,
            "iat": now(), "exp": now() + 600,
        });
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        self.gotrue.sign(&claims).unwrap()
    }

    fn forge_text(&self, claims: &str) -> String {
        self.forge(&self.header(), claims)
    }

    /// A valid signature by the platform's key, over any claims.
    fn forge(&self, header: &Value, claims: &str) -> String {
        let pem = self.platform.signing_key();
        let PrivateKeyDer::Pkcs8(der) = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap() else {
            panic!("PKCS#8")
        };
        let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
        let signed = format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.as_bytes()));
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
        format!("{signed}.{}", base64(&signature))
    }
}

/// asset-service's files: gateway is a caller, web-service one with onBehalfOf, and two keys are accepted.
fn files(platform: &Platform, gotrue: &GoTrue, mode: AuthMode) -> MountedFiles {
    let mut policy = policy("asset-service");
    policy.mode = mode;
    let caller = |name: &str, on_behalf_of| Caller { spiffe_id: spiffe_id(name), scopes: vec![], on_behalf_of };
    policy.callers = vec![caller("gateway", false), caller("web-service", true)];
    let issuer: UserTokenIssuer = serde_json::from_value(gotrue.issuer_entry("supabase")).unwrap();
    policy.user_tokens = UserTokens { issuers: vec![issuer], scopes: vec![] };
    let shared = ApiKeyRecord { principal: "everyone".to_owned(), shared: true, ..api_key("shared", SHARED) };
    let owned = ApiKeyRecord { principal: spiffe_id("gateway").to_string(), ..api_key("owned", OWNED) };
    let mut files = platform.mount("asset-service");
    files.insert(key::POLICY, serde_json::to_vec(&policy).unwrap());
    files.insert(key::API_KEYS, api_key_file(vec![shared, owned]));
    files
}

fn curl(assets: &Standalone, dir: &Path, peer: Option<&str>) -> Curl {
    let curl = Curl::to(&format!("https://localhost:{}/assets", assets.mesh.port()), dir);
    let home = |peer: &str| -> PathBuf { dir.join(peer) };
    match peer {
        Some(peer) => curl.as_peer(&home(peer)),
        None => curl,
    }
}

/// The claims of a valid token with changes. Later ones replace earlier ones.
fn claims(changes: &[(&str, Value)]) -> String {
    let id = spiffe_id("gateway");
    let mut claims = json!({
        "iss": "gaia-platform", "sub": id, "client_id": id, "service": "gateway", "aud": spiffe_id("asset-service"),
        "jti": "verdicts", "iat": now(), "exp": now() + 300,
    });
    for (name, value) in changes {
        claims[name] = value.clone();
    }
    claims.to_string()
}

fn unsigned(header: &Value, claims: &str) -> String {
    format!("{}.{}.", base64(header.to_string().as_bytes()), base64(claims.as_bytes()))
}

/// A token for libraries that let the header choose the algorithm: the public key is known to every client.
fn hs256(kid: &str, public: &[u8]) -> String {
    let header = json!({ "alg": "HS256", "kid": kid, "typ": "at+jwt" });
    let unsigned = unsigned(&header, &claims(&[]));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, public), unsigned.trim_end_matches('.').as_bytes());
    unsigned + &base64(tag.as_ref())
}

fn merged(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object
}

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn now() -> i64 {
    SystemClock.now().as_second()
}

const SHARED: &str = "gk_test_shared_0123456789abcdef0123456789";
const OWNED: &str = "gk_test_owned_abcdef0123456789abcdef012345";
const SOON: Duration = Duration::from_secs(60);
