//! Checks that Python and Rust refuse the same requests with the same answers.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gaia_api::{Clock as _, SystemClock};
use gaia_e2e::Curl;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

use super::{API_KEY, ASSETS, OWNED_KEY, REPORTS, Shop, WEB};

/// The answer of one service: the status, the challenge, the public message.
#[derive(Debug, PartialEq, Eq)]
struct Verdict(u16, Option<String>, String);

/// The answers of both services to the same request, each with a token issued for it.
pub(super) struct Judges<'a> {
    shop: &'a Shop,
    kid: String,
    key: EncodingKey,
}

impl<'a> Judges<'a> {
    pub(super) async fn of(shop: &'a Shop) -> Self {
        let signer = format!("{}-token-signer", shop.scene.domain);
        let key = shop.scene.secret_text(&signer, "jwt-signing.key").await;
        Self {
            shop,
            kid: shop.scene.secret_text(&signer, "kid").await,
            key: EncodingKey::from_ec_pem(key.as_bytes()).unwrap(),
        }
    }

    /// The claims of a valid token of web for a service.
    fn claims(&self, audience: &str) -> Value {
        let now = SystemClock.now().as_second();
        json!({
            "iss": "gaia-platform", "sub": self.shop.id(WEB), "client_id": self.shop.id(WEB), "service": WEB,
            "aud": self.shop.id(audience), "jti": "made-by-a-test", "iat": now, "exp": now + 600,
        })
    }

    fn signed(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &self.key, Algorithm::ES256).unwrap();
        format!("{signed}.{signature}")
    }

    fn header(&self) -> Value {
        json!({ "alg": "ES256", "kid": self.kid, "typ": "at+jwt" })
    }

    /// A token with a valid signature over changed claims.
    pub(super) fn token(&self, audience: &str, change: impl Fn(&mut Value, &mut Value)) -> String {
        let (mut header, mut claims) = (self.header(), self.claims(audience));
        change(&mut header, &mut claims);
        self.signed(&header.to_string(), &claims.to_string())
    }

    /// Sends it to both; their answers must be the same.
    async fn agree(&self, what: &str, request: impl Fn(&str, Curl) -> Curl) -> Verdict {
        let (assets, reports) = (&self.shop.assets, &self.shop.reports);
        let web = self.shop.web.dir();
        let ask = async |audience: &str, call: Curl| {
            let answer = request(audience, call).send().await.unwrap();
            let message = match answer.status {
                200 => String::new(),
                _ => serde_json::from_str::<Value>(&answer.body).unwrap()["detail"].to_string(),
            };
            Verdict(answer.status, answer.header("www-authenticate").map(str::to_owned), message)
        };
        let ours = ask(ASSETS, Curl::new(assets, "/assets", web)).await;
        let python = ask(REPORTS, Curl::new(reports, "/whoami", web)).await;
        assert_eq!(python, ours, "{what}");
        python
    }
}

#[tokio::test]
async fn python_and_rust_refuse_the_same_tokens_in_the_same_words() {
    let Some(shop) = Shop::open(json!({})).await else { return };
    let judges = Judges::of(&shop).await;
    let web = shop.web.dir();
    let good =
        judges.agree("a good token", |audience, call| call.as_peer(web).bearer(&judges.token(audience, |_, _| {})));
    assert_eq!(good.await.0, 200);
    type Change = fn(&mut Value, &mut Value);
    let table: &[(&str, u16, Change)] = &[
        ("no signature is asked for", 401, |header, _| header["alg"] = json!("none")),
        ("the other algorithm", 401, |header, _| header["alg"] = json!("RS256")),
        ("an unknown key", 401, |header, _| header["kid"] = json!("../../dev/null")),
        ("no key", 401, |header, _| drop(header.as_object_mut().unwrap().remove("kid"))),
        ("a key fetched from elsewhere", 401, |header, _| header["jku"] = json!("https://evil.example/jwks")),
        ("an extension", 401, |header, _| header["crit"] = json!(["exp"])),
        ("another type", 401, |header, _| header["typ"] = json!("JWT")),
        ("a nested token", 401, |header, _| header["cty"] = json!("JWT")),
        ("another issuer", 401, |_, claims| claims["iss"] = json!("evil")),
        ("an issuer that is a list", 401, |_, claims| claims["iss"] = json!(["gaia-platform"])),
        ("another audience", 401, |_, claims| claims["aud"] = json!("spiffe://x/ns/x/sa/x")),
        ("a list of audiences", 401, |_, claims| claims["aud"] = json!([claims["aud"]])),
        ("the broad audience with a scope", 401, |_, claims| {
            claims["aud"] = json!("gaia-services");
            claims["scope"] = json!("assets:read");
        }),
        ("the broad audience of the dual phases", 200, |_, claims| claims["aud"] = json!("gaia-services")),
        ("another subject", 401, |_, claims| claims["sub"] = json!("gateway")),
        ("no client", 401, |_, claims| drop(claims.as_object_mut().unwrap().remove("client_id"))),
        ("somebody else's token", 401, |_, claims| {
            let other = claims["sub"].as_str().unwrap().replace("/sa/web", "/sa/auth-service");
            claims["sub"] = json!(other);
            claims["client_id"] = json!(other);
        }),
        ("no id", 401, |_, claims| drop(claims.as_object_mut().unwrap().remove("jti"))),
        ("no end", 401, |_, claims| drop(claims.as_object_mut().unwrap().remove("exp"))),
        ("an end that is a text", 401, |_, claims| claims["exp"] = json!("9999999999")),
        ("an end that is a fraction", 401, |_, claims| claims["exp"] = json!(claims["exp"].as_f64().unwrap() + 0.5)),
        ("too long a life", 401, |_, claims| claims["exp"] = json!(claims["iat"].as_i64().unwrap() + 90_000)),
        ("an end before the beginning", 401, |_, claims| claims["exp"] = json!(claims["iat"].as_i64().unwrap() - 1)),
        ("it ended 90 s ago", 401, |_, claims| shift(claims, -690)),
        ("it ended 30 s ago, which clocks may differ by", 200, |_, claims| shift(claims, -630)),
        ("it begins in 90 s", 401, |_, claims| shift(claims, 90)),
        ("it begins in 30 s, which clocks may differ by", 200, |_, claims| shift(claims, 30)),
        ("it is not to be used yet", 401, |_, claims| claims["nbf"] = json!(claims["iat"].as_i64().unwrap() + 90)),
        ("bound to another certificate", 401, |_, claims| {
            claims["cnf"] = json!({ "x5t#S256": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" });
        }),
        ("a scope that the route does not ask for", 200, |_, claims| claims["scope"] = json!("assets:read")),
        ("scopes that are none", 401, |_, claims| claims["scope"] = json!("assets:read  ")),
        ("a scope in quotes", 401, |_, claims| claims["scope"] = json!("\"assets:read\"")),
        ("for a user, by a caller that may not", 403, |_, claims| delegate(claims, "user:supabase:3fa8")),
        ("for a workload", 401, |_, claims| delegate(claims, "spiffe://x/ns/x/sa/x")),
        ("an actor with an actor", 401, |_, claims| {
            delegate(claims, "user:supabase:3fa8");
            claims["act"]["act"] = json!({ "sub": "x" });
        }),
    ];
    for (what, status, change) in table {
        let verdict = judges.agree(what, |audience, call| call.as_peer(web).bearer(&judges.token(audience, change)));
        assert_eq!(verdict.await.0, *status, "{what}");
    }
    shop.scene.end().await;
}

fn shift(claims: &mut Value, by: i64) {
    for name in ["iat", "exp"] {
        claims[name] = json!(claims[name].as_i64().unwrap() + by);
    }
}

fn delegate(claims: &mut Value, subject: &str) {
    claims["act"] = json!({ "sub": claims["sub"] });
    claims["sub"] = json!(subject);
    claims["exp"] = json!(claims["iat"].as_i64().unwrap() + 300);
}

#[tokio::test]
async fn python_and_rust_agree_on_what_is_no_token_and_on_keys_beside_tokens() {
    let Some(shop) = Shop::open(json!({})).await else { return };
    let judges = Judges::of(&shop).await;
    let web = shop.web.dir();
    let good = |audience: &str| judges.token(audience, |_, _| {});
    let repeated = |audience: &str| {
        let claims = judges.claims(audience).to_string().replacen('{', r#"{"sub":"gateway","#, 1);
        judges.signed(&judges.header().to_string(), &claims)
    };
    let forged = |audience: &str| {
        let token = good(audience);
        let (unsigned, _) = token.rsplit_once('.').unwrap();
        format!("{unsigned}.{}", URL_SAFE_NO_PAD.encode([1; 64]))
    };
    let half_a_character = judges.signed(r#"{"alg":"ES256","kid":"\ud800","typ":"at+jwt"}"#, "{}");
    type Ask<'a> = &'a dyn Fn(&str, Curl) -> Curl;
    let table: &[(&str, u16, Ask<'_>)] = &[
        ("nothing", 401, &|_, call| call.as_peer(web)),
        ("claims that say two things", 401, &|audience, call| call.as_peer(web).bearer(&repeated(audience))),
        ("a key's name with half a character", 401, &|_, call| call.as_peer(web).bearer(&half_a_character)),
        ("a signature by an unknown key", 401, &|audience, call| call.as_peer(web).bearer(&forged(audience))),
        ("no certificate", 401, &|audience, call| call.bearer(&good(audience))),
        ("another's certificate", 401, &|audience, call| call.as_peer(shop.auth.dir()).bearer(&good(audience))),
        ("four parts", 400, &|_, call| call.as_peer(web).bearer("a.b.c.d")),
        ("an empty signature", 401, &|_, call| call.as_peer(web).bearer("e30.e30.")),
        ("padding", 400, &|_, call| call.as_peer(web).bearer("e30=.e30.AAAA")),
        ("bits to spare", 400, &|_, call| call.as_peer(web).bearer("e31.e30.AAAA")),
        ("9 KiB", 400, &|_, call| call.as_peer(web).bearer(&format!("e30.{}.AAAA", "A".repeat(9 * 1024)))),
        ("a long header", 400, &|_, call| call.as_peer(web).bearer(&format!("{}.e30.AAAA", "A".repeat(1025)))),
        ("another scheme", 401, &|_, call| call.as_peer(web).header("Authorization: Basic dTpw")),
        ("another scheme and a key", 401, &|_, call| {
            call.as_peer(web).header("Authorization: Basic dTpw").api_key(API_KEY)
        }),
        ("two words", 400, &|_, call| call.as_peer(web).header("Authorization: Bearer a b")),
        ("two tokens", 400, &|audience, call| {
            let call = call.as_peer(web).bearer(&good(audience));
            call.bearer(&good(audience))
        }),
        ("a key", 200, &|_, call| call.api_key(API_KEY)),
        ("a key as Bearer", 200, &|_, call| call.bearer(API_KEY)),
        ("an unknown key", 401, &|_, call| call.api_key("gk_test_guessed")),
        ("two keys", 400, &|_, call| call.api_key(API_KEY).api_key(API_KEY)),
        ("two keys in two headers", 400, &|_, call| call.api_key(API_KEY).bearer(API_KEY)),
        ("a token and a shared key", 200, &|audience, call| call.as_peer(web).bearer(&good(audience)).api_key(API_KEY)),
        ("a token and a key of another owner", 401, &|audience, call| {
            call.as_peer(web).bearer(&good(audience)).api_key(OWNED_KEY)
        }),
        ("an invalid token and a valid key", 401, &|audience, call| {
            call.as_peer(web).bearer(&forged(audience)).api_key(API_KEY)
        }),
    ];
    for (what, status, ask) in table {
        assert_eq!(judges.agree(what, ask).await.0, *status, "{what}");
    }
    let scope = |audience: &str| judges.token(audience, |_, claims| claims["scope"] = json!("assets:read"));
    let no_scope = shop.to_reports("/report").as_peer(web).bearer(&scope(REPORTS)).send().await.unwrap();
    assert_eq!(no_scope.status, 403, "{no_scope:?}");
    let in_query =
        shop.to_reports(&format!("/whoami?access_token={}", good(REPORTS))).as_peer(web).send().await.unwrap();
    assert_eq!(in_query.status, 401, "{in_query:?}");
    shop.scene.end().await;
}
