//! Reads the layers in their order and puts them together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use longshore_model::wire::read::strict;
use serde_json::{Map, Value};

use super::address::without_credentials;
use super::bounds;
use super::error::Error;
use super::keys::{Key, Keys, Named};
use super::layer::{self, Entry, Layer, Origin};
use super::schema::Settings;

/// Which layers there are beside the defaults.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    /// Files that may be missing, weakest first.
    pub(crate) usual: Vec<PathBuf>,
    /// `--config`: must be there.
    pub(crate) config: Option<PathBuf>,
    /// `--env-file`: must be there.
    pub(crate) env_file: Option<PathBuf>,
    /// The environment.
    pub(crate) variables: Vec<(String, String)>,
    /// Flags: the key, the flag's name, the value.
    pub(crate) flags: Vec<(&'static str, &'static str, String)>,
}

/// The settings, and where each came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// What is in force.
    pub(crate) settings: Settings,
    keys: Keys,
    said: BTreeMap<String, Vec<Entry>>,
    variables: BTreeMap<&'static str, Variable>,
    /// Files that were read.
    pub(crate) files: Vec<PathBuf>,
}

/// What a variable says that is for client commands and no setting.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Variable {
    /// Its value, never empty.
    pub(crate) value: String,
    /// Where it stands.
    pub(crate) origin: Origin,
    /// Among which others that is.
    pub(crate) layer: Layer,
}

/// Their names.
const CLIENT_VARIABLES: [&str; 3] = ["LONGSHORE_URL", "LONGSHORE_TOKEN_FILE", "LONGSHORE_CONTEXT"];

/// The user's own folder for Longshore's files.
pub(crate) fn user_dir() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = set("XDG_CONFIG_HOME").filter(|path| path.is_absolute()).or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(config.join("longshore"))
}

impl Sources {
    /// The system's and the user's files, and this process's environment.
    pub(crate) fn of_this_process(config: Option<PathBuf>, env_file: Option<PathBuf>) -> Self {
        let mut usual = vec![PathBuf::from("/etc/longshore/longshore.yaml")];
        usual.extend(user_dir().map(|dir| dir.join("longshore.yaml")));
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        let mut variables: Vec<_> = std::env::vars_os().filter_map(text).collect();
        variables.sort();
        Self { usual, config, env_file, variables, flags: Vec::new() }
    }

    /// Reads everything.
    pub(crate) fn load(&self) -> Result<Loaded, Error> {
        let keys = Keys::all();
        let mut entries = Vec::new();
        let mut files = Vec::new();
        let mut variables = BTreeMap::new();
        let mut note = |name: &str, value: &str, layer, origin| {
            if let Some(name) = CLIENT_VARIABLES.into_iter().find(|known| *known == name && !value.is_empty()) {
                variables.insert(name, Variable { value: value.to_owned(), origin, layer });
            }
        };
        for path in self.usual.iter().chain(&self.config) {
            let optional = self.config.as_ref() != Some(path);
            if let Some(text) = read(path, optional)? {
                entries.extend(layer::file(&keys, path, &text)?);
                files.push(path.clone());
            }
        }
        if let Some(path) = &self.env_file {
            let text = read(path, false)?.unwrap_or_default();
            for (line, name, value) in layer::env_file(path, &text)? {
                note(&name, &value, Layer::EnvFile, Origin::File(path.clone(), line));
                entries.extend(layer::variables(&keys, [(name, value)], Layer::EnvFile, |_| Origin::File(path.clone(), line))?);
            }
            files.push(path.clone());
        }
        let of_process = |name: &str| Origin::Variable(name.to_owned());
        self.variables.iter().for_each(|(name, value)| note(name, value, Layer::Environment, of_process(name)));
        entries.extend(layer::variables(&keys, self.variables.iter().cloned(), Layer::Environment, of_process)?);
        for (key, flag, text) in &self.flags {
            let value = match keys.named(key) {
                Named::Leaf(key) => key.read(text),
                Named::Group | Named::Unknown => Value::from(text.as_str()),
            };
            entries.push(Entry {
                key: (*key).to_owned(),
                spelling: (*key).to_owned(),
                value,
                origin: Origin::Flag(flag),
                layer: Layer::Flags,
            });
        }
        Loaded::put_together(keys, entries, variables, files)
    }
}

fn read(path: &Path, optional: bool) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

impl Loaded {
    fn put_together(
        keys: Keys,
        entries: Vec<Entry>,
        variables: BTreeMap<&'static str, Variable>,
        files: Vec<PathBuf>,
    ) -> Result<Self, Error> {
        let mut said: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        for entry in entries {
            let others = said.entry(entry.key.clone()).or_default();
            // A flag is neither spelling, and wins over both.
            let other = others.iter().find(|other| other.spelling != entry.spelling);
            if let Some(other) = other.filter(|_| entry.layer != Layer::Flags) {
                let (newer, older) = if entry.spelling == entry.key { (&entry, other) } else { (other, &entry) };
                return Err(Error::TwoSpellings {
                    newer: newer.spelling.clone(),
                    newer_origin: newer.origin.clone(),
                    older: older.spelling.clone(),
                    older_origin: older.origin.clone(),
                });
            }
            others.push(entry);
        }
        let mut loaded = Self { settings: Settings::default(), keys, said, variables, files };
        loaded.settings = serde_path_to_error::deserialize(strict(loaded.tree(Shown::Whole))).map_err(|error| loaded.blame(&error))?;
        loaded.check_login()?;
        bounds::check(&loaded.settings).map_err(|(key, message)| {
            let origin = loaded.in_force(key).map_or(Origin::Default, |(_, origin)| origin);
            Error::Value { key: key.to_owned(), origin, message }
        })?;
        Ok(loaded)
    }

    /// Credentials that nobody would ever show, because nobody said which way to log in.
    fn check_login(&self) -> Result<(), Error> {
        if self.said.contains_key("nats.auth.type") {
            return Ok(());
        }
        let is_given = |entries: &[Entry]| entries.last().is_some_and(|entry| !entry.value.is_null());
        let given = self.said.iter().find(|(key, entries)| key.starts_with("nats.auth.") && is_given(entries));
        given.map_or(Ok(()), |(key, entries)| {
            let kind = match key.as_str() {
                "nats.auth.user" | "nats.auth.password" => "user_pass",
                other => other.trim_start_matches("nats.auth."),
            };
            let origin = entries.last().map_or(Origin::Default, |entry| entry.origin.clone());
            let message = format!("it takes `nats.auth.type: {kind}` beside it, and has no effect without");
            Err(Error::Value { key: key.clone(), origin, message })
        })
    }

    /// The value in force and where it came from.
    pub(crate) fn in_force(&self, name: &str) -> Option<(Value, Origin)> {
        let Named::Leaf(key) = self.keys.named(name) else { return None };
        let last = self.said.get(name).and_then(|entries| entries.last());
        Some(last.map_or_else(|| (key.default.clone(), Origin::Default), |entry| (entry.value.clone(), entry.origin.clone())))
    }

    /// What every layer says of a key, weakest first.
    pub(crate) fn said(&self, name: &str) -> &[Entry] {
        self.said.get(name).map_or(&[], Vec::as_slice)
    }

    /// What a variable of client commands says, in the process's environment or else in the `--env-file`.
    pub(crate) fn variable(&self, name: &str) -> Option<&Variable> {
        self.variables.get(name)
    }

    /// Every key.
    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// What may be shown of a value.
    pub(crate) fn shown(key: &Key, value: &Value) -> Value {
        if key.secret && !value.is_null() {
            return Value::from("***");
        }
        value.as_str().filter(|_| key.address).map_or_else(|| value.clone(), |url| Value::from(without_credentials(url).0))
    }

    /// Everything in force, nested, with secrets hidden.
    pub(crate) fn shown_tree(&self) -> Value {
        self.tree(Shown::Hidden)
    }

    fn tree(&self, shown: Shown) -> Value {
        let mut root = Map::new();
        for (name, key) in self.keys.iter() {
            let Some((value, _)) = self.in_force(name) else { continue };
            let value = match shown {
                Shown::Whole => value,
                Shown::Hidden => Self::shown(key, &value),
            };
            insert(&mut root, name, value);
        }
        Value::Object(root)
    }

    fn blame(&self, error: &serde_path_to_error::Error<serde_json::Error>) -> Error {
        let path = error.path().to_string();
        let named = self.keys.iter().map(|(name, _)| name).find(|name| path == *name || path.starts_with(&format!("{name}.")));
        let key = named.map_or(path.clone(), str::to_owned);
        let (value, origin) = self.in_force(&key).unwrap_or((Value::Null, Origin::Default));
        let secret = matches!(self.keys.named(&key), Named::Leaf(key) if key.secret);
        let message = if secret && !value.is_object() {
            "a secret is given as {file: PATH} or {env: NAME}, never by its value".to_owned()
        } else {
            error.inner().to_string()
        };
        Error::Value { key, origin, message }
    }
}

#[derive(Clone, Copy)]
enum Shown {
    Whole,
    Hidden,
}

fn insert(map: &mut Map<String, Value>, name: &str, value: Value) {
    let Some((group, rest)) = name.split_once('.') else {
        map.insert(name.to_owned(), value);
        return;
    };
    let below = map.entry(group).or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(below) = below {
        insert(below, rest, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Given {
        dir: tempfile::TempDir,
        sources: Sources,
    }

    fn given(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Given {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
        let path = |name: &str| dir.path().join(name);
        let has = |name: &str| files.iter().any(|(given, _)| *given == name);
        let sources = Sources {
            usual: vec![path("etc.yaml"), path("user.yaml")],
            config: has("config.yaml").then(|| path("config.yaml")),
            env_file: has("env").then(|| path("env")),
            variables: variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            flags: Vec::new(),
        };
        Given { dir, sources }
    }

    #[track_caller]
    fn refused(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Error {
        given(files, variables).sources.load().unwrap_err()
    }

    #[test]
    fn without_any_layer_the_defaults_hold() {
        let loaded = given(&[], &[]).sources.load().unwrap();
        assert_eq!(loaded.settings, Settings::default());
        assert_eq!(loaded.in_force("agent.max_jobs"), Some((10.into(), Origin::Default)));
    }

    #[test]
    fn each_layer_wins_over_the_ones_before() {
        let layers = [
            ("etc.yaml", "agent: {max_jobs: 1}\n"),
            ("user.yaml", "\nagent:\n  max_jobs: 2\n"),
            ("config.yaml", "agent:\n  max_jobs: 3\n"),
            ("env", "# x\nexport LONGSHORE_AGENT__MAX_JOBS='4'\n"),
        ];
        for count in 1..=layers.len() {
            let given = given(&layers[..count], &[]);
            let loaded = given.sources.load().unwrap();
            assert_eq!(loaded.settings.agent.max_jobs, count);
            let lines = [1, 3, 2, 2];
            let origin = Origin::File(given.dir.path().join(layers[count - 1].0), lines[count - 1]);
            assert_eq!(loaded.in_force("agent.max_jobs").unwrap().1, origin);
            assert_eq!(loaded.said("agent.max_jobs").len(), count);
        }
        let mut given = given(&layers, &[("LONGSHORE_AGENT__MAX_JOBS", "5")]);
        assert_eq!(given.sources.load().unwrap().settings.agent.max_jobs, 5);
        given.sources.flags.push(("agent.max_jobs", "--max-jobs", "6".to_owned()));
        let loaded = given.sources.load().unwrap();
        assert_eq!(loaded.in_force("agent.max_jobs"), Some((6.into(), Origin::Flag("--max-jobs"))));
    }

    #[test]
    fn a_list_in_the_place_of_an_object_is_refused_and_named() {
        for (text, key) in [
            ("controller:\n  api:\n    security:\n      verify_keys: [[/keys/a.pem, a]]\n", "verify_keys"),
            ("controller:\n  api:\n    security:\n      roles: {reader: [[job:read]]}\n", "roles"),
            ("nats: [4222]\n", "nats"),
        ] {
            let error = refused(&[("user.yaml", text)], &[]).to_string();
            assert!(error.contains(key), "{text}: {error}");
        }
    }

    #[test]
    fn unknown_keys_are_errors_that_name_the_place_and_the_key_that_was_meant() {
        let error = refused(&[("user.yaml", "nats:\n  ulr: nats://x\n")], &[]);
        let Error::UnknownKey { key, origin: Origin::File(_, 2), nearest } = &error else { panic!("{error:?}") };
        assert_eq!((key.as_str(), nearest.as_deref()), ("nats.ulr", Some("nats.url")));

        let error = refused(&[], &[("LONGSHORE_NATS__ULR", "x")]);
        assert!(matches!(&error, Error::UnknownKey { key, nearest: Some(nearest), .. } if key == "nats.ulr" && nearest == "nats.url"));
        let error = refused(&[], &[("LONGSHORE_NATS_URL", "x")]);
        assert!(matches!(&error, Error::UnknownKey { nearest: Some(nearest), .. } if nearest == "LONGSHORE_NATS__URL"));
        assert!(matches!(refused(&[("etc.yaml", "nats: 5\n")], &[]), Error::NotAMapping { .. }));
    }

    #[test]
    fn variables_that_are_no_settings_are_left_alone() {
        let variables = [("LONGSHORE_LOG", "debug"), ("LONGSHORE_URL", "http://x"), ("LONGSHORE_JOB_ID", "j-x"), ("HOME", "/x")];
        assert_eq!(given(&[], &variables).sources.load().unwrap().settings, Settings::default());
    }

    #[test]
    fn values_of_the_wrong_kind_are_blamed_on_their_key_and_place() {
        for (yaml, blamed) in [
            ("agent: {max_jobs: many}", "agent.max_jobs"),
            ("nats: {kv: {ttl: 30}}", "nats.kv.ttl"),
            ("nats: {kv: {max_bytes: 3 parsecs}}", "nats.kv.max_bytes"),
            ("nats: {auth: {type: kerberos}}", "nats.auth.type"),
            ("nats: {auth: {token: hunter2}}", "nats.auth.token"),
            ("nats: {auth: {token: {fil: /x}}}", "nats.auth.token"),
        ] {
            let error = refused(&[("etc.yaml", yaml)], &[]);
            assert!(matches!(&error, Error::Value { key, origin: Origin::File(_, 1), .. } if key == blamed), "{yaml}: {error:?}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn values_out_of_their_bounds_are_refused_by_name_and_place() {
        for (yaml, blamed) in [
            ("nats: {registry: {ttl: 0s}}", "nats.registry.ttl"),
            ("nats: {kv: {ttl: 0s}}", "nats.kv.ttl"),
            ("nats: {kv: {ttl: 9000000h}}", "nats.kv.ttl"),
            ("nats: {kv: {max_bytes: 0}}", "nats.kv.max_bytes"),
            ("nats: {objects: {max_bytes: 18446744073709551615}}", "nats.objects.max_bytes"),
            ("nats: {stream: {replicas: 0}}", "nats.stream.replicas"),
            ("agent: {max_jobs: 0}", "agent.max_jobs"),
            ("agent: {labels: {group: web..dev}}", "agent.labels"),
            ("agent: {labels: {'a.b': web}}", "agent.labels"),
            ("agent: {consumer: {ack_wait: 1ms}}", "agent.consumer.ack_wait"),
            ("agent: {consumer: {max_deliver: 0}}", "agent.consumer.max_deliver"),
            ("agent: {consumer: {back_off: []}}", "agent.consumer.back_off"),
            ("agent: {consumer: {back_off: [1s, 2h]}}", "agent.consumer.back_off"),
            ("nats: {dlq: {max_age: 1h}}", "nats.dlq.max_age"),
            ("nats: {dlq: {max_bytes: 0}}", "nats.dlq.max_bytes"),
            ("nats: {stream: {subjects: jobs}}", "nats.stream.subjects"),
            ("nats: {tls: {cert: /x}}", "nats.tls.cert"),
            ("nats: {tls: {key: /x}}", "nats.tls.key"),
        ] {
            let error = refused(&[("etc.yaml", yaml)], &[]);
            assert!(matches!(&error, Error::Value { key, origin: Origin::File(_, 1), .. } if key == blamed), "{yaml}: {error:?}");
            assert!(error.to_string().contains("it takes") || blamed == "nats.stream.subjects" || blamed == "agent.labels", "{error}");
        }
        bounds::check(&Settings::default()).unwrap();
    }

    #[test]
    fn credentials_in_an_address_are_not_shown() {
        let loaded = given(&[("etc.yaml", "nats: {url: 'nats://u:hunter2@h:1, nats://h:2'}")], &[]).sources.load().unwrap();
        assert_eq!(loaded.shown_tree()["nats"]["url"], "nats://h:1,nats://h:2");
        assert_eq!(loaded.settings.nats.url.as_deref(), Some("nats://u:hunter2@h:1, nats://h:2"), "they are kept for the login");
    }

    #[test]
    fn secrets_are_hidden_wherever_they_come_from() {
        let variables = [("LONGSHORE_NATS__AUTH__TYPE", "token"), ("LONGSHORE_NATS__AUTH__TOKEN__FILE", "/run/token")];
        let loaded = given(&[], &variables).sources.load().unwrap();
        assert_eq!(loaded.settings.nats.auth.token, Some(super::super::Secret::File("/run/token".into())));
        assert_eq!(loaded.shown_tree()["nats"]["auth"]["token"], "***");
        assert_eq!(loaded.shown_tree()["nats"]["auth"]["nkey"], Value::Null);
    }

    #[test]
    fn credentials_that_would_never_be_shown_are_refused() {
        for (yaml, blamed, wanted) in [
            ("nats: {auth: {token: {file: /x}}}", "nats.auth.token", "type: token"),
            ("nats: {auth: {user: ann}}", "nats.auth.user", "type: user_pass"),
            ("nats: {auth: {creds: /x}}", "nats.auth.creds", "type: creds"),
        ] {
            let error = refused(&[("etc.yaml", yaml)], &[]);
            assert!(matches!(&error, Error::Value { key, .. } if key == blamed), "{yaml}: {error:?}");
            assert!(error.to_string().contains(wanted), "{error}");
        }
        for yaml in ["nats: {auth: {token: }}", "nats: {auth: {type: none, token: {file: /x}}}"] {
            given(&[("etc.yaml", yaml)], &[]).sources.load().unwrap();
        }
    }

    #[test]
    fn the_older_spelling_is_read_and_both_are_refused() {
        let loaded = given(&[("etc.yaml", "job:\n  worker:\n    max_jobs: 3\n")], &[]).sources.load().unwrap();
        assert_eq!(loaded.settings.agent.max_jobs, 3);
        let error = refused(&[("etc.yaml", "job: {worker: {max_jobs: 3}}\nagent: {max_jobs: 4}\n")], &[]);
        assert!(error.to_string().contains("job.worker.max_jobs") && error.to_string().contains("agent.max_jobs"), "{error}");
        assert!(matches!(refused(&[("etc.yaml", "job: {worker: {max_job: 3}}")], &[]), Error::UnknownKey { .. }));
        let mut given = given(&[("etc.yaml", "job: {worker: {max_jobs: 3}}")], &[]);
        given.sources.flags.push(("agent.max_jobs", "--worker-max-jobs", "4".to_owned()));
        assert_eq!(given.sources.load().unwrap().settings.agent.max_jobs, 4, "a flag wins over a file, whichever way that spells it");
    }

    #[test]
    fn labels_come_from_every_layer_and_the_strongest_has_them_all() {
        let labels = |given: &Given| -> Vec<_> {
            given.sources.load().unwrap().settings.agent.labels().unwrap().iter().map(ToString::to_string).collect()
        };
        let yaml = "agent:\n  labels: {group: web.dev, tier: '1'}\n";
        assert_eq!(labels(&given(&[("etc.yaml", yaml)], &[])), ["group:web.dev", "tier:1"]);
        assert_eq!(labels(&given(&[("etc.yaml", "job: {worker: {labels: {group: db}}}")], &[])), ["group:db"], "the older spelling");
        let mut given = given(&[("etc.yaml", yaml)], &[("LONGSHORE_AGENT__LABELS", "{group: web}")]);
        assert_eq!(labels(&given), ["group:web"]);
        given.sources.flags.push(("agent.labels", "--label", "{group: mail, rack: a1}".to_owned()));
        assert_eq!(labels(&given), ["group:mail", "rack:a1"]);
        let older = [("LONGSHORE_JOB__WORKER__LABELS", "{group: web}")];
        assert!(matches!(refused(&[("etc.yaml", yaml)], &older), Error::TwoSpellings { .. }));
        let error = refused(&[], &[("LONGSHORE_AGENT__LABELS", "group:web")]);
        assert!(matches!(&error, Error::Value { key, .. } if key == "agent.labels"), "{error:?}");
    }

    #[test]
    fn files_that_were_asked_for_must_be_there() {
        let mut given = given(&[], &[]);
        given.sources.config = Some(given.dir.path().join("missing.yaml"));
        assert!(matches!(given.sources.load(), Err(Error::Read { .. })));
    }
}
