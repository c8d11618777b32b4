//! Tests that the examples in `docs/mounted-files.md` match the types.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy.toml lets do it")]

use gaia_api::mount::{self, ApiKeys, Denylist, Grants, Policy};
use gaia_auth::tokens::KeySet;
use gaia_auth::{ApiKeyTable, check_policy};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const PAGE: &str = include_str!("../../../docs/mounted-files.md");

/// Returns the example under the heading with the file's name.
fn example(file: &str) -> Value {
    let (_, section) = PAGE.split_once(&format!("\n## `{file}`\n")).unwrap();
    let (_, block) = section.split_once("```json\n").unwrap();
    let (text, _) = block.split_once("```").unwrap();
    serde_json::from_str(text).unwrap()
}

/// Checks that the type has every field of the example: after a round trip only fields with default values may be
/// missing.
fn read<T: DeserializeOwned + Serialize>(file: &'static str) -> T {
    let example = example(file);
    let read: T = mount::read(file, example.to_string().as_bytes()).unwrap();
    let written = serde_json::to_value(&read).unwrap();
    assert!(is_within(&example, &written), "{file}: {example:#}\ndiffers from the serialized form:\n{written:#}");
    assert!(is_within(&written, &example), "{file}: the example lacks something of:\n{written:#}");
    read
}

fn is_within(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => one.iter().all(|(name, value)| match other.get(name) {
            Some(other) => is_within(value, other),
            None => value.as_array().is_some_and(Vec::is_empty),
        }),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_within(one, other))
        }
        (one, other) => one == other,
    }
}

#[test]
fn the_examples_of_the_mounted_files_are_taken_and_none_of_their_fields_is_unknown() {
    check_policy(&read::<Policy>("policy.json")).unwrap();
    read::<Denylist>("denylist.json");
    ApiKeyTable::try_from(read::<ApiKeys>("api-keys.json")).unwrap();
    read::<Grants>("grants.json");
    KeySet::parse(example("jwks.json").to_string().as_bytes()).unwrap();
}

#[test]
fn every_file_that_the_operator_writes_is_on_the_page() {
    use gaia_api::names::key;
    for file in [
        key::TLS_CERT,
        key::TLS_KEY,
        key::CA_CERT,
        key::JWKS,
        key::JWT_SIGNING_PUB,
        key::DENYLIST,
        key::JWT_SIGNING_KEY,
        key::KID,
        key::GRANTS,
        key::POLICY,
        key::API_KEYS,
    ] {
        assert!(PAGE.contains(&format!("\n| `{file}` | ")), "{file}");
    }
}
