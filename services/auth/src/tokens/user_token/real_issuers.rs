//! Tokens and key sets in the formats of real issuers, table-driven.

use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::fixtures::{RSA_SIGNER, USER_SIGNER, at};

const TABLE: &str = include_str!("../../../../../docs/examples/vectors/real-issuers.json");

#[derive(Deserialize)]
struct Table {
    now: i64,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    algorithm: String,
    issuer: UserTokenIssuer,
    jwk: Map<String, Value>,
    /// Keys before it in the set.
    #[serde(default, rename = "otherKeys")]
    other_keys: Vec<Value>,
    header: Value,
    claims: Value,
    accepted: bool,
    reason: Option<String>,
}

/// Returns the reason for refusing the token of a case; none if it is accepted.
fn refused(case: &Case, now: Timestamp) -> Option<String> {
    let signer = if case.algorithm == "RS256" { &RSA_SIGNER } else { &USER_SIGNER };
    let mut jwk = serde_json::to_value(signer.jwk()).unwrap();
    for (name, value) in &case.jwk {
        jwk[name] = value.clone();
    }
    jwk.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    let all: Vec<&Value> = case.other_keys.iter().chain([&jwk]).collect();
    let set = json!({ "keys": all }).to_string();
    let Ok(keys) = KeySet::parse_outside(set.as_bytes(), &case.issuer.algorithms) else {
        return Some("key_set".to_owned());
    };
    let token = signer.sign_parts(case.header.to_string().as_bytes(), case.claims.to_string().as_bytes()).unwrap();
    let rules = UserTokenRules { issuer: &case.issuer, denied: &Denied::default() };
    rules.verify(&keys, &token, None, now).err().map(|refusal| refusal.reason.as_str().to_owned())
}

#[test]
fn tokens_of_real_issuers_are_accepted_and_refused_as_in_the_table() {
    let table: Table = serde_json::from_str(TABLE).unwrap();
    for name in ["Entra ID", "Auth0", "Okta", "Keycloak", "Clerk", "Cognito", "Google", "Supabase"] {
        assert!(table.cases.iter().any(|case| case.name.starts_with(name)), "{name}");
    }
    let mut wrong = vec![];
    for case in &table.cases {
        let refused = refused(case, at(table.now));
        if refused != case.reason || refused.is_none() != case.accepted {
            wrong.push(format!("{}: {refused:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
