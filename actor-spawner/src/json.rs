//! How is a value of a type that is not known here JSON?
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde_json::{Map, Number, Value};

/// A value as it came. Bytes are an array of numbers, as serde_json writes them; a key that is no text is its text.
#[derive(Debug, PartialEq)]
pub(crate) struct Json(pub(crate) Value);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue).map(Json)
    }
}

struct AnyValue;

macro_rules! plain {
    ($($method:ident $ty:ty;)*) => {$(
        fn $method<E: de::Error>(self, value: $ty) -> Result<Value, E> {
            Ok(Value::from(value))
        }
    )*};
}

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    plain! {
        visit_bool bool;
        visit_i64 i64;
        visit_u64 u64;
        visit_str &str;
        visit_string String;
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        Ok(Number::from_i128(value).map_or_else(|| Value::from(value.to_string()), Value::from))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        Ok(Number::from_u128(value).map_or_else(|| Value::from(value.to_string()), Value::from))
    }

    /// JSON has no infinite number, and none that is not a number.
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(Value::from(bytes))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Json(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some((Json(key), Json(value))) = map.next_entry()? {
            let key = match key {
                Value::String(text) => text,
                other => other.to_string(),
            };
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        let (Json(name), content) = data.variant()?;
        let Json(value) = content.newtype_variant()?;
        Ok(Value::from_iter([(name.as_str().unwrap_or_default().to_owned(), value)]))
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, MapDeserializer};

    use super::*;

    #[test]
    fn a_key_that_is_no_text_is_its_text() {
        let pairs = MapDeserializer::<_, Error>::new([(1u8, "one"), (2, "two")].into_iter());
        assert_eq!(Json::deserialize(pairs).expect("it is a map").0, serde_json::json!({ "1": "one", "2": "two" }));
    }

    #[test]
    fn bytes_are_numbers_and_what_is_no_number_is_null() {
        let visited = |value: Result<Value, Error>| value.expect("it is a value");
        assert_eq!(visited(AnyValue.visit_bytes(&[1, 255])), serde_json::json!([1, 255]));
        assert_eq!(visited(AnyValue.visit_f64(f64::NAN)), Value::Null);
        assert_eq!(visited(AnyValue.visit_u128(u128::MAX)), serde_json::json!(u128::MAX.to_string()));
        let five: Result<Json, Error> = Json::deserialize(5u8.into_deserializer());
        assert_eq!(five.expect("it is a number").0, serde_json::json!(5));
    }
}
