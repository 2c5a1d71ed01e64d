//! Names that users choose: checked once, at the edge, and safe in paths, labels and logs after.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 96;

/// Why a name was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// The name is empty or too long.
    #[error("a name has 1 to {NAME_BYTES_MAX} characters, this one has {0}")]
    Length(usize),
    /// A character that could mean something to a path, a label or a URL.
    #[error("a name is made of letters, digits, `.`, `_` and `-`; this one has {0:?}")]
    Character(char),
    /// A name that starts with a dot or a dash looks like a hidden file or an option.
    #[error("a name starts with a letter or a digit")]
    Start,
}

fn check(name: &str) -> Result<(), NameError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(NameError::Length(name.chars().count()));
    }
    if let Some(bad) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || "._-".contains(*c))) {
        return Err(NameError::Character(bad));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(NameError::Start);
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks the name.
            ///
            /// # Errors
            /// A [`NameError`] that says which rule the name breaks.
            pub fn new(name: &str) -> Result<$type, NameError> {
                check(name).map(|()| $type(Arc::from(name)))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(name: String) -> Result<$type, NameError> {
                $type::new(&name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &self.0)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "title": "name",
                    "description": format!(
                        "1 to {NAME_BYTES_MAX} letters, digits, `.`, `_` and `-`, the first a letter or a digit."
                    ),
                    "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$",
                    "minLength": 1,
                    "maxLength": NAME_BYTES_MAX,
                })
            }
        }
    };
}

name! {
    /// The name a client asks for a model by (`"model"` in OpenAI's protocol).
    ModelName
}
name! {
    /// The name of one way to run a model.
    ProfileName
}
name! {
    /// The name of a collection of vectors, or an alias of one.
    CollectionName
}
name! {
    /// The name of a route of the project's own.
    RouteName
}
name! {
    /// The name of a feature service.
    ServiceName
}
name! {
    /// The name of a queue of jobs, a schedule, a command or a webhook.
    QueueName
}
name! {
    /// Who a request belongs to.
    TenantId
}

impl TenantId {
    /// The tenant of every request until credentials say otherwise.
    #[must_use]
    pub fn anonymous() -> TenantId {
        TenantId(Arc::from("anonymous"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_mean_something_to_a_path_are_refused() {
        for bad in ["", "..", "../x", "a/b", "/etc", "a\0b", ".hidden", "-rf", "a b", "ü", &"x".repeat(97)] {
            assert!(ModelName::new(bad).is_err(), "{bad:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_name_survives_json(name in "[A-Za-z0-9][A-Za-z0-9._-]{0,95}") {
            let parsed = ModelName::new(&name).unwrap();
            let json = serde_json::to_string(&parsed).unwrap();
            prop_assert_eq!(serde_json::from_str::<ModelName>(&json).unwrap(), parsed);
        }

        #[test]
        fn any_text_is_accepted_or_refused_without_panic(name in ".*") {
            let _ = ModelName::new(&name);
        }
    }
}
