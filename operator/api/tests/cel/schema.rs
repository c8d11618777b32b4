//! The schemas as a whole: defaults, lists that are maps, dates, and the columns of `kubectl get`.

use gaia_api::crd;
use rstest::rstest;
use serde_json::{Value, json};

use super::{definition, schema};

/// GitOps: a default inside a list item makes an unchanged apply differ from the stored object, so that kubectl reports
/// `configured` and Argo CD shows drift.
#[rstest]
fn no_field_inside_a_list_item_of_a_spec_has_a_default() {
    for definition in crd::all() {
        let kind = definition.spec.names.kind.clone();
        let mut found = vec![];
        for_each(".spec", &schema(&kind)["properties"]["spec"], &mut |path, schema| {
            if path.contains("[]") && schema.get("default").is_some() {
                found.push(path.to_owned());
            }
        });
        assert_eq!(found, Vec::<String>::new(), "{kind}");
    }
}

/// GitOps: a server-side apply of `spec: {}` can result in null, which only a default turns into an object again.
#[rstest]
fn a_spec_without_required_fields_has_a_default() {
    for definition in crd::all() {
        let kind = definition.spec.names.kind.clone();
        let spec = &schema(&kind)["properties"]["spec"];
        assert_eq!(spec.get("default"), spec.get("required").is_none().then_some(&json!({})), "{kind}");
    }
}

/// Lists that name things by a key are maps of it; the key is required, as a default would be.
#[rstest]
fn every_map_list_has_a_required_key() {
    for definition in crd::all() {
        let kind = definition.spec.names.kind.clone();
        for_each("", schema(&kind), &mut |path, schema| {
            for key in schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten() {
                let required = schema["items"]["required"].as_array().cloned().unwrap_or_default();
                assert!(required.contains(key), "{kind}{path}: {key}");
            }
        });
    }
    let keys = |kind: &str, pointer: &str| schema(kind).pointer(pointer).unwrap()["x-kubernetes-list-map-keys"].clone();
    let spec = "/properties/spec/properties";
    assert_eq!(keys("TrustDomain", &format!("{spec}/ca/properties/distrusted")), json!(["fingerprint"]));
    assert_eq!(keys("TrustDomain", &format!("{spec}/tokens/properties/distrusted")), json!(["kid"]));
    assert_eq!(keys("GaiaService", &format!("{spec}/callers")), Value::Null, "callers are atomic");
}

#[rstest]
fn every_date_is_bounded_and_has_the_pattern_of_rfc_3339() {
    let mut count = 0;
    for definition in crd::all() {
        let kind = definition.spec.names.kind.clone();
        for_each("", schema(&kind), &mut |path, schema| {
            if schema["format"] == "date-time" {
                count += 1;
                assert!(schema["x-kubernetes-validations"][0]["rule"].is_string(), "{kind}{path}");
                assert!(schema["pattern"].is_string() && schema["maxLength"].is_number(), "{kind}{path}");
            }
        });
    }
    assert!(count >= 17, "{count}");
}

/// Every schema below this one, with its path.
fn for_each(path: &str, schema: &Value, look: &mut impl FnMut(&str, &Value)) {
    look(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        for_each(&format!("{path}.{name}"), property, look);
    }
    for (part, below) in [("[]", &schema["items"]), ("{}", &schema["additionalProperties"])] {
        if below.is_object() {
            for_each(&format!("{path}{part}"), below, look);
        }
    }
}

#[rstest]
#[case("TrustDomain", "td", &[
    ("READY", r#".status.conditions[?(@.type=="Ready")].status"#),
    ("REASON", ".status.reason"),
    ("CA-EXPIRES", ".status.ca.active.notAfter"),
    ("SIGNING-KEY", ".status.signingKeys.active.id"),
    ("ROTATING", ".status.rotating"),
    ("PODS-UPDATED", ".status.instances.summary"),
    ("AGE", ".metadata.creationTimestamp"),
    ("MESSAGE", ".status.message"),
    ("TRUST-DOMAIN", ".spec.trustDomain"),
    ("ISSUER", ".status.ca.active.id"),
    ("REVISION", ".spec.ca.rotationRevision"),
])]
#[case("ServiceCertificate", "scert", &[
    ("READY", r#".status.conditions[?(@.type=="Ready")].status"#),
    ("REASON", ".status.reason"),
    ("SECRET", ".status.secretName"),
    ("EXPIRES", ".status.notAfter"),
    ("RENEWS", ".status.renewalTime"),
    ("SERVED", ".status.served.summary"),
    ("AGE", ".metadata.creationTimestamp"),
    ("MESSAGE", ".status.message"),
    ("TRUST-DOMAIN", ".spec.trustDomainRef.name"),
    ("ISSUER", ".status.issuer"),
    ("REVISION", ".status.revision"),
])]
#[case("GaiaService", "gsvc", &[
    ("MODE", ".status.auth.mode"),
    ("TLS", ".status.tls.mode"),
    ("READY", r#".status.conditions[?(@.type=="Ready")].status"#),
    ("REASON", ".status.reason"),
    ("EXPIRES", ".status.certificate.notAfter"),
    ("SERVED", ".status.certificate.served"),
    ("LEGACY-USED", ".status.legacy.lastUsedDate"),
    ("AGE", ".metadata.creationTimestamp"),
    ("MESSAGE", ".status.message"),
    ("TRUST-DOMAIN", ".spec.trustDomainRef.name"),
    ("ISSUER", ".status.certificate.issuer"),
    ("REVISION", ".status.certificate.revision"),
])]
fn the_columns_are_those_of_the_api_in_their_order(
    #[case] kind: &str,
    #[case] short_name: &str,
    #[case] wanted: &[(&str, &str)],
) {
    let definition = definition(kind);
    assert_eq!(definition.spec.names.short_names, Some(vec![short_name.to_owned()]));
    assert_eq!(definition.spec.names.categories, Some(vec!["gaia".to_owned()]));
    let version = &definition.spec.versions[0];
    assert!(version.subresources.as_ref().unwrap().status.is_some());
    let columns = version.additional_printer_columns.clone().unwrap();
    let found: Vec<(&str, &str)> = columns.iter().map(|c| (c.name.as_str(), c.json_path.as_str())).collect();
    assert_eq!(found, wanted);
    for column in &columns {
        // A date in the future is printed as <invalid>, so only the age is one. Priority 1 is `-o wide`.
        assert_eq!(column.type_ == "date", column.name == "AGE", "{}", column.name);
        let is_wide = ["MESSAGE", "TRUST-DOMAIN", "ISSUER", "REVISION"].contains(&column.name.as_str());
        assert_eq!(column.priority.unwrap_or(0), i32::from(is_wide), "{}", column.name);
        assert!(!column.name.contains(' '), "{}: scripts split lines at blanks", column.name);
    }
}
