//! The request vectors that the Python example is tested with too (`docs/examples/vectors/requests.json`).
#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy.toml lets do it")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gaia_api::mount::{self, ApiKeys, Denylist, Policy};
use gaia_auth::tokens::KeySet;
use gaia_auth::{
    ApiKeyTable, Connection, Denied, PeerIdentity, Principal, Reason, Rules, Scopes, Transport, check_policy,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

const TABLE: &str = include_str!("../../../docs/examples/vectors/requests.json");

/// Applies a JSON merge patch (RFC 7396).
fn merged(target: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut result = target.as_object().cloned().unwrap_or_default();
    for (name, value) in patch {
        if value.is_null() {
            result.remove(name);
        } else {
            let merged = merged(result.get(name).unwrap_or(&Value::Null), value);
            result.insert(name.clone(), merged);
        }
    }
    Value::Object(result)
}

struct Table {
    table: Value,
    key: EcdsaKeyPair,
}

impl Table {
    fn read() -> Self {
        let table: Value = serde_json::from_str(TABLE).unwrap();
        let member = |name: &str| URL_SAFE_NO_PAD.decode(table["signingKey"][name].as_str().unwrap()).unwrap();
        let point = [vec![4], member("x"), member("y")].concat();
        let private = member("d");
        let key =
            EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P256_SHA256_FIXED_SIGNING, &private, &point).unwrap();
        Self { table, key }
    }

    fn part(&self, name: &str, case: &Value) -> Value {
        match case.get(name) {
            Some(patch) => merged(&self.table[name], patch),
            None => self.table[name].clone(),
        }
    }

    fn file<T: DeserializeOwned>(&self, file: &'static str, name: &str, case: &Value) -> T {
        mount::read(file, self.part(name, case).to_string().as_bytes()).unwrap()
    }

    fn rules(&self, case: &Value) -> Rules {
        let policy: Policy = self.file("policy.json", "policy", case);
        check_policy(&policy).unwrap();
        let denylist: Denylist = self.file("denylist.json", "denylist", case);
        let keys: ApiKeys = self.file("api-keys.json", "apiKeys", case);
        let jwks = KeySet::parse(self.part("jwks", case).to_string().as_bytes()).unwrap();
        Rules::new(policy, Some(jwks.into()), Denied::from(&denylist), ApiKeyTable::try_from(keys).unwrap())
    }

    fn token(&self, case: &Value) -> String {
        let change = &case["token"];
        let text = |name: &str, whole: &str| match change.get(whole) {
            Some(text) => text.as_str().unwrap().to_owned(),
            None => merged(&self.table["token"][name], change.get(name).unwrap_or(&json!({}))).to_string(),
        };
        let [header, claims] = [text("header", "headerText"), text("claims", "claimsText")];
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = match change.get("signature") {
            Some(text) => text.as_str().unwrap().to_owned(),
            None => {
                let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
                URL_SAFE_NO_PAD.encode(signature)
            }
        };
        format!("{signed}.{signature}")
    }

    fn connection(&self, case: &Value) -> Connection {
        let peer = self.part("peer", case);
        let peer = peer.is_object().then(|| PeerIdentity {
            spiffe_id: serde_json::from_value(peer["spiffeId"].clone()).unwrap(),
            fingerprint: peer["fingerprint"].as_str().unwrap().to_owned(),
            serial: "1".into(),
            not_after: Timestamp::from_second(peer["notAfter"].as_i64().unwrap()).unwrap(),
        });
        let transport = if peer.is_some() { Transport::Mtls } else { Transport::Tls };
        Connection { transport, peer, ..Connection::default() }
    }

    fn decision(&self, case: &Value) -> Value {
        let token = self.token(case);
        let mut headers = HeaderMap::new();
        for header in case["headers"].as_array().unwrap() {
            let value = header[1].as_str().unwrap().replace("{token}", &token);
            let name: HeaderName = header[0].as_str().unwrap().parse().unwrap();
            headers.append(name, HeaderValue::try_from(value).unwrap());
        }
        let now = Timestamp::from_second(self.table["now"].as_i64().unwrap()).unwrap();
        let result = self.rules(case).authenticate(&headers, &self.connection(case), now).result;
        match result {
            Err(refusal) => refused(refusal.reason),
            Ok(principal) if !may(&principal, &case["requires"]) => refused(Reason::ScopeMissing),
            Ok(principal) => accepted(&principal),
        }
    }
}

fn may(principal: &Principal, required: &Value) -> bool {
    required.as_array().is_none_or(|scopes| scopes.iter().all(|scope| principal.scopes.allow(scope.as_str().unwrap())))
}

fn refused(reason: Reason) -> Value {
    json!({ "status": reason.status().as_u16(), "reason": reason.as_str() })
}

fn accepted(principal: &Principal) -> Value {
    let scopes = match &principal.scopes {
        Scopes::All => Value::Null,
        Scopes::Only(scopes) => json!(**scopes),
    };
    let (subject, actor) = (principal.subject.to_string(), principal.actor.to_string());
    json!({ "status": 200, "subject": subject, "actor": actor, "scopes": scopes })
}

#[test]
fn requests_are_decided_as_in_the_shared_table() {
    let table = Table::read();
    let cases = table.table["cases"].as_array().unwrap();
    assert!(cases.len() > 150, "{}", cases.len());
    let mut wrong = vec![];
    for case in cases {
        let names = ["status", "reason", "subject", "actor", "scopes"];
        let expected: Map<String, Value> =
            names.iter().filter_map(|&name| Some((name.to_owned(), case.get(name)?.clone()))).collect();
        let decided = table.decision(case);
        if decided != Value::Object(expected.clone()) {
            wrong.push(format!("{}: {decided}, not {}", case["name"], Value::Object(expected)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
