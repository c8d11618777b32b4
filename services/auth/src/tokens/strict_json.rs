//! Strict JSON parser that rejects repeated names at any depth.
//!
//! RFC 8259 does not define the meaning of a repeated name, so two parsers of one signed token can see different claims
//! (RFC 8725, section 2.7 asks for one meaning). Such a text is rejected.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reason why a text was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StrictJsonError {
    /// Not JSON, not UTF-8, nested too deeply, or with trailing data.
    #[error("not JSON")]
    NotJson,
    /// JSON, but not an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// A name occurs twice in one object.
    #[error("a name is repeated")]
    NameRepeated,
}

/// Parses one JSON object.
///
/// # Errors
/// [`StrictJsonError`] if it is not an object, or a name is repeated at any depth.
pub(crate) fn object(text: &[u8]) -> Result<Map<String, Value>, StrictJsonError> {
    let repeated = Cell::new(false);
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Strict(&repeated).deserialize(&mut deserializer);
    if repeated.get() {
        return Err(StrictJsonError::NameRepeated);
    }
    let value = value.map_err(|_| StrictJsonError::NotJson)?;
    deserializer.end().map_err(|_| StrictJsonError::NotJson)?;
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(StrictJsonError::NotAnObject),
    }
}

/// Deserializes one value, and records a repeated name in the cell.
#[derive(Clone, Copy)]
struct Strict<'a>(&'a Cell<bool>);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated names")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a number"))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            if map.contains_key(&name) {
                self.0.set(true);
                return Err(A::Error::custom("a name is repeated"));
            }
            let value = access.next_value_seed(self)?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_repeated_name_is_refused_at_any_depth() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"b":{"a":1,"a":2}}"#,
            r#"{"b":[{"c":[{"a":1,"a":2}]}]}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"a":1,"a":"#,
        ] {
            assert_eq!(object(text.as_bytes()), Err(StrictJsonError::NameRepeated), "{text}");
        }
        assert!(object(br#"{"a":{"a":1},"b":[{"a":1},{"a":2}]}"#).is_ok(), "one name in several objects is fine");
    }

    #[test]
    fn what_is_not_one_object_is_refused() {
        for text in ["", "{", "{} {}", "{}x", "[{}]", "1", "null", "{\"a\":1,}", "{\"a\":\"\u{1}\"}", "{'a':1}"] {
            assert!(object(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(object(b"{\"a\":\"\xff\"}"), Err(StrictJsonError::NotJson), "not UTF-8");
        assert_eq!(object("[".repeat(100_000).as_bytes()), Err(StrictJsonError::NotJson), "no stack is exhausted");
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = object(&bytes);
        }

        #[test]
        fn what_is_accepted_reads_the_same_as_with_serde_json(text in r#"\{("[a-c]":([0-9]{1,3}|"[a-z]*"|\{"x":1\}|\[1,2\]),){0,3}"z":null\}"#) {
            if let Ok(map) = object(text.as_bytes()) {
                prop_assert_eq!(Value::Object(map), serde_json::from_str::<Value>(&text).unwrap());
            }
        }
    }
}
