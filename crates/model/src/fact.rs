//! `@fact.PATH` inside text: found and replaced, once.
//!
//! A path is everything of `A-Z a-z 0-9 _ -`, and of dots between those, that follows `@fact.`. `\@fact.` stands for the text `@fact.` itself.
//! What is put in is never looked at again, so a fact whose value reads like a reference stays what it is. Pure: whoever replaces hands in
//! the values.
//!
//! The invariant guarded here: a fact is data. It stays inside the text that names it, and nothing that a shell would take for its own
//! becomes part of a script.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::limits::{FACT_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::operation::nearest;
use crate::wire::facts::Facts;

const MARK: &str = "@fact.";
/// Paths that a refusal lists when nothing is near.
const PATHS_SHOWN_MAX: usize = 12;

/// The values of facts by their paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FactValues(BTreeMap<String, String>);

/// What the text around a reference is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A word, a name, an address: whatever is put in is data.
    Word,
    /// A script, which a shell reads: only what no shell can take for anything but a word is put in.
    Script,
}

/// Why a reference could not be replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactError {
    /// Nothing that could be a path follows the mark.
    #[error("`@fact.` is followed by no path: write `@fact.hostname`, or `\\@fact.` for the text itself")]
    NoPath,
    /// The host has no such fact.
    #[error("the host has no fact {path:?}: {}", hint(nearest, *is_near))]
    Unknown {
        /// What was asked for.
        path: String,
        /// What it may have meant, or what there is.
        nearest: Vec<String>,
        /// Whether these are near.
        is_near: bool,
    },
    /// A shell would take a part of its value for its own.
    #[error(
        "the value of `@fact.{path}` has characters that a shell takes for its own, so it is not put into a script: hand it over in `env`, such as {{\"FACT\": \"@fact.{path}\"}}, and write \"$FACT\""
    )]
    NotForScripts {
        /// Of the fact.
        path: String,
    },
    /// The text with everything in it is too long.
    #[error("with the facts in them the arguments have more than {REQUEST_BYTES_MAX} bytes")]
    TooLarge,
}

fn hint(nearest: &[String], is_near: bool) -> String {
    match (nearest, is_near) {
        ([], _) => "it has none".to_owned(),
        (near, true) => format!("did you mean {}?", near.join(", ")),
        (some, false) => format!("there are {} and others; `longshore agent facts HOST` shows them", some.join(", ")),
    }
}

impl FactValues {
    /// Every fact that is one value. Those that are empty or longer than [`FACT_BYTES_MAX`], or have control characters, are left out.
    #[must_use]
    pub fn of(facts: &Facts) -> Self {
        let mut values = BTreeMap::new();
        let json = serde_json::to_value(facts).expect("facts have string keys only");
        flatten(String::new(), &json, &mut values);
        Self(values)
    }

    /// The value of a fact.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// Paths and values, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(path, value)| (path.as_str(), value.as_str()))
    }

    fn unknown(&self, path: &str) -> FactError {
        let near = nearest(path, self.0.keys().map(String::as_str));
        let is_near = !near.is_empty();
        let some = self.0.keys().filter(|path| !path.starts_with("interfaces.")).take(PATHS_SHOWN_MAX).map(String::as_str);
        let nearest = if is_near { near } else { some.collect() };
        FactError::Unknown { path: path.to_owned(), nearest: nearest.into_iter().map(str::to_owned).collect(), is_near }
    }
}

fn flatten(path: String, value: &Value, into: &mut BTreeMap<String, String>) {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(is_so) => is_so.to_string(),
        Value::Null | Value::Array(_) => return,
        Value::Object(fields) => {
            for (name, value) in fields {
                flatten(if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, value, into);
            }
            return;
        }
    };
    if !text.is_empty() && text.len() <= FACT_BYTES_MAX && !text.chars().any(char::is_control) {
        into.insert(path, text);
    }
}

/// Whether any text in `args` has a reference, or the text of one that is to be left alone.
#[must_use]
pub fn is_mentioned(args: &Value) -> bool {
    match args {
        Value::String(text) => text.contains(MARK),
        Value::Array(items) => items.iter().any(is_mentioned),
        Value::Object(fields) => fields.values().any(is_mentioned),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Replaces every reference in `text` by what `value` gives for its path.
///
/// # Errors
/// The first reference without a path, and whatever `value` refuses.
pub fn replace(text: &str, mut value: impl FnMut(&str) -> Result<String, FactError>) -> Result<String, FactError> {
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(MARK) {
        let (before, from) = rest.split_at(at);
        let after = &from[MARK.len()..];
        if let Some(before) = before.strip_suffix('\\') {
            replaced.push_str(before);
            replaced.push_str(MARK);
            rest = after;
            continue;
        }
        replaced.push_str(before);
        let path = path_of(after);
        if path.is_empty() {
            return Err(FactError::NoPath);
        }
        replaced.push_str(&value(path)?);
        if replaced.len() > REQUEST_BYTES_MAX {
            return Err(FactError::TooLarge);
        }
        rest = &after[path.len()..];
    }
    replaced.push_str(rest);
    Ok(replaced)
}

/// Names with single dots between them; a dot that ends a sentence is none of it.
fn path_of(text: &str) -> &str {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let bytes = text.as_bytes();
    let mut end = 0;
    while end < bytes.len() && (is_name(bytes[end]) || (end > 0 && bytes[end] == b'.' && bytes.get(end + 1).copied().is_some_and(is_name)))
    {
        end += 1;
    }
    &text[..end]
}

/// What stands for a reference at this place.
///
/// # Errors
/// The host has no such fact, or its value is not for scripts.
pub fn value_at(values: &FactValues, place: Place, path: &str) -> Result<String, FactError> {
    let value = values.get(path).ok_or_else(|| values.unknown(path))?;
    match place {
        Place::Script if !is_plain(value) => Err(FactError::NotForScripts { path: path.to_owned() }),
        Place::Word | Place::Script => Ok(value.to_owned()),
    }
}

/// Whether a shell takes it for (a part of) one word and nothing else, whatever quotes it stands in: no quotes, blanks, expansions or
/// separators, no `..` and no comma (a range or a list between braces), no `-` at its beginning (an option).
fn is_plain(value: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'/' | b'@' | b'+' | b'-');
    value.bytes().all(is_fine) && !value.starts_with('-') && !value.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::facts::{InterfaceFact, InterfaceFacts};

    fn values() -> FactValues {
        let primary = InterfaceFact { address: Some("192.0.2.7".to_owned()), addresses: vec!["192.0.2.7".to_owned()], mac: None };
        FactValues::of(&Facts {
            hostname: "web-01".to_owned(),
            arch: Some("x86_64".to_owned()),
            kernel: Some("@fact.arch \\@fact. $(id)".to_owned()),
            timezone: Some(String::new()),
            fqdn: Some("a\nb".to_owned()),
            virtualization: Some("x".repeat(FACT_BYTES_MAX + 1)),
            interface: InterfaceFacts { primary: Some("eth0".to_owned()), address: None },
            interfaces: [("eth0".to_owned(), primary)].into(),
            label: [("group".to_owned(), "web.dev".to_owned())].into(),
            ..Facts::default()
        })
    }

    fn put(place: Place, text: &str) -> Result<String, FactError> {
        let values = values();
        replace(text, |path| value_at(&values, place, path))
    }

    #[test]
    fn references_are_replaced_once_and_where_they_end_is_plain() {
        for (text, expected) in [
            ("", ""),
            ("@fact.hostname", "web-01"),
            ("@fact.hostname.", "web-01."),
            ("see @fact.hostname, @fact.interface.primary!", "see web-01, eth0!"),
            ("[@fact.interfaces.eth0.address]", "[192.0.2.7]"),
            ("@fact.label.group@fact.arch", "web.devx86_64"),
            ("ü@fact.hostnameü", "üweb-01ü"),
            (r"\@fact.hostname", "@fact.hostname"),
            (r"\@fact.", "@fact."),
            (r"a\\@fact.hostname", r"a\@fact.hostname"),
            ("@facts.hostname @fact", "@facts.hostname @fact"),
            ("@fact.kernel", r"@fact.arch \@fact. $(id)"),
        ] {
            assert_eq!(put(Place::Word, text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_no_host_has_is_refused_with_what_it_may_have_meant() {
        for (text, expected) in [
            ("@fact.hostnmae", "no fact \"hostnmae\": did you mean hostname"),
            ("@fact.interface.primry", "did you mean interface.primary"),
            ("@fact.label.gruop", "label.group"),
            ("@fact.zzzzzz", "there are arch, hostname"),
            ("@fact.hostname.example", "no fact \"hostname.example\""),
            ("@fact.interfaces.eth0.addresses", "no fact"),
            ("@fact.interfaces", "no fact"),
            ("@fact.timezone", "no fact"),
            ("@fact.fqdn", "no fact"),
            ("@fact.virtualization", "no fact"),
            ("@fact.", "no path"),
            ("@fact..hostname", "no path"),
            ("@fact.\0", "no path"),
        ] {
            let refused = put(Place::Word, text).unwrap_err().to_string();
            assert!(refused.contains(expected), "{text}: {refused}");
        }
        let none = FactValues::default();
        assert!(value_at(&none, Place::Word, "x").unwrap_err().to_string().ends_with("it has none"));
    }

    #[test]
    fn nothing_that_a_shell_takes_for_its_own_becomes_part_of_a_script() {
        for value in [
            "'", "\"", "a b", "a\tb", "$(id)", "`id`", "${x}", "a;b", "a|b", "a&b", "a>b", "a<b", "a(b", "a{b", "a}b", "a*b", "a?b", "a[b",
            "a]b", "~root", "#x", "a!b", "a\\b", "-rf", "--help", "1..3", "a,b", "a=b", "a%b", "ü", "a^b",
        ] {
            let values = FactValues([("x".to_owned(), value.to_owned())].into());
            assert_eq!(value_at(&values, Place::Word, "x").as_deref(), Ok(value));
            assert!(value_at(&values, Place::Script, "x").is_err(), "{value:?}");
        }
        for value in ["web-01", "192.0.2.1", "fe80::1", "Europe/Berlin", "6.12.0-1+deb13", "web.dev.us-east", "a@b", "a_b"] {
            let values = FactValues([("x".to_owned(), value.to_owned())].into());
            assert_eq!(value_at(&values, Place::Script, "x").as_deref(), Ok(value));
        }
        assert_eq!(put(Place::Script, "echo '@fact.kernel'"), Err(FactError::NotForScripts { path: "kernel".to_owned() }));
    }

    #[test]
    fn what_grows_too_large_is_refused() {
        let values = FactValues([("x".to_owned(), "y".repeat(FACT_BYTES_MAX))].into());
        let text = "@fact.x ".repeat(2 * REQUEST_BYTES_MAX / FACT_BYTES_MAX);
        assert_eq!(replace(&text, |path| value_at(&values, Place::Word, path)), Err(FactError::TooLarge));
    }
}
