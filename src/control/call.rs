//! A varlink call. The parser keeps only what the methods can use, so that a large message does not
//! become a larger value.

use std::fmt;

use serde_core::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Limit of parameters, more than any method has.
const MOST_PARAMETERS: usize = 16;

/// One call.
#[derive(Debug, Default)]
pub(super) struct Call {
    pub(super) method: String,
    /// Numbers, texts, flags and nulls. An array or an object, which no method has, is an empty
    /// array. Of several with one name, the first.
    pub(super) parameters: Map<String, Value>,
    pub(super) more: bool,
    pub(super) oneway: bool,
    pub(super) upgrade: bool,
}

impl Call {
    /// Parses a message without its NUL. The error says what is wrong.
    pub(super) fn read(message: &[u8]) -> Result<Self, String> {
        let call: Self = serde_json::from_slice(message).map_err(|error| error.to_string())?;
        if call.method.is_empty() { Err("the method is missing".to_owned()) } else { Ok(call) }
    }
}

impl<'de> Deserialize<'de> for Call {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(CallVisitor)
    }
}

struct CallVisitor;

impl<'de> Visitor<'de> for CallVisitor {
    type Value = Call;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a varlink call")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Call, A::Error> {
        let mut call = Call::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "method" => call.method = map.next_value()?,
                "parameters" => {
                    let parameters = map.next_value::<Option<Parameters>>()?;
                    call.parameters = parameters.map_or_else(Map::new, |parameters| parameters.0);
                }
                "more" => call.more = map.next_value::<Option<bool>>()?.unwrap_or_default(),
                "oneway" => call.oneway = map.next_value::<Option<bool>>()?.unwrap_or_default(),
                "upgrade" => call.upgrade = map.next_value::<Option<bool>>()?.unwrap_or_default(),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(call)
    }
}

struct Parameters(Map<String, Value>);

impl<'de> Deserialize<'de> for Parameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ParametersVisitor)
    }
}

struct ParametersVisitor;

impl<'de> Visitor<'de> for ParametersVisitor {
    type Value = Parameters;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of parameters")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parameters, A::Error> {
        let (mut parameters, mut count) = (Map::new(), 0);
        while let Some((name, Parameter(value))) = map.next_entry::<String, Parameter>()? {
            if count == MOST_PARAMETERS {
                return Err(A::Error::custom("too many parameters"));
            }
            count += 1;
            parameters.entry(name).or_insert(value);
        }
        Ok(Parameters(parameters))
    }
}

struct Parameter(Value);

impl<'de> Deserialize<'de> for Parameter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParameterVisitor).map(Self)
    }
}

struct ParameterVisitor;

impl<'de> Visitor<'de> for ParameterVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(Vec::new()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Array(Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_with_its_flags_and_parameters() {
        let call = Call::read(
            br#"{"method":"a.b.C","more":true,"parameters":{"n":-3,"t":"x","o":{"a":[1]},"z":null},"x":[{}]}"#,
        )
        .unwrap();
        assert_eq!((call.method.as_str(), call.more, call.oneway), ("a.b.C", true, false));
        let expected = serde_json::json!({ "n": -3, "t": "x", "o": [], "z": null });
        assert_eq!(Value::Object(call.parameters), expected);
    }

    #[test]
    fn an_invalid_call_is_refused_with_a_reason() {
        let deep = format!(r#"{{"method":"a.b","x":{}"#, "[".repeat(500_000));
        let many = r#""k":0,"#.repeat(20);
        let many = format!(r#"{{"method":"a.b","parameters":{{{many}"l":0}}}}"#);
        for message in [
            "",
            "{}",
            "[]",
            "null",
            "\u{0}",
            r#"{"method":3}"#,
            r#"{"method":"a"} x"#,
            &deep,
            &many,
        ] {
            assert!(Call::read(message.as_bytes()).is_err(), "{message:.40}");
        }
        assert!(Call::read(b"{\"method\":\"\xff\"}").is_err());
    }

    #[test]
    fn null_parameters_and_flags_count_as_missing() {
        let call = Call::read(br#"{"method":"a.B","parameters":null,"more":null}"#).unwrap();
        assert!(call.parameters.is_empty() && !call.more);
    }
}
