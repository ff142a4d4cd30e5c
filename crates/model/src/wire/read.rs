//! Reading JSON that somebody else wrote: the place of a fault is named, and what is meant to be an object has to be one.
//!
//! serde's derived readers take the fields of a struct from a list as well, in their order. Nobody describes requests so, a new field
//! would give such a list another meaning, and what looks for a field by its name, as the masking of secrets does, would miss it. So a
//! list is refused wherever a struct is read, at every depth. Out of reach is only what serde buffers before it looks, for `untagged`
//! and `flatten`: types of requests that need such a choice make it themselves, as [`StepArgs`](super::args::StepArgs) does.

use std::fmt;

use serde::Deserialize;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_path_to_error::{Path, Segment};

/// What cannot be read, and where it stands.
#[derive(Debug)]
pub struct Unreadable<E> {
    /// JSON pointer; empty for the whole.
    pub pointer: String,
    /// What is wrong there.
    pub cause: E,
}

/// Reads a value of a self-describing format.
///
/// # Errors
/// What is not a `T`, and a list where `T` has an object.
pub fn read<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<T, Unreadable<D::Error>> {
    serde_path_to_error::deserialize(strict(from)).map_err(|error| Unreadable { pointer: pointer(error.path()), cause: error.into_inner() })
}

/// The same, for those who need no place, or find it themselves: what is read from this as a struct has to be an object, at every depth.
pub fn strict<'de, D: Deserializer<'de>>(from: D) -> impl Deserializer<'de, Error = D::Error> {
    Strict(from)
}

/// Reads a whole JSON text that way.
///
/// # Errors
/// What is not a `T`, a list where `T` has an object, and anything after it.
pub fn read_text<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = T::deserialize(strict(&mut reader))?;
    reader.end()?;
    Ok(value)
}

fn pointer(path: &Path) -> String {
    path.iter().fold(String::new(), |mut text, segment| {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("/{index}")),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                text.push('/');
                text.push_str(&key.replace('~', "~0").replace('/', "~1"));
            }
            Segment::Unknown => {}
        }
        text
    })
}

/// Whatever a value is read from, such that every struct below is read from an object.
struct Strict<T>(T);

/// A visitor who is shown what is [`Strict`].
struct Guest<V> {
    visitor: V,
    is_struct: bool,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(Guest { visitor, is_struct: false })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_struct(name, fields, Guest { visitor, is_struct: true })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_option(Guest { visitor, is_struct: false })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_newtype_struct(name, Guest { visitor, is_struct: false })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, Guest { visitor, is_struct: false })
    }

    // The format says what each of these is.
    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

macro_rules! hand_on {
    ($($method:ident: $kind:ty;)*) => {$(
        fn $method<E: de::Error>(self, value: $kind) -> Result<V::Value, E> {
            self.visitor.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Guest<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<V::Value, A::Error> {
        if self.is_struct {
            return Err(de::Error::invalid_type(Unexpected::Seq, &"an object"));
        }
        self.visitor.visit_seq(Strict(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Strict(object))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, choice: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(Strict(choice))
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Strict(inner))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(Strict(inner))
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    hand_on! {
        visit_bool: bool;
        visit_i64: i64;
        visit_i128: i128;
        visit_u64: u64;
        visit_u128: u128;
        visit_f64: f64;
        visit_str: &str;
        visit_borrowed_str: &'de str;
        visit_string: String;
        visit_bytes: &[u8];
        visit_borrowed_bytes: &'de [u8];
        visit_byte_buf: Vec<u8>;
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Strict(from))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Strict<A> {
    type Error = A::Error;
    type Variant = Strict<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        self.0.variant_seed(seed).map(|(value, variant)| (value, Strict(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(Strict(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(len, Guest { visitor, is_struct: false })
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, A::Error> {
        self.0.struct_variant(fields, Guest { visitor, is_struct: true })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Leaf {
        n: u32,
        text: Option<String>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    enum Choice {
        Bare,
        One(Leaf),
        Two(u8, Leaf),
        Named { leaf: Leaf },
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Newtype(Leaf);

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Tree {
        leaf: Leaf,
        maybe: Option<Leaf>,
        list: Vec<Leaf>,
        pair: (u8, Leaf),
        by_name: BTreeMap<String, Leaf>,
        newtype: Option<Newtype>,
        choice: Option<Choice>,
        boxed: Option<Box<Tree>>,
        anything: serde_json::Value,
        number: f64,
        flag: bool,
    }

    #[test]
    fn a_list_is_refused_wherever_an_object_is_meant() {
        for (value, place) in [
            (json!([]), ""),
            (json!([{"n": 1}]), ""),
            (json!({"leaf": [1]}), "/leaf"),
            (json!({"maybe": []}), "/maybe"),
            (json!({"list": [{}, [1, "x"]]}), "/list/1"),
            (json!({"pair": [1, [2]]}), "/pair/1"),
            (json!({"by_name": {"a/b~": [1]}}), "/by_name/a~1b~0"),
            (json!({"newtype": [1]}), "/newtype"),
            (json!({"choice": {"One": [1]}}), "/choice/One"),
            (json!({"choice": {"Two": [1, [2]]}}), "/choice/Two/1"),
            (json!({"choice": {"Named": [{}]}}), "/choice/Named"),
            (json!({"choice": {"Named": {"leaf": [1]}}}), "/choice/Named/leaf"),
            (json!({"boxed": {"boxed": {"leaf": [1]}}}), "/boxed/boxed/leaf"),
        ] {
            let text = value.to_string();
            let from_text = read::<Tree, _>(&mut serde_json::Deserializer::from_str(&text)).unwrap_err();
            let from_value = read::<Tree, _>(value).unwrap_err();
            for found in [from_text, from_value] {
                assert_eq!(found.pointer, place, "{text}");
                assert!(found.cause.is_data() && found.cause.to_string().contains("invalid type: sequence"), "{text}: {found:?}");
            }
        }
    }

    #[test]
    fn everything_else_is_read_as_ever() {
        for value in [
            json!({}),
            json!({"leaf": {"n": 7, "text": "x"}, "maybe": null, "list": [{}, {"n": 1}], "pair": [1, {"n": 2}]}),
            json!({"by_name": {"a": {"n": 1}}, "newtype": {"n": 3}, "choice": "Bare", "number": 1, "flag": true}),
            json!({"choice": {"One": {"n": 1}}, "anything": [1, -2, 2.5, "x", null, {"deep": [[1], {"y": false}]}], "number": -1.5}),
            json!({"choice": {"Two": [1, {"n": 2}]}, "boxed": {"choice": {"Named": {"leaf": {"text": "\u{fc}\n"}}}}, "unknown": [[]]}),
        ] {
            let plain: Tree = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(read::<Tree, _>(&mut serde_json::Deserializer::from_str(&value.to_string())).unwrap(), plain, "{value}");
            assert_eq!(read::<Tree, _>(value).unwrap(), plain);
        }
        for text in [r#"{"leaf": {"n": 1, "n": 2}}"#, r#"{"leaf": {"n": "1"}}"#, r#"{"leaf": 1}"#, r#"{"leaf""#, r#"{"flag": 0}"#] {
            let plain = serde_json::from_str::<Tree>(text).unwrap_err().to_string();
            assert_eq!(read::<Tree, _>(&mut serde_json::Deserializer::from_str(text)).unwrap_err().cause.to_string(), plain);
        }
    }
}
