//! Layers: what a file, the environment or the flags say, as a list of (key, value, origin).

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::Error;
use super::keys::{Keys, Named};
use super::yaml::Node;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Built in.
    Default,
    /// A line of a file.
    File(PathBuf, u64),
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(&'static str),
    /// A context of the user's.
    Context(String),
}

/// Where a layer stands among the others: later ones win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Layer {
    /// The settings files.
    Files,
    /// `--env-file`.
    EnvFile,
    /// The process's environment.
    Environment,
    /// The command line.
    Flags,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "env {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Context(name) => write!(f, "context {name}"),
        }
    }
}

/// What one layer says of one key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// Its dotted name as it is today.
    pub(crate) key: String,
    /// Its dotted name as it was written.
    pub(crate) spelling: String,
    /// The value.
    pub(crate) value: Value,
    /// Where it stands.
    pub(crate) origin: Origin,
    /// Among which others that is.
    pub(crate) layer: Layer,
}

/// The older name of a group, and the newer. Keys that the newer one lacks stay unknown.
const OLDER_GROUP: (&str, &str) = ("job.worker.", "agent.");
const PREFIX: &str = "LONGSHORE_";

fn newer(spelling: &str) -> String {
    spelling.strip_prefix(OLDER_GROUP.0).map_or_else(|| spelling.to_owned(), |rest| format!("{}{rest}", OLDER_GROUP.1))
}

/// A settings file.
pub(crate) fn file(keys: &Keys, path: &Path, text: &str) -> Result<Vec<Entry>, Error> {
    let root = Node::parse(text).map_err(|message| Error::Syntax { path: path.to_owned(), message })?;
    let mut entries = Vec::new();
    flatten(keys, "", root, path, 1, &mut entries)?;
    Ok(entries)
}

fn flatten(keys: &Keys, prefix: &str, node: Node, path: &Path, line: u64, entries: &mut Vec<Entry>) -> Result<(), Error> {
    let origin = Origin::File(path.to_owned(), line);
    let children = match node {
        Node::Mapping(children) => children,
        // A group with nothing below it, such as one whose settings are commented out.
        Node::Plain(Value::Null) => return Ok(()),
        Node::Plain(_) => return Err(Error::NotAMapping { key: prefix.to_owned(), origin }),
    };
    for (name, line, child) in children {
        let spelling = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        let origin = Origin::File(path.to_owned(), line);
        let key = newer(&spelling);
        match keys.named(&key) {
            Named::Leaf(_) => entries.push(Entry { key, spelling, value: child.into_value(), origin, layer: Layer::Files }),
            Named::Group => flatten(keys, &spelling, child, path, line, entries)?,
            Named::Unknown if OLDER_GROUP.0.starts_with(&format!("{spelling}.")) => flatten(keys, &spelling, child, path, line, entries)?,
            Named::Unknown => return Err(unknown(keys, spelling, origin)),
        }
    }
    Ok(())
}

/// Environment variables, from the process or from an `--env-file`. Two underscores nest.
pub(crate) fn variables(
    keys: &Keys,
    variables: impl IntoIterator<Item = (String, String)>,
    layer: Layer,
    origin: impl Fn(&str) -> Origin,
) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    for (name, text) in variables {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let dotted = rest.to_lowercase().replace("__", ".");
        if !rest.contains("__") {
            // Other programs and the agent itself use the prefix, so one word alone is nobody's mistake unless it is almost a key.
            let meant = keys.iter().map(|(key, _)| key).find(|key| key.replace('.', "_") == dotted);
            match meant {
                Some(key) => {
                    let nearest = Some(format!("{PREFIX}{}", key.to_uppercase().replace('.', "__")));
                    return Err(Error::UnknownKey { key: name.clone(), origin: origin(&name), nearest });
                }
                None => continue,
            }
        }
        entries.push(variable(keys, &dotted, &text, layer, origin(&name))?);
    }
    Ok(entries)
}

fn variable(keys: &Keys, dotted: &str, text: &str, layer: Layer, origin: Origin) -> Result<Entry, Error> {
    if let Named::Leaf(key) = keys.named(&newer(dotted)) {
        return Ok(Entry { key: newer(dotted), spelling: dotted.to_owned(), value: key.read(text), origin, layer });
    }
    // `…__TOKEN__FILE=/x` says `token: {file: /x}`.
    if let Some((parent, last)) = dotted.rsplit_once('.')
        && let Named::Leaf(key) = keys.named(parent)
        && key.secret
    {
        let value = Value::Object([(last.to_owned(), Value::from(text))].into_iter().collect());
        return Ok(Entry { key: parent.to_owned(), spelling: parent.to_owned(), value, origin, layer });
    }
    match keys.named(dotted) {
        Named::Group => Err(Error::NotAMapping { key: dotted.to_owned(), origin }),
        Named::Leaf(_) | Named::Unknown => Err(unknown(keys, dotted.to_owned(), origin)),
    }
}

/// The lines of an `--env-file`: `NAME=value`, `export NAME=value`, `# remark`; quotes around the value are taken off.
pub(crate) fn env_file(path: &Path, text: &str) -> Result<Vec<(u64, String, String)>, Error> {
    let mut variables = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.strip_prefix("export ").unwrap_or(line).split_once('=') else {
            return Err(Error::Syntax { path: path.to_owned(), message: format!("line {number} is not NAME=value") });
        };
        let value = value.trim();
        let bare = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote)).unwrap_or(value);
        variables.push((number, name.trim().to_owned(), bare.to_owned()));
    }
    Ok(variables)
}

fn unknown(keys: &Keys, key: String, origin: Origin) -> Error {
    let nearest = keys.nearest(&key).map(str::to_owned);
    Error::UnknownKey { key, origin, nearest }
}
