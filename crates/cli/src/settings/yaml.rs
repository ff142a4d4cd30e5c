//! A YAML document in which every mapping value remembers its line.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    /// Anything but a mapping.
    Plain(Value),
    /// Keys in their order, each with its line (from 1) and what it holds.
    Mapping(Vec<(String, u64, Node)>),
}

impl Node {
    /// Reads a document; an empty one is an empty mapping.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Self::Mapping(Vec::new()));
        }
        match serde_saphyr::from_str(text) {
            Ok(Self::Plain(Value::Null)) => Ok(Self::Mapping(Vec::new())),
            Ok(Self::Plain(_)) => Err("it should be a mapping of settings".to_owned()),
            Ok(mapping) => Ok(mapping),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Without the lines.
    pub(crate) fn into_value(self) -> Value {
        match self {
            Self::Plain(value) => value,
            Self::Mapping(entries) => Value::Object(entries.into_iter().map(|(key, _, node)| (key, node.into_value())).collect()),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a setting or a mapping of settings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let (mut entries, mut seen) = (Vec::new(), BTreeSet::new());
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let node = map.next_value::<Node>()?;
            if !seen.insert(key.value.clone()) {
                return Err(A::Error::custom(format!("`{}` is given twice", key.value)));
            }
            entries.push((key.value, key.referenced.line(), node));
        }
        Ok(Node::Mapping(entries))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(node) = seq.next_element::<Node>()? {
            items.push(node.into_value());
        }
        Ok(Node::Plain(Value::Array(items)))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Plain(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Plain(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Plain(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Plain(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Plain(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Plain(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Plain(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Self::Value::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_remember_their_lines() {
        let Node::Mapping(entries) = Node::parse("# ours\nnats:\n  url: nats://x:4222\n\nagent: { max_jobs: 5 }\n").unwrap() else {
            panic!()
        };
        assert_eq!(entries.iter().map(|(key, line, _)| (key.as_str(), *line)).collect::<Vec<_>>(), [("nats", 2), ("agent", 5)]);
        let Node::Mapping(nats) = &entries[0].2 else { panic!() };
        assert_eq!(nats[0], ("url".to_owned(), 3, Node::Plain("nats://x:4222".into())));
    }

    #[test]
    fn documents_that_are_no_settings_are_refused() {
        for text in ["", "# only a remark\n", "---\n"] {
            assert_eq!(Node::parse(text), Ok(Node::Mapping(Vec::new())), "{text:?}");
        }
        for text in ["- a\n", "text", "a: 1\na: 2\n", "a: [1\n", "a: b: c\n"] {
            assert!(Node::parse(text).is_err(), "{text:?}");
        }
    }
}
