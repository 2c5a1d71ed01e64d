//! `parameters`: what requests, inputs and outputs may say beside their fields.

use std::collections::BTreeMap;
use std::fmt;

use halny_types::Fault;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::proto::InferParameter;
use super::proto::infer_parameter::ParameterChoice;
use crate::ApiError;

/// The value of a parameter.
#[derive(Clone, Debug)]
pub(super) enum Parameter {
    Flag(bool),
    Whole(i64),
    Text(String),
    /// Of a type that no parameter read here has.
    Other,
}

// Written out because serde's untagged enums copy the whole value before they try a form.
impl<'de> Deserialize<'de> for Parameter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Parameter, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Parameter;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a parameter's value")
            }

            fn visit_bool<E: Error>(self, flag: bool) -> Result<Parameter, E> {
                Ok(Parameter::Flag(flag))
            }

            fn visit_i64<E: Error>(self, whole: i64) -> Result<Parameter, E> {
                Ok(Parameter::Whole(whole))
            }

            fn visit_u64<E: Error>(self, whole: u64) -> Result<Parameter, E> {
                Ok(i64::try_from(whole).map_or(Parameter::Other, Parameter::Whole))
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<Parameter, E> {
                Ok(Parameter::Other)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Parameter, E> {
                Ok(Parameter::Text(text.to_owned()))
            }

            fn visit_unit<E: Error>(self) -> Result<Parameter, E> {
                Ok(Parameter::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Parameter, A::Error> {
                while elements.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Parameter::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Parameter, A::Error> {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Parameter::Other)
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// Parameters by name. Those that nobody here knows are ignored, as the protocol has it.
pub(super) type Parameters = BTreeMap<String, Parameter>;

impl From<InferParameter> for Parameter {
    fn from(given: InferParameter) -> Parameter {
        match given.parameter_choice {
            Some(ParameterChoice::BoolParam(flag)) => Parameter::Flag(flag),
            Some(ParameterChoice::Int64Param(whole)) => Parameter::Whole(whole),
            Some(ParameterChoice::Uint64Param(whole)) => Parameter::Whole(i64::try_from(whole).unwrap_or(i64::MAX)),
            Some(ParameterChoice::StringParam(text)) => Parameter::Text(text),
            Some(ParameterChoice::DoubleParam(_)) | None => Parameter::Other,
        }
    }
}

/// Parameters of one thing: some times as many as all protocols together know.
const PARAMETERS_MAX: usize = 256;

/// Parameters in JSON; none where there is `null`.
pub(super) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Parameters, D::Error> {
    struct Map;

    impl<'de> Visitor<'de> for Map {
        type Value = Parameters;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of parameters")
        }

        fn visit_unit<E: Error>(self) -> Result<Parameters, E> {
            Ok(Parameters::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Parameters, A::Error> {
            let mut parameters = Parameters::new();
            while let Some((name, value)) = entries.next_entry()? {
                if parameters.len() == PARAMETERS_MAX {
                    return Err(A::Error::custom(format!("more than {PARAMETERS_MAX} parameters; leave some out")));
                }
                parameters.insert(name, value);
            }
            Ok(parameters)
        }
    }

    deserializer.deserialize_any(Map)
}

/// The parameters of a gRPC message.
pub(super) fn from_messages(given: BTreeMap<String, InferParameter>) -> Parameters {
    given.into_iter().map(|(name, value)| (name, value.into())).collect()
}

/// A parameter that is `true` or `false`; `false` where it is not given.
///
/// # Errors
/// When it is something else.
pub(super) fn flag(parameters: &Parameters, name: &'static str) -> Result<Option<bool>, ApiError> {
    match parameters.get(name) {
        None => Ok(None),
        Some(Parameter::Flag(flag)) => Ok(Some(*flag)),
        Some(_) => Err(ApiError::invalid(format!("the parameter `{name}` is true or false")).with_param(name)),
    }
}

/// A parameter that counts something.
///
/// # Errors
/// When it is not a whole number from 0 on.
pub(super) fn count(parameters: &Parameters, name: &'static str) -> Result<Option<u64>, ApiError> {
    let refused = || ApiError::invalid(format!("the parameter `{name}` is a whole number from 0 on")).with_param(name);
    match parameters.get(name) {
        None => Ok(None),
        Some(Parameter::Whole(whole)) => u64::try_from(*whole).map(Some).map_err(|_| refused()),
        Some(_) => Err(refused()),
    }
}

/// Refuses sequences: nothing of a request is kept for the next.
pub(super) fn check_request(parameters: &Parameters) -> Result<(), ApiError> {
    let asked = |name: &&str| match parameters.get(*name) {
        None | Some(Parameter::Flag(false) | Parameter::Whole(0)) => false,
        Some(Parameter::Text(text)) => !text.is_empty(),
        Some(_) => true,
    };
    match ["sequence_id", "sequence_start", "sequence_end"].into_iter().find(asked) {
        Some(name) => Err(unsupported(format!("sequences are not supported; leave the parameter `{name}` out"))),
        None => Ok(()),
    }
}

/// Refuses tensors in shared memory, and classification where outputs are asked for.
pub(super) fn check_tensor(parameters: &Parameters) -> Result<(), ApiError> {
    if parameters.keys().any(|name| name.starts_with("shared_memory_")) {
        return Err(unsupported(
            "shared memory is not supported; send tensors in the request and take them from the response",
        ));
    }
    if parameters.contains_key("classification") {
        return Err(unsupported("the parameter `classification` is not supported; take the output itself and sort it"));
    }
    Ok(())
}

fn unsupported(text: impl Into<String>) -> ApiError {
    ApiError::new(Fault::Unsupported, text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parameters_are_read_up_to_a_bound() {
        let json = |count: usize| {
            let entries: Vec<String> = (0..count).map(|number| format!("\"p{number}\": {number}")).collect();
            format!("{{{}}}", entries.join(","))
        };
        let read = |json: &str| super::read(&mut serde_json::Deserializer::from_str(json));
        assert_eq!(read(&json(PARAMETERS_MAX)).unwrap().len(), PARAMETERS_MAX);
        assert!(read(&json(PARAMETERS_MAX + 1)).unwrap_err().to_string().contains("256"));
        assert!(read("null").unwrap().is_empty());
        let odd =
            read(r#"{"a": [1, {"b": 2}], "c": {"d": []}, "e": 1.5, "f": null, "g": 18446744073709551615}"#).unwrap();
        assert!(odd.values().all(|value| matches!(value, Parameter::Other)), "{odd:?}");
        let plain = read(r#"{"a": true, "b": -7, "c": "t"}"#).unwrap();
        assert!(matches!(plain["a"], Parameter::Flag(true)) && matches!(plain["b"], Parameter::Whole(-7)));
        assert!(matches!(&plain["c"], Parameter::Text(text) if text == "t"));
        assert!(read("[]").is_err());
    }
}
