//! Callers of a GaiaService and issuers of user tokens.

use rstest::rstest;
use serde_json::{Value, json};

use super::{refuses, takes, with};

fn issuer(name: &str, issuer: &str) -> Value {
    json!({ "name": name, "issuer": issuer, "jwksURL": "https://issuer/jwks" })
}

#[rstest]
fn issuers_of_user_tokens_are_unique_and_not_our_own() {
    let kind = "TrustDomain";
    let issuers = |list: &[Value]| with(kind, "spec.userTokenIssuers", &json!(list));
    takes(kind, &issuers(&[issuer("a", "https://a"), issuer("b", "https://b")]), None);
    refuses(kind, &issuers(&[issuer("a", "https://a"), issuer("b", "https://a")]), None, "must have unique issuers");
    let message = "userTokenIssuers must not contain the issuer of spec.tokens.issuer";
    refuses(kind, &issuers(&[issuer("a", "gaia-platform")]), None, message);
}

#[rstest]
#[case(json!({ "verification": "JWKS", "jwksURL": "https://a" }), None)]
#[case(json!({ "jwksURL": "https://a" }), None)]
#[case(json!({ "verification": "Remote", "apiKeySecretRef": { "name": "key" } }), None)]
#[case(json!({ "verification": "Remote", "issuer": "http://127.0.0.1:9999/auth/v1", "apiKeySecretRef": { "name": "key" } }), None)]
#[case(
    json!({ "verification": "Remote", "issuer": "http://a.example/auth/v1", "apiKeySecretRef": { "name": "key" } }),
    Some("issuer must be an https address, or http on loopback, when verification is Remote")
)]
#[case(json!({ "jwksURL": "https://a", "issuer": "any text", "profile": "Generic", "clientIDs": ["app"], "maxTTL": "1h" }), None)]
#[case(json!({ "jwksURL": "https://a", "maxTTL": "59s" }), Some("must be between 1m and 168h"))]
#[case(json!({}), Some("jwksURL must be set when verification is JWKS"))]
#[case(json!({ "verification": "Remote" }), Some("apiKeySecretRef must be set when verification is Remote"))]
fn an_issuer_has_what_its_verification_needs(#[case] fields: Value, #[case] message: Option<&str>) {
    let mut issuer = json!({ "name": "a", "issuer": "https://a" });
    issuer.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let object = with("TrustDomain", "spec.userTokenIssuers", &json!([issuer]));
    match message {
        None => takes("TrustDomain", &object, None),
        Some(message) => refuses("TrustDomain", &object, None, message),
    }
}

#[rstest]
#[case(json!([{ "service": "a" }, { "service": "b" }, { "service": "a", "namespace": "x" }]), true)]
#[case(json!([{ "service": "a", "namespace": "x" }, { "service": "a", "namespace": "y" }]), true)]
#[case(json!([{ "service": "a" }, { "service": "a", "scopes": ["s"], "onBehalfOf": true }]), false)]
#[case(json!([{ "service": "a", "namespace": "x" }, { "service": "b" }, { "service": "a", "namespace": "x" }]), false)]
fn a_caller_is_named_once(#[case] callers: Value, #[case] accepted: bool) {
    let object = with("GaiaService", "spec.callers", &callers);
    if accepted {
        takes("GaiaService", &object, None);
    } else {
        refuses("GaiaService", &object, None, "must not name the same service and namespace twice");
    }
}
