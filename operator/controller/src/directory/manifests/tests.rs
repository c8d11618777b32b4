use std::path::Path;

use rstest::rstest;

use super::*;

fn try_read(text: &str) -> Result<Vec<Manifest>, DirectoryError> {
    read(Path::new("gaia.yaml"), text, &Changes::default(), &BTreeMap::new(), None)
}

const DOMAIN: &str = "\
apiVersion: gaia.dev/v1alpha1
kind: TrustDomain
metadata: {name: gaia}
spec:
  trustDomain: gaia.local
  namespaceSelector: {}
";

fn with_service(spec: &str) -> String {
    format!(
        "# A comment.\n{DOMAIN}---\napiVersion: gaia.dev/v1alpha1\nkind: GaiaService\nmetadata:\n  name: web\nspec:\n{spec}"
    )
}

#[rstest]
#[case::unknown_field("  tls:\n    mod: Strict\n", "gaia.yaml:15: GaiaService gaia/web: spec.tls.mod: unknown field")]
#[case::unknown_value(
    "  tls: {mode: Loose}\n",
    "gaia.yaml:14: GaiaService gaia/web: spec.tls.mode: must be one of Permissive, Strict"
)]
#[case::wrong_type(
    "  rotationWave: first\n",
    "gaia.yaml:14: GaiaService gaia/web: spec.rotationWave: must be an integer"
)]
#[case::bound("  rotationWave: 10\n", "gaia.yaml:14: GaiaService gaia/web: spec.rotationWave: must be at most 9")]
#[case::missing(
    "  callers:\n    - service: gateway\n    - scopes: []\n",
    "gaia.yaml:16: GaiaService gaia/web: spec.callers.1: must have service"
)]
#[case::pattern("  endpoints: [nowhere]\n", "gaia.yaml:14: GaiaService gaia/web: spec.endpoints.0: must match")]
#[case::rule("  auth: {mode: JWTOnly}\n  tls: {mode: Permissive}\n", "GaiaService gaia/web: spec")]
fn a_fault_names_line_field_and_cause(#[case] spec: &str, #[case] expected: &str) {
    let refusal = try_read(&with_service(spec)).map(drop).unwrap_err().to_string();
    assert!(refusal.contains(expected), "{refusal}");
}

#[rstest]
#[case::duplicate_key("apiVersion: gaia.dev/v1alpha1\nkind: TrustDomain\nkind: TrustDomain\n", "duplicate")]
#[case::half_saved("apiVersion: gaia.dev/v1alpha1\nkind: TrustDomain\nmetadata: {name: ga", "gaia.yaml:")]
#[case::empty("", "it has no TrustDomain; the file may be half saved")]
#[case::other_kind("apiVersion: gaia.dev/v1alpha1\nkind: Pod\n", "gaia.yaml:2: kind: must be TrustDomain")]
#[case::other_version("apiVersion: v1\nkind: Secret\n", "gaia.yaml:1: apiVersion: must be gaia.dev/v1alpha1")]
#[case::path_as_name(
    "apiVersion: gaia.dev/v1alpha1\nkind: GaiaService\nmetadata: {name: ../ca}\n",
    "metadata.name: must be a DNS label"
)]
fn a_file_with_a_fault_is_refused_as_a_whole(#[case] text: &str, #[case] expected: &str) {
    let refusal = try_read(text).map(drop).unwrap_err().to_string();
    assert!(refusal.contains(expected), "{refusal}");
}

#[test]
fn two_services_of_one_name_are_refused_with_both() {
    let second = "---\napiVersion: gaia.dev/v1alpha1\nkind: GaiaService\nmetadata: {name: web, namespace: shop}\n";
    let refusal = try_read(&format!("{}{second}", with_service("  {}\n"))).map(drop).unwrap_err().to_string();
    assert!(refusal.contains("GaiaService shop/web has the name of GaiaService gaia/web in line 9"), "{refusal}");
}

#[test]
fn the_manifests_of_every_environment_are_accepted() {
    for name in ["dev", "staging", "production"] {
        let text = crate::directory::init::template_of(name.parse().unwrap());
        let manifests = try_read(&text).unwrap();
        assert_eq!(manifests.len(), 6);
        assert_eq!(manifests[0].value["spec"]["trustDomain"], format!("{name}.gaia.local"));
    }
}

#[test]
fn a_patch_is_applied_over_a_manifest_and_named_when_it_is_the_fault() {
    let mut changes = Changes::default();
    changes.add(
        Resource::TRUST_DOMAIN,
        &(String::new(), "gaia".to_owned()),
        &json!({ "spec": { "ca": { "rotationRevision": 2 } } }),
    );
    let read_with = |changes: &Changes| read(Path::new("gaia.yaml"), DOMAIN, changes, &BTreeMap::new(), None);
    assert_eq!(read_with(&changes).unwrap()[0].value["spec"]["ca"]["rotationRevision"], 2);
    changes.add(
        Resource::TRUST_DOMAIN,
        &(String::new(), "gaia".to_owned()),
        &json!({ "spec": { "ca": { "rotationRevision": 0 } } }),
    );
    assert!(read_with(&changes).unwrap_err().to_string().contains("rotationRevision: must be at least 1"));
}
