//! JSON merge patches (RFC 7396): the difference of two values, and its application.

use serde_json::{Map, Value};

/// The merge patch that turns `from` into `to`; none if they are equal.
#[must_use]
pub fn merge_patch(from: &Value, to: &Value) -> Option<Value> {
    if from == to {
        return None;
    }
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return Some(to.clone()) };
    let mut patch = Map::new();
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, wanted) in to {
        match from.get(key) {
            None => {
                patch.insert(key.clone(), wanted.clone());
            }
            Some(found) => {
                if let Some(inner) = merge_patch(found, wanted) {
                    patch.insert(key.clone(), inner);
                }
            }
        }
    }
    Some(Value::Object(patch))
}

/// Applies a merge patch (RFC 7396, section 2).
pub fn apply_patch(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(object) = target.as_object_mut() else { return };
    for (name, field) in fields {
        if field.is_null() {
            object.remove(name);
        } else {
            apply_patch(object.entry(name).or_insert(Value::Null), field);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![any::<bool>().prop_map(Value::from), (0..3i64).prop_map(Value::from)];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..3).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_patch_leads_from_one_to_the_other(from in value(), to in value()) {
            match merge_patch(&from, &to) {
                None => prop_assert_eq!(from, to),
                Some(patch) => {
                    let mut patched = from;
                    apply_patch(&mut patched, &patch);
                    prop_assert_eq!(patched, to);
                }
            }
        }
    }
}
