//! A value that nobody but the program it is for may see: plain text in a submission, sealed in everything that is stored.
//!
//! The invariant guarded here: neither `Debug` nor a refusal shows it. Serializing shows it, since a client has to send it;
//! [`Call::args_json`](crate::operation::Call::args_json) is what stores arguments, and masks what is not sealed.

use std::collections::BTreeMap;
use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::schema::{KnownFormat, Object, ObjectBuilder, SchemaFormat, Type};

/// What is shown instead of a secret.
pub const MASK: &str = "***";

/// One secret value. Hides itself from `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// As it was submitted, or as an agent opened it.
    Plain(String),
    /// As it is stored: text that only who holds the fleet's opening key can read.
    Sealed(String),
}

/// Secrets by the names of the variables they become.
pub type Secrets = BTreeMap<String, Secret>;

impl Secret {
    /// What may be stored: itself if it is sealed, the mask if it is not.
    #[must_use]
    pub fn stored(&self) -> Self {
        match self {
            Self::Plain(_) => Self::Plain(MASK.to_owned()),
            Self::Sealed(text) => Self::Sealed(text.clone()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => MASK,
            Self::Sealed(_) => "sealed",
        })
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Plain(text) => serializer.serialize_str(text),
            Self::Sealed(text) => BTreeMap::from([("sealed", text)]).serialize(serializer),
        }
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "writeOnly": true, "format": "password", "x-longshore-secret": true })
    }
}

/// Secrets in the API's description.
pub(super) fn described() -> Object {
    let secret = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Password)))
        .write_only(true)
        .extensions(Some(Extensions::builder().add("x-longshore-secret", true).build()));
    let text = "Variables whose values are secret: sealed before they are stored, shown as `***`, and given to the program in its environment only.";
    ObjectBuilder::new().description(Some(text)).additional_properties(Some(secret)).build()
}

/// Reads secrets without quoting any in an error, as serde's own errors would.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secrets, D::Error> {
    let Value::Object(fields) = Value::deserialize(deserializer)? else {
        return Err(D::Error::custom("must be an object of names and their secret values"));
    };
    let secret = |(name, value)| match value {
        Value::String(text) => Ok((name, Secret::Plain(text))),
        Value::Object(mut form) if form.len() == 1 => match form.remove("sealed") {
            Some(Value::String(text)) => Ok((name, Secret::Sealed(text))),
            Some(_) | None => Err(D::Error::custom("each secret must be text")),
        },
        Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            Err(D::Error::custom("each secret must be text"))
        }
    };
    fields.into_iter().map(secret).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_hide_from_debug_and_from_errors() {
        let read = |value: Value| deserialize(value);
        let secrets = read(json!({"A": "hunter2hunter2", "B": {"sealed": "x.y"}})).unwrap();
        assert_eq!(format!("{secrets:?}"), r#"{"A": ***, "B": sealed}"#);
        assert_eq!(serde_json::to_value(&secrets).unwrap(), json!({"A": "hunter2hunter2", "B": {"sealed": "x.y"}}));
        assert_eq!(serde_json::to_value(secrets["A"].stored()).unwrap(), json!(MASK));
        for wrong in [
            json!("hunter2hunter2"),
            json!(["hunter2hunter2"]),
            json!({"A": ["hunter2hunter2"]}),
            json!({"A": {"sealed": ["hunter2hunter2"]}}),
            json!({"A": {"open": "hunter2hunter2"}}),
            json!({"A": 2_222_222}),
        ] {
            let refusal = read(wrong.clone()).unwrap_err().to_string();
            assert!(!refusal.contains("hunter2") && !refusal.contains("222"), "{wrong}: {refusal}");
        }
    }
}
