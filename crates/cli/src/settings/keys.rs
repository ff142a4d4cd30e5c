//! The list of keys, taken from the schema of [`Settings`]: names, meanings, defaults, and what each takes.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::schema::Settings;

/// One setting.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Key {
    /// What it means.
    pub(crate) doc: String,
    /// What holds unless something is said.
    pub(crate) default: Value,
    /// Whether its value is a reference to a secret.
    pub(crate) secret: bool,
    /// Whether its value is an address that credentials may stand in.
    pub(crate) address: bool,
    /// Whether it takes a number.
    integer: bool,
    /// Whether it takes a number that may have a fraction.
    fraction: bool,
    /// Whether it is on or off.
    boolean: bool,
    /// Whether it takes names with values.
    mapping: bool,
    /// Whether it takes several values.
    list: bool,
}

/// Every setting by its dotted name.
#[derive(Debug)]
pub(crate) struct Keys(BTreeMap<String, Key>);

/// What a dotted name stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Named<'a> {
    /// A setting.
    Leaf(&'a Key),
    /// Settings below it.
    Group,
    /// Nothing.
    Unknown,
}

/// The JSON Schema of the whole configuration.
pub(crate) fn schema() -> Value {
    SchemaSettings::draft2020_12()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<Settings>()
        .into()
}

impl Keys {
    /// All of them.
    pub(crate) fn all() -> Self {
        let defaults = serde_json::to_value(Settings::default()).unwrap_or_default();
        let mut keys = BTreeMap::new();
        collect("", &schema(), &defaults, &mut keys);
        Self(keys)
    }

    /// In the order of their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Key)> {
        self.0.iter().map(|(name, key)| (name.as_str(), key))
    }

    /// What `name` stands for.
    pub(crate) fn named(&self, name: &str) -> Named<'_> {
        if let Some(key) = self.0.get(name) {
            return Named::Leaf(key);
        }
        let group = format!("{name}.");
        if self.0.range(group.clone()..).next().is_some_and(|(key, _)| key.starts_with(&group)) { Named::Group } else { Named::Unknown }
    }

    /// The key that somebody who wrote `name` may have meant.
    pub(crate) fn nearest(&self, name: &str) -> Option<&str> {
        let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
        let likeness = |key: &str| {
            let whole = strsim::normalized_damerau_levenshtein(name, key);
            let end = strsim::normalized_damerau_levenshtein(&last(name), &last(key));
            whole.max(0.5 * whole + 0.5 * end)
        };
        let best = self.0.keys().map(|key| (likeness(key), key)).max_by(|a, b| a.0.total_cmp(&b.0))?;
        (best.0 > 0.6).then_some(best.1.as_str())
    }
}

impl Key {
    /// What a piece of text from the environment or a flag means for this key.
    pub(crate) fn read(&self, text: &str) -> Value {
        match text.parse::<i64>() {
            Ok(_) | Err(_) if self.boolean => text.parse::<bool>().map_or_else(|_| Value::from(text), Value::from),
            Ok(number) if self.integer => Value::from(number),
            Ok(_) | Err(_) if self.fraction => text.parse::<f64>().map_or_else(|_| Value::from(text), Value::from),
            Ok(_) | Err(_)
                if ((self.secret || self.mapping) && text.trim_start().starts_with('{'))
                    || (self.list && text.trim_start().starts_with('[')) =>
            {
                serde_saphyr::from_str(text).unwrap_or_else(|_| Value::from(text))
            }
            Ok(_) | Err(_) if self.list => {
                let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
                bare.split(',').map(|item| Value::from(item.trim())).filter(|item| item != "").collect()
            }
            Ok(_) | Err(_) => Value::from(text),
        }
    }
}

fn collect(prefix: &str, schema: &Value, defaults: &Value, keys: &mut BTreeMap<String, Key>) {
    let none = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    for (name, schema) in properties {
        let dotted = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let default = defaults.get(name).cloned().unwrap_or_default();
        let secret = mentions(schema, "x-secret");
        if schema.get("properties").is_some() && !secret {
            collect(&dotted, schema, &default, keys);
            continue;
        }
        let doc = schema.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
        let integer = schema.get("type").is_some_and(|kind| kind.to_string().contains("integer"));
        let fraction = schema.get("type").is_some_and(|kind| kind == "number");
        let address = mentions(schema, "x-address");
        let is_a = |what: &str| schema.get("type").is_some_and(|kind| kind == what);
        let (mapping, list, boolean) = (is_a("object"), is_a("array"), is_a("boolean"));
        keys.insert(dotted, Key { doc, default, secret, address, integer, fraction, boolean, mapping, list });
    }
}

/// Whether the schema, or an alternative of it, has this marker.
fn mentions(schema: &Value, marker: &str) -> bool {
    let alternatives = schema.get("anyOf").and_then(Value::as_array);
    schema.get(marker).is_some() || alternatives.is_some_and(|all| all.iter().any(|one| mentions(one, marker)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_documented() {
        let keys = Keys::all();
        let silent: Vec<_> = keys.iter().filter(|(_, key)| key.doc.len() < 10).map(|(name, _)| name).collect();
        assert_eq!(silent, Vec::<&str>::new());
        assert!(keys.iter().count() > 30);
    }

    #[test]
    fn names_are_leaves_groups_or_nothing() {
        let keys = Keys::all();
        assert!(matches!(keys.named("nats.url"), Named::Leaf(key) if !key.secret && key.default.is_null()));
        assert!(matches!(keys.named("nats.auth.token"), Named::Leaf(key) if key.secret));
        assert!(matches!(keys.named("agent.max_jobs"), Named::Leaf(key) if key.default == 10));
        assert_eq!(keys.named("nats.auth"), Named::Group);
        assert_eq!(keys.named("nats.aut"), Named::Unknown);
        assert_eq!(keys.named(""), Named::Unknown);
    }

    #[test]
    fn the_key_that_was_meant_is_found() {
        let keys = Keys::all();
        for (typed, meant) in [
            ("nats.ulr", Some("nats.url")),
            ("agent.maxjobs", Some("agent.max_jobs")),
            ("agent.max-jobs", Some("agent.max_jobs")),
            ("nats.kv.max_byte", Some("nats.kv.max_bytes")),
            ("controler.api.listen", Some("controller.api.listen")),
            ("api.listen", Some("controller.api.listen")),
            ("zzz", None),
        ] {
            assert_eq!(keys.nearest(typed), meant, "{typed}");
        }
    }

    #[test]
    fn text_is_read_as_the_key_wants_it() {
        let keys = Keys::all();
        let read = |name: &str, text: &str| match keys.named(name) {
            Named::Leaf(key) => key.read(text),
            Named::Group | Named::Unknown => Value::Null,
        };
        assert_eq!(read("agent.max_jobs", "5"), 5);
        assert_eq!(read("agent.hostname", "5"), "5");
        assert_eq!(read("agent.conditions.high_load_multiplier", "1.5"), 1.5);
        assert_eq!((read("controller.gateway.enabled", "false"), read("controller.gateway.enabled", "no")), (false.into(), "no".into()));
        assert_eq!(read("nats.kv.max_bytes", "100MiB"), "100MiB");
        assert_eq!(read("nats.kv.max_bytes", "1024"), 1024);
        for list in ["1s,2m", "1s, 2m", "[1s, 2m]"] {
            assert_eq!(read("agent.consumer.back_off", list), serde_json::json!(["1s", "2m"]));
        }
        assert_eq!(read("agent.labels", "{group: web}"), serde_json::json!({"group": "web"}));
        assert_eq!(read("nats.auth.token", "{file: /x}"), serde_json::json!({"file": "/x"}));
    }
}
