//! Objects that are read from objects only.
//!
//! serde's derived readers take the fields of a struct from a list as well, in their order. Nobody writes frames so, and a new field would give such a list another meaning.

use serde::Deserialize;
use serde::de::{self, DeserializeOwned, Deserializer};
use serde_json::Value;

use crate::envelope::Payload;

struct Object<T>(T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let fields = Payload::deserialize(from)?;
        T::deserialize(Value::Object(fields)).map(Self).map_err(de::Error::custom)
    }
}

/// A field that holds an object.
pub(crate) fn object<'de, T: DeserializeOwned, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Object::deserialize(from).map(|object| object.0)
}

/// A field that holds an object or nothing.
pub(crate) fn optional<'de, T: DeserializeOwned, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(from)?.map(|object| object.0))
}

/// A field that holds a list of objects or nothing.
pub(crate) fn list<'de, T: DeserializeOwned, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<T>>, D::Error> {
    let objects = Option::<Vec<Object<T>>>::deserialize(from)?;
    Ok(objects.map(|objects| objects.into_iter().map(|object| object.0).collect()))
}
