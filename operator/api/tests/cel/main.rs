//! Every CEL rule of the three custom resource definitions, evaluated as the API server does: one value that it
//! accepts, one that it rejects, and the exact message. Patterns, enums and lengths are not CEL; the API server tests
//! cover them.
//!
//! The evaluator is kube-cel. It has every function that the rules use, `isIP` and `isCIDR` too. Two small differences
//! from the API server are handled here: the whole object is passed, so that `self.metadata.name` exists at the root,
//! and transition rules only run if there is an old value, as on the server.

#![cfg(feature = "crd")]
#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy.toml lets do it")]

mod parties;
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use gaia_api::crd;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::cel::{CompiledSchema, Validator, compile_schema};
use rstest::rstest;
use serde_json::{Value, json};

const DURATION: &str =
    "must be a duration such as 2160h, 30m or 1h30m: units h, m, s and ms (no d), at most 5 digits each";
const IMMUTABLE: &str = "must not change: the field is immutable";
const KEY_SIZE: &str = "size must be 2048, 3072 or 4096 for RSA, 256 or 384 for ECDSA";
const DNS_LABEL: &str =
    "metadata.name must be a DNS label: lower-case letters, digits and '-', at most 63 characters, no dots";
const TEMPLATE_KEYS: &str =
    "must hold valid label or annotation keys, none of them gaia.dev/* or app.kubernetes.io/managed-by";
const SMALL: &str = "must be at most 16384 bytes in all, keys and values";
const SHORT: &str = "duration must be at least 1h, or at least 10m with allowShortLived: true";
const SECRET_NAME: &str = "secretName must not change: the field is immutable";
const SECRET_NAME_OF_CHILD: &str = "certificate.secretName must not change: the field is immutable";
const REVOKED: &str = "must have at most 1000 entries in all";
const IPS: &str = "must hold IPv4 or IPv6 addresses only";
const ENDPOINT_HOSTS: &str = "must hold DNS names and IP addresses only, IPv6 addresses without brackets";
const CIDRS: &str = "must hold networks in CIDR form only, e.g. 10.0.0.0/8";

fn definition(kind: &str) -> CustomResourceDefinition {
    crd::all().into_iter().find(|definition| definition.spec.names.kind == kind).unwrap()
}

fn schema(kind: &str) -> &'static Value {
    static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
        let schema = |definition: CustomResourceDefinition| {
            let version = definition.spec.versions[0].schema.clone().unwrap();
            (definition.spec.names.kind, serde_json::to_value(version.open_api_v3_schema.unwrap()).unwrap())
        };
        crd::all().into_iter().map(schema).collect()
    });
    &SCHEMAS[kind]
}

/// The rules, read once.
fn compiled(kind: &str) -> &'static CompiledSchema {
    static RULES: LazyLock<BTreeMap<String, CompiledSchema>> = LazyLock::new(|| {
        let kinds = crd::all().into_iter().map(|definition| definition.spec.names.kind);
        kinds.map(|kind| (kind.clone(), compile_schema(schema(&kind)))).collect()
    });
    &RULES[kind]
}

/// Field path and message of every rejection.
fn refusals(kind: &str, object: &Value, old: Option<&Value>) -> Vec<(String, String)> {
    let errors = match Validator::new().validate_compiled(compiled(kind), object, old) {
        Ok(()) => return vec![],
        Err(errors) => errors,
    };
    errors.iter().map(|error| (error.field_path.clone(), error.message.clone())).collect()
}

/// An object with the required fields only, and `value` at that path of its spec.
fn with(kind: &str, path: &str, value: &Value) -> Value {
    let mut object = json!({ "metadata": { "name": "web" }, "spec": {} });
    if kind == "TrustDomain" {
        object["spec"]["trustDomain"] = json!("gaia.local");
    }
    let mut place = &mut object;
    for part in path.split('.') {
        place = &mut place[part];
    }
    *place = value.clone();
    object
}

#[track_caller]
fn takes(kind: &str, object: &Value, old: Option<&Value>) {
    assert_eq!(refusals(kind, object, old), [], "{object}");
}

#[track_caller]
fn refuses(kind: &str, object: &Value, old: Option<&Value>, message: &str) {
    let found = refusals(kind, object, old);
    assert!(found.iter().any(|(_, said)| said == message), "{object}: {found:#?}");
    assert_eq!(found.len(), 1, "{object}: {found:#?}");
}

#[rstest]
#[case("TrustDomain", "spec.ca.duration", "must be between 1h and 99999h", &["1h", "87600h", "99999h"], &["59m", "99999h1s"])]
#[case("TrustDomain", "spec.ca.rotationPeriod", "must be between 1h and 99999h", &["2160h"], &["30m"])]
#[case("TrustDomain", "spec.certificateDefaults.duration", "must be between 10m and 26280h", &["10m", "3240h"], &["599s", "26281h"])]
#[case("TrustDomain", "spec.tokens.maxTTL", "must be between 10s and 24h", &["10s", "24h"], &["9s", "25h"])]
#[case("TrustDomain", "spec.tokens.ttl", "must be between 10s and 24h", &["10s", "1h"], &["9s"])]
#[case("TrustDomain", "spec.tokens.rotationPeriod", "must be between 1m and 99999h", &["1m", "2160h"], &["59s"])]
#[case("TrustDomain", "spec.propagation.minDelay", "must be between 1s and 168h", &["1s", "168h"], &["500ms", "169h"])]
#[case("TrustDomain", "spec.propagation.deadline", "must be between 1s and 168h", &["1h"], &["0s", "169h"])]
#[case("TrustDomain", "spec.propagation.clockSkew", "must be between 0s and 10m", &["0s", "10m"], &["11m"])]
#[case("ServiceCertificate", "spec.duration", "must be between 10m and 26280h", &["1h", "26280h"], &["26281h"])]
#[case("GaiaService", "spec.certificate.duration", "must be between 10m and 26280h", &["1h", "26280h"], &["26281h"])]
#[case("GaiaService", "spec.auth.legacyFreeFor", "must be between 0s and 99999h", &["0s", "720h"], &["99999h1s"])]
fn a_duration_is_bounded_and_has_no_days(
    #[case] kind: &str,
    #[case] path: &str,
    #[case] bounds: &str,
    #[case] taken: &[&str],
    #[case] refused: &[&str],
) {
    for text in taken {
        takes(kind, &with(kind, path, &json!(text)), None);
    }
    for text in refused {
        refuses(kind, &with(kind, path, &json!(text)), None, bounds);
    }
    for text in ["90d", "999999h", "1h1h1h1h1h", "-1h", "1.5h"] {
        refuses(kind, &with(kind, path, &json!(text)), None, DURATION);
    }
}

#[test]
fn default_duration_is_at_most_the_longest_one() {
    let kind = "TrustDomain";
    let defaults = |duration: &str| {
        let durations = json!({ "duration": duration, "maxDuration": "2160h" });
        with(kind, "spec.certificateDefaults", &durations)
    };
    takes(kind, &defaults("2160h"), None);
    refuses(kind, &defaults("2161h"), None, "duration must not be longer than maxDuration");
}

#[test]
fn token_ttl_is_at_most_max_ttl() {
    let kind = "TrustDomain";
    takes(kind, &with(kind, "spec.tokens", &json!({ "ttl": "30m", "maxTTL": "30m" })), None);
    refuses(
        kind,
        &with(kind, "spec.tokens", &json!({ "ttl": "31m", "maxTTL": "30m" })),
        None,
        "ttl must not be longer than maxTTL",
    );
    takes(kind, &with(kind, "spec.tokens", &json!({ "maxTTL": "1m" })), None);
}

#[rstest]
#[case("ServiceCertificate", "spec")]
#[case("GaiaService", "spec.certificate")]
fn a_leaf_under_an_hour_must_be_asked_for_twice(#[case] kind: &str, #[case] path: &str) {
    takes(kind, &with(kind, path, &json!({ "duration": "10m", "allowShortLived": true })), None);
    refuses(kind, &with(kind, path, &json!({ "duration": "59m" })), None, SHORT);
    let second = refusals(kind, &with(kind, path, &json!({ "duration": "1s" })), None);
    let said: BTreeSet<&str> = second.iter().map(|(_, message)| message.as_str()).collect();
    assert_eq!(said, BTreeSet::from([SHORT, "must be between 10m and 26280h"]));
}

#[rstest]
fn a_brownout_lasts_at_most_six_hours() {
    let window = |duration: &str| json!([{ "start": "2026-01-01T00:00:00Z", "duration": duration }]);
    let kind = "GaiaService";
    takes(kind, &with(kind, "spec.auth.brownoutWindows", &window("6h")), None);
    refuses(kind, &with(kind, "spec.auth.brownoutWindows", &window("7h")), None, "must be between 1s and 6h");
    refuses(kind, &with(kind, "spec.auth.brownoutWindows", &window("1d")), None, DURATION);
}

#[rstest]
#[case("TrustDomain", "spec.ca.privateKey")]
#[case("TrustDomain", "spec.certificateDefaults.privateKey")]
#[case("ServiceCertificate", "spec.privateKey")]
#[case("GaiaService", "spec.certificate.privateKey")]
fn a_key_has_a_size_of_its_algorithm(#[case] kind: &str, #[case] path: &str) {
    for key in [json!({}), json!({ "algorithm": "RSA", "size": 3072 }), json!({ "algorithm": "ECDSA", "size": 384 })] {
        takes(kind, &with(kind, path, &key), None);
    }
    for key in [
        json!({ "algorithm": "RSA", "size": 1024 }),
        json!({ "algorithm": "RSA", "size": 256 }),
        json!({ "algorithm": "ECDSA", "size": 521 }),
        json!({ "size": 2048 }),
    ] {
        refuses(kind, &with(kind, path, &key), None, KEY_SIZE);
    }
}

#[rstest]
#[case("TrustDomain", "spec.trustDomain", json!("gaia.local"), json!("other.local"), IMMUTABLE)]
#[case("TrustDomain", "spec.tokens.issuer", json!("gaia-platform"), json!("other"), IMMUTABLE)]
#[case("TrustDomain", "spec.tokens.audience", json!("gaia-services"), json!("other"), IMMUTABLE)]
#[case("ServiceCertificate", "spec.trustDomainRef", json!({ "name": "gaia" }), json!({ "name": "other" }), IMMUTABLE)]
#[case("GaiaService", "spec.trustDomainRef", json!({ "name": "gaia" }), json!({ "name": "other" }), IMMUTABLE)]
#[case("ServiceCertificate", "spec.secretName", json!("a-tls"), json!("b-tls"), SECRET_NAME)]
#[case("GaiaService", "spec.certificate", json!({ "secretName": "a-tls" }), json!({ "secretName": "b-tls" }), SECRET_NAME_OF_CHILD)]
#[case("GaiaService", "spec.certificate", json!({}), json!({ "secretName": "b-tls" }), SECRET_NAME_OF_CHILD)]
#[case("GaiaService", "spec.certificate", json!({ "secretName": "a-tls" }), Value::Null, SECRET_NAME_OF_CHILD)]
fn what_is_immutable_keeps_its_first_value(
    #[case] kind: &str,
    #[case] path: &str,
    #[case] first: Value,
    #[case] second: Value,
    #[case] message: &str,
) {
    let (old, new) = (with(kind, path, &first), with(kind, path, &second));
    takes(kind, &new, None);
    takes(kind, &old, Some(&old));
    refuses(kind, &new, Some(&old), message);
}

#[rstest]
fn a_secret_name_is_neither_given_nor_taken_away_later() {
    let kind = "ServiceCertificate";
    let (named, unnamed) = (with(kind, "spec.secretName", &json!("a-tls")), with(kind, "spec", &json!({})));
    refuses(kind, &named, Some(&unnamed), SECRET_NAME);
    refuses(kind, &unnamed, Some(&named), SECRET_NAME);
    takes(kind, &unnamed, Some(&unnamed));
}

/// An immutable field with a default: leaving it out is the default, and so no change.
#[rstest]
#[case("TrustDomain", "spec.tokens", json!({ "issuer": "gaia-platform", "audience": "gaia-services" }))]
#[case("ServiceCertificate", "spec.trustDomainRef", json!({ "name": "gaia" }))]
fn leaving_an_immutable_field_to_its_default_is_no_change(
    #[case] kind: &str,
    #[case] path: &str,
    #[case] value: Value,
) {
    let old = with(kind, path, &value);
    let new = with(kind, "spec.unused", &Value::Null);
    takes(kind, &new, Some(&old));
}

#[rstest]
#[case("spec.ca.rotationRevision")]
#[case("spec.tokens.rotationRevision")]
fn a_rotation_revision_never_decreases(#[case] path: &str) {
    let kind = "TrustDomain";
    let (two, three) = (with(kind, path, &json!(2)), with(kind, path, &json!(3)));
    takes(kind, &three, Some(&two));
    takes(kind, &two, Some(&two));
    refuses(kind, &two, Some(&three), "must not decrease");
}

#[rstest]
#[case("TrustDomain")]
#[case("ServiceCertificate")]
#[case("GaiaService")]
fn a_name_is_a_dns_label(#[case] kind: &str) {
    let named = |name: &str| {
        let mut object = with(kind, "spec.unused", &Value::Null);
        object["metadata"]["name"] = json!(name);
        object
    };
    for name in ["a", "auth-service", "9-lives", &"a".repeat(63)] {
        takes(kind, &named(name), None);
    }
    // A dot would make <name>.<namespace> a name in another namespace.
    for name in ["auth-service.other", "a.b", "..", &"a".repeat(64), "ａ"] {
        refuses(kind, &named(name), None, DNS_LABEL);
    }
}

#[rstest]
#[case("ServiceCertificate", "spec.ipAddresses", json!(["10.0.0.1", "fd00::1"]), json!(["10.0.0"]), IPS)]
#[case("ServiceCertificate", "spec.ipAddresses", json!([]), json!(["10.0.0.0/8"]), IPS)]
#[case("GaiaService", "spec.certificate.ipAddresses", json!(["::1"]), json!(["10.0.0.1", "localhost"]), IPS)]
#[case("TrustDomain", "spec.allowedNames", json!([{ "namespaces": ["a"], "ipRanges": ["10.0.0.0/8", "fd00::/8"] }]),
    json!([{ "namespaces": ["a"], "ipRanges": ["10.0.0.1"] }]), CIDRS)]
#[case("TrustDomain", "spec.allowedNames", json!([{ "namespaces": ["a"] }]),
    json!([{ "namespaces": ["a"], "ipRanges": ["10.0.0.0/33"] }]), CIDRS)]
#[case("TrustDomain", "spec.allowedEndpoints",
    json!([{ "namespaces": ["a"], "hosts": ["a.example", "*.example", "10.0.0.1", "fd00::1"], "cidrs": ["fd00::/8"] }]),
    json!([{ "namespaces": ["a"], "cidrs": ["10.0.0.1"] }]), CIDRS)]
#[case("TrustDomain", "spec.allowedEndpoints", json!([{ "namespaces": ["a"], "cidrs": ["127.0.0.0/8"] }]),
    json!([{ "namespaces": ["a"], "hosts": ["a.example", "fd00:::1"] }]), ENDPOINT_HOSTS)]
#[case("TrustDomain", "spec.allowedEndpoints", json!([{ "namespaces": ["a"], "hosts": ["a.example"] }]),
    json!([{ "namespaces": ["a"] }]), "must have hosts, cidrs or both")]
fn addresses_and_networks_are_real_ones(
    #[case] kind: &str,
    #[case] path: &str,
    #[case] taken: Value,
    #[case] refused: Value,
    #[case] message: &str,
) {
    takes(kind, &with(kind, path, &taken), None);
    refuses(kind, &with(kind, path, &refused), None, message);
}

#[rstest]
#[case("ServiceCertificate", "spec.secretTemplate.labels")]
#[case("ServiceCertificate", "spec.secretTemplate.annotations")]
#[case("GaiaService", "spec.certificate.secretTemplate.labels")]
#[case("GaiaService", "spec.certificate.secretTemplate.annotations")]
fn a_template_leaves_gaia_s_own_keys_alone(#[case] kind: &str, #[case] path: &str) {
    for key in ["team", "example.com/team", "app.kubernetes.io/part-of", "a.b_c-d"] {
        takes(kind, &with(kind, path, &json!({ key: "x" })), None);
    }
    for key in ["gaia.dev/adopt", "gaia.dev/spec-hash", "app.kubernetes.io/managed-by", "", "a b", "é", "a/b/c", "-a"]
    {
        refuses(kind, &with(kind, path, &json!({ key: "x" })), None, TEMPLATE_KEYS);
    }
}

#[rstest]
#[case("ServiceCertificate", "spec.secretTemplate.annotations")]
#[case("GaiaService", "spec.certificate.secretTemplate.annotations")]
fn a_template_is_small(#[case] kind: &str, #[case] path: &str) {
    takes(kind, &with(kind, path, &json!({ "a": "x".repeat(8_000), "b": "x".repeat(8_000) })), None);
    refuses(kind, &with(kind, path, &json!({ "a": "x".repeat(9_000), "b": "x".repeat(9_000) })), None, SMALL);
}

#[rstest]
#[case(json!({ "existingSecretRef": { "name": "ca" } }), true)]
#[case(json!({ "privateKey": {}, "duration": "87600h", "rotationPeriod": "8760h" }), true)]
#[case(json!({ "existingSecretRef": { "name": "ca" }, "privateKey": {} }), false)]
#[case(json!({ "existingSecretRef": { "name": "ca" }, "duration": "87600h" }), false)]
#[case(json!({ "existingSecretRef": { "name": "ca" }, "rotationPeriod": "8760h" }), false)]
fn a_ca_is_brought_or_made(#[case] ca: Value, #[case] taken: bool) {
    let object = with("TrustDomain", "spec.ca", &ca);
    if taken {
        takes("TrustDomain", &object, None);
    } else {
        let message = "existingSecretRef must not be combined with privateKey, duration or rotationPeriod";
        refuses("TrustDomain", &object, None, message);
    }
}

#[rstest]
fn jwt_only_must_be_strict() {
    let kind = "GaiaService";
    let modes = |auth: Option<&str>, tls: Option<&str>| {
        let mut object = with(kind, "spec.unused", &Value::Null);
        if let Some(auth) = auth {
            object["spec"]["auth"] = json!({ "mode": auth });
        }
        if let Some(tls) = tls {
            object["spec"]["tls"] = json!({ "mode": tls });
        }
        object
    };
    for (auth, tls) in [
        (None, None),
        (Some("Dual"), None),
        (Some("APIKeyOnly"), Some("Permissive")),
        (Some("JWTOnly"), Some("Strict")),
        (None, Some("Strict")),
    ] {
        takes(kind, &modes(auth, tls), None);
    }
    for tls in [None, Some("Permissive")] {
        refuses(kind, &modes(Some("JWTOnly"), tls), None, "tls.mode must be Strict when auth.mode is JWTOnly");
    }
}

#[rstest]
fn a_namespace_selector_has_values_where_they_mean_something() {
    let expression = |operator: &str, values: &[&str]| {
        let expression = json!({ "key": "env", "operator": operator, "values": values });
        with("TrustDomain", "spec.namespaceSelector", &json!({ "matchExpressions": [expression] }))
    };
    let message = "values must be set for In and NotIn, and for these only";
    for (operator, values) in [("In", &["a"][..]), ("NotIn", &["a", "b"]), ("Exists", &[]), ("DoesNotExist", &[])] {
        takes("TrustDomain", &expression(operator, values), None);
    }
    for (operator, values) in [("In", &[][..]), ("NotIn", &[]), ("Exists", &["a"]), ("DoesNotExist", &["a"])] {
        refuses("TrustDomain", &expression(operator, values), None, message);
    }
}

#[rstest]
fn at_most_a_thousand_things_are_revoked() {
    let jtis = |count: usize| (0..count).map(|n| json!(n.to_string())).collect::<Vec<_>>();
    let subject = json!([{ "sub": "user", "notBefore": "2026-01-01T00:00:00Z" }]);
    let path = "spec.revoked";
    let revoked = |count| with("TrustDomain", path, &json!({ "jtis": jtis(count), "subjects": subject }));
    takes("TrustDomain", &revoked(999), None);
    refuses("TrustDomain", &revoked(1000), None, REVOKED);
}

/// The bound is put on every `date-time` field by one function; these are the fields of the specs.
#[rstest]
#[case("GaiaService", "spec.auth.sunsetTime", |time: &str| json!(time))]
#[case("GaiaService", "spec.auth.brownoutWindows", |time: &str| json!([{ "start": time, "duration": "1h" }]))]
#[case("TrustDomain", "spec.revoked.subjects", |time: &str| json!([{ "sub": "a", "notBefore": time }]))]
fn a_date_lies_between_1970_and_9998(#[case] kind: &str, #[case] path: &str, #[case] value: fn(&str) -> Value) {
    for time in ["1970-01-01T00:00:00Z", "2026-11-29T10:00:00.123456789+02:00", "9998-12-31T23:59:59Z"] {
        takes(kind, &with(kind, path, &value(time)), None);
    }
    for time in ["1969-12-31T23:59:59Z", "9999-01-01T00:00:00Z", "9998-12-31T23:59:59-00:01", "0001-01-01T00:00:00Z"] {
        refuses(kind, &with(kind, path, &value(time)), None, "must be in the years 1970 to 9998 (UTC)");
    }
}

/// Every rule has a message, and a test above; a rule without a test fails here.
#[rstest]
fn every_rule_is_tried_in_this_file() {
    let source = concat!(include_str!("main.rs"), include_str!("parties.rs"));
    for definition in crd::all() {
        let kind = definition.spec.names.kind.clone();
        for (path, rule) in rules("", schema(&kind)) {
            let message = rule["message"].as_str().unwrap_or_else(|| panic!("{kind}{path}: {rule} has no message"));
            let is_here = source.contains(&message.replace('"', "\\\""));
            assert!(is_here, "{kind}{path}: no test has the message {message:?}");
        }
    }
}

fn rules(path: &str, schema: &Value) -> Vec<(String, Value)> {
    let mut found: Vec<(String, Value)> = schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|rule| (path.to_owned(), rule.clone()))
        .collect();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        found.extend(rules(&format!("{path}.{name}"), property));
    }
    if schema["items"].is_object() {
        found.extend(rules(&format!("{path}[]"), &schema["items"]));
    }
    found
}
