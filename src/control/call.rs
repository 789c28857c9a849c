//! A varlink call. The parser keeps only what the methods can use, so that a large message does not
//! become a larger value.

use std::fmt;

use serde_core::de::{
    DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};

/// Limit of parameters, more than any method has.
const MOST_PARAMETERS: usize = 16;

/// One call.
#[derive(Debug, Default)]
pub(super) struct Call {
    pub(super) method: String,
    /// Of several with one name, the first.
    pub(super) parameters: Map<String, Value>,
    pub(super) more: bool,
    pub(super) oneway: bool,
    pub(super) upgrade: bool,
}

impl Call {
    /// Parses a message without its NUL. The error says what is wrong.
    ///
    /// `nested` is how many values the arrays and objects among the parameters may have in all. With
    /// 0 they are not kept: an array or an object is an empty array.
    pub(super) fn read(message: &[u8], nested: usize) -> Result<Self, String> {
        let mut deserializer = serde_json::Deserializer::from_slice(message);
        let call = deserializer
            .deserialize_map(CallVisitor { nested })
            .and_then(|call| deserializer.end().map(|()| call))
            .map_err(|error| error.to_string())?;
        if call.method.is_empty() { Err("the method is missing".to_owned()) } else { Ok(call) }
    }
}

struct CallVisitor {
    nested: usize,
}

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
                    call.parameters = map.next_value_seed(Parameters { nested: self.nested })?;
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

/// Reads an object of parameters; null is an empty one.
struct Parameters {
    nested: usize,
}

impl<'de> DeserializeSeed<'de> for Parameters {
    type Value = Map<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Parameters {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of parameters")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Map::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut parameters, mut count) = (Map::new(), 0);
        let mut left = (self.nested > 0).then_some(self.nested);
        while let Some(name) = map.next_key::<String>()? {
            if count == MOST_PARAMETERS {
                return Err(A::Error::custom("too many parameters"));
            }
            count += 1;
            let value = map.next_value_seed(Parameter { left: &mut left })?;
            parameters.entry(name).or_insert(value);
        }
        Ok(parameters)
    }
}

/// Reads a value. `left` is how many more values arrays and objects may have; `None` to keep none.
struct Parameter<'a> {
    left: &'a mut Option<usize>,
}

impl Parameter<'_> {
    /// Counts a value in an array or an object.
    fn count<E: Error>(&mut self) -> Result<(), E> {
        match self.left {
            Some(0) => Err(E::custom("too many values")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Parameter<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Parameter<'_> {
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

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        if self.left.is_none() {
            while list.next_element::<IgnoredAny>()?.is_some() {}
        } else {
            while let Some(value) = list.next_element_seed(Parameter { left: self.left })? {
                self.count()?;
                values.push(value);
            }
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        if self.left.is_none() {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Value::Array(Vec::new()));
        }
        let mut values = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            self.count()?;
            values.insert(name, map.next_value_seed(Parameter { left: self.left })?);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_with_its_flags_and_parameters() {
        let call = Call::read(
            br#"{"method":"a.b.C","more":true,"parameters":{"n":-3,"t":"x","o":{"a":[1]},"z":null},"x":[{}]}"#,
            0,
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
            assert!(Call::read(message.as_bytes(), 0).is_err(), "{message:.40}");
        }
        assert!(Call::read(b"{\"method\":\"\xff\"}", 0).is_err());
    }

    #[test]
    fn arrays_and_objects_are_kept_up_to_a_number_of_values() {
        let message = br#"{"method":"a.B","parameters":{"s":{"c":["x",{"y":1}]},"n":2}}"#;
        let kept = Call::read(message, 4).unwrap().parameters;
        let expected = serde_json::json!({ "s": { "c": ["x", { "y": 1 }] }, "n": 2 });
        assert_eq!(Value::Object(kept), expected);
        assert!(Call::read(message, 3).unwrap_err().starts_with("too many values"));
        let deep = format!(r#"{{"method":"a.B","parameters":{{"s":{}"#, "[".repeat(500_000));
        assert!(Call::read(deep.as_bytes(), usize::MAX).is_err());
    }

    #[test]
    fn null_parameters_and_flags_count_as_missing() {
        let call = Call::read(br#"{"method":"a.B","parameters":null,"more":null}"#, 0).unwrap();
        assert!(call.parameters.is_empty() && !call.more);
    }
}
