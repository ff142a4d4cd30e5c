//! Where settings come from, and which of them stands: arguments over the file over the environment over `.env` over defaults.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use longshore_session::LinkConfig;
use serde_json::{Map, Value};

use super::field::{find, near};
use super::{PREFIX, Settings, dot_env};

/// Variables that are read from the process's environment alone.
const OF_THE_PROCESS: [&str; 2] = ["ASTRA_WORKER_CONFIG_FILE", "ASTRA_PACKAGES_ROOT"];

/// What was found, unread.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Names and words of the command line.
    pub arguments: Vec<(String, String)>,
    /// The settings file and what is in it.
    pub file: Option<(PathBuf, Map<String, Value>)>,
    /// The process's environment.
    pub environment: Vec<(String, String)>,
    /// What is in `.env`.
    pub dot_env: Option<String>,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// The command line.
    Arguments,
    /// The file.
    File(PathBuf),
    /// The environment.
    Environment,
    /// `.env`.
    DotEnv,
}

impl fmt::Display for Layer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arguments => out.write_str("the command line"),
            Self::File(path) => write!(out, "{}", path.display()),
            Self::Environment => out.write_str("the environment"),
            Self::DotEnv => out.write_str(".env"),
        }
    }
}

/// Settings, and what to tell of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What stands.
    pub settings: Settings,
    /// Where each value that is no default comes from: as it is written there, and the layer.
    pub origins: BTreeMap<&'static str, String>,
    /// Names that nothing is known of, each in a sentence.
    pub warnings: Vec<String>,
}

/// Why settings cannot be used. Values are not shown: they may be secrets.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// One value is not what its setting takes.
    #[error("{name} in {layer} {must}")]
    Value {
        /// As it is written there.
        name: String,
        /// Where.
        layer: Layer,
        /// What it must be.
        must: String,
    },
    /// Two values that do not fit.
    #[error("{0}")]
    Together(&'static str),
    /// A value that no form tells.
    #[error("the settings cannot be read")]
    Unreadable(#[source] serde_json::Error),
}

#[derive(Default)]
struct Reading {
    /// The lowest layer first, so that later ones replace.
    values: Map<String, Value>,
    origins: BTreeMap<&'static str, String>,
    warnings: Vec<String>,
}

impl Settings {
    /// Puts the layers together.
    ///
    /// # Errors
    /// The first value that is not what its setting takes, with its place.
    pub fn load(sources: &Sources) -> Result<Loaded, SettingsError> {
        let mut reading = Reading::default();
        let dot_env = sources.dot_env.as_deref().map(dot_env::pairs).unwrap_or_default();
        for (name, _) in dot_env.iter().filter(|(name, _)| OF_THE_PROCESS.contains(&name.as_str())) {
            reading.warnings.push(format!("{name} has no effect in .env: set it in the environment"));
        }
        reading.words(&Layer::DotEnv, prefixed(&dot_env))?;
        reading.words(&Layer::Environment, prefixed(&sources.environment))?;
        if let Some((path, entries)) = &sources.file {
            let entries = entries.iter().map(|(name, value)| (name.clone(), name.clone(), Source::Value(value.clone())));
            reading.layer(&Layer::File(path.clone()), entries.collect())?;
        }
        reading
            .words(&Layer::Arguments, sources.arguments.iter().map(|(name, word)| (name.clone(), name.clone(), word.clone())).collect())?;
        let mut settings: Settings = serde_json::from_value(Value::Object(reading.values)).map_err(SettingsError::Unreadable)?;
        settings.check()?;
        let window_max = LinkConfig::WINDOW_FRAMES_MAX;
        if settings.session_window_size > window_max {
            let place = reading.origins.get("session_window_size").map_or("session_window_size", String::as_str);
            reading.warnings.push(format!("{place} is more than {window_max}, which is the most: it is taken as that"));
            settings.session_window_size = window_max;
        }
        Ok(Loaded { settings, origins: reading.origins, warnings: reading.warnings })
    }

    fn check(&self) -> Result<(), SettingsError> {
        if self.tls_cert_file.is_some() != self.tls_key_file.is_some() {
            return Err(SettingsError::Together("tls_cert_file and tls_key_file must both be given, or neither"));
        }
        if self.auth_token.is_some() && self.auth_token_file.is_some() {
            return Err(SettingsError::Together("auth_token and auth_token_file cannot both be given"));
        }
        if self.runtime_names.is_empty() {
            return Err(SettingsError::Together("runtime_names must name one runtime or more"));
        }
        Ok(())
    }
}

enum Source {
    Word(String),
    Value(Value),
}

fn prefixed(pairs: &[(String, String)]) -> Vec<(String, String, String)> {
    let own = pairs.iter().filter(|(name, _)| !OF_THE_PROCESS.contains(&name.to_uppercase().as_str()));
    own.filter_map(|(name, word)| {
        let has_prefix = name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
        has_prefix.then(|| (name.clone(), name[PREFIX.len()..].to_owned(), word.clone()))
    })
    .collect()
}

impl Reading {
    fn words(&mut self, layer: &Layer, words: Vec<(String, String, String)>) -> Result<(), SettingsError> {
        self.layer(layer, words.into_iter().map(|(written, name, word)| (written, name, Source::Word(word))).collect())
    }

    /// One layer: within it the earlier spelling of a setting stands over the newer.
    fn layer(&mut self, layer: &Layer, entries: Vec<(String, String, Source)>) -> Result<(), SettingsError> {
        let mut found = BTreeMap::<_, (bool, _, _)>::new();
        for (written, name, source) in entries {
            let Some((setting, form, is_earlier)) = find(&name) else {
                let tip = near(&name).map(|near| format!("; {near} is one")).unwrap_or_default();
                self.warnings.push(format!("{written} in {layer} is no setting{tip}"));
                continue;
            };
            let fault = |must| SettingsError::Value { name: written.clone(), layer: layer.clone(), must };
            let value = match source {
                Source::Word(word) => form.read(&word).map_err(fault)?,
                Source::Value(value) => value,
            };
            let value = form.checked(value).map_err(fault)?;
            let stands = found.get(setting).is_none_or(|(was_earlier, ..)| is_earlier || !was_earlier);
            if stands {
                found.insert(setting, (is_earlier, value, written));
            }
        }
        for (setting, (_, value, written)) in found {
            self.origins.insert(setting, format!("{written} in {layer}"));
            match value {
                Some(value) => self.values.insert(setting.to_owned(), value),
                // Set to nothing: what lower layers say does not count either.
                None => self.values.remove(setting),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter().map(|(name, word)| ((*name).to_owned(), (*word).to_owned())).collect()
    }

    fn file(value: Value) -> Option<(PathBuf, Map<String, Value>)> {
        Some((PathBuf::from("worker.yaml"), value.as_object().unwrap().clone()))
    }

    fn environment(of: &[(&str, &str)]) -> Result<Loaded, SettingsError> {
        Settings::load(&Sources { environment: pairs(of), ..Sources::default() })
    }

    #[test]
    fn a_window_that_is_too_large_is_told_and_taken_as_the_largest() {
        let loaded = environment(&[("ASTRA_WORKER_SESSION_WINDOW_SIZE", "4096")]).unwrap();
        assert_eq!(loaded.settings.session_window_size, 1024);
        assert!(
            loaded.warnings[0].contains("ASTRA_WORKER_SESSION_WINDOW_SIZE") && loaded.warnings[0].contains("1024"),
            "{:?}",
            loaded.warnings
        );
        assert!(environment(&[("ASTRA_WORKER_SESSION_WINDOW_SIZE", "1024")]).unwrap().warnings.is_empty());
    }

    #[test]
    fn arguments_stand_over_the_file_over_the_environment_over_dot_env_over_defaults() {
        let mut sources = Sources::default();
        let name = |sources: &Sources| Settings::load(sources).unwrap().settings.worker_name;
        assert_eq!(name(&sources), "worker-local");
        sources.dot_env = Some("export ASTRA_WORKER_WORKER_NAME='dot' # x\nOTHER=1\n".to_owned());
        assert_eq!(name(&sources), "dot");
        sources.environment = pairs(&[("astra_worker_worker_name", "environment")]);
        assert_eq!(name(&sources), "environment");
        sources.file = file(json!({"worker_name": "file"}));
        assert_eq!(name(&sources), "file");
        sources.arguments = pairs(&[("worker_name", "arguments")]);
        assert_eq!(name(&sources), "arguments");
    }

    #[test]
    fn both_spellings_of_renamed_settings_are_read_and_the_earlier_goes_first() {
        for name in ["dispatch_max_inflight", "dispatch_queue_max", "dispatch_max_failures"] {
            let (newer, earlier) =
                (format!("ASTRA_WORKER_{}", name.to_uppercase()), format!("ASTRA_WORKER_HANDLER_{}", name.to_uppercase()));
            let number = |of: &[(&str, &str)]| {
                let settings = environment(of).unwrap().settings;
                [settings.dispatch_max_inflight, settings.dispatch_queue_max, settings.dispatch_max_failures as usize]
            };
            assert!(number(&[(&newer, "31")]).contains(&31), "{name}");
            assert!(number(&[(&earlier, "32")]).contains(&32), "{name}");
            for of in [[(newer.as_str(), "31"), (earlier.as_str(), "32")], [(earlier.as_str(), "32"), (newer.as_str(), "31")]] {
                assert!(number(&of).contains(&32), "{name}");
            }
        }
        let mode = environment(&[("ASTRA_WORKER_HANDLER_EXEC_MODE_DEFAULT", "thread")]).unwrap().settings.exec_mode_default;
        assert_eq!(mode, super::super::ExecMode::Thread);
        // A newer spelling of a higher layer stands over an earlier one of a lower.
        let sources = Sources {
            environment: pairs(&[("ASTRA_WORKER_HANDLER_DISPATCH_QUEUE_MAX", "1")]),
            file: file(json!({"dispatch_queue_max": 2})),
            ..Sources::default()
        };
        assert_eq!(Settings::load(&sources).unwrap().settings.dispatch_queue_max, 2);
    }

    #[test]
    fn unknown_names_are_told_with_a_near_one_and_do_no_harm() {
        let sources = Sources {
            environment: pairs(&[("ASTRA_WORKER_AUTH_TOKNE", "secret-word"), ("PATH", "x"), ("ASTRA_WORKER_CONFIG_FILE", "x")]),
            file: file(json!({"worker_nam": "x", "zzz": 1})),
            dot_env: Some("ASTRA_PACKAGES_ROOT=/x\nASTRA_WORKER_CONFIG_FILE=/y".to_owned()),
            ..Sources::default()
        };
        let warnings = Settings::load(&sources).unwrap().warnings;
        assert_eq!(
            warnings,
            [
                "ASTRA_PACKAGES_ROOT has no effect in .env: set it in the environment",
                "ASTRA_WORKER_CONFIG_FILE has no effect in .env: set it in the environment",
                "ASTRA_WORKER_AUTH_TOKNE in the environment is no setting; auth_token is one",
                "worker_nam in worker.yaml is no setting; worker_name is one",
                "zzz in worker.yaml is no setting",
            ]
        );
    }

    #[test]
    fn values_that_are_none_are_refused_with_their_place_and_never_shown() {
        let rows = [
            ("HEARTBEAT_JITTER_SECONDS", "0", "must be a whole number of at least 1"),
            ("HEARTBEAT_INTERVAL_SECONDS", "1.5", "must be a whole number of at least 1"),
            ("LOG_LEVEL", "warn", "must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
            ("FEATURE_FLAGS", "a,b", "must be JSON: a list of texts"),
            ("CONCURRENCY_PER_NODE_LIMITS", r#"{"echo": 0}"#, "must be texts with whole numbers"),
            ("DISPATCH_QUEUE_OVERFLOW", "drop", "must be one of block, drop_new, drop_oldest"),
            ("RECONNECT_ABORT_ON_AUTH_ERROR", "maybe", "must be yes or no"),
            ("RECONNECT_BASE_DELAY_SECONDS", "nan", "must be a number from 0"),
            ("DISPATCH_TIMEOUT_SECONDS", "-1", "must be a number from 0"),
            ("TENANT", "", "must be a text that is not empty"),
        ];
        for (name, word, must) in rows {
            let name = format!("ASTRA_WORKER_{name}");
            let error = environment(&[(&name, word)]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name} in the environment {must}")), "{error}");
        }
        assert!(environment(&[("ASTRA_WORKER_TLS_CERT_FILE", "x")]).is_err());
        let shown = format!("{:?}", environment(&[("ASTRA_WORKER_AUTH_TOKEN", "secret-word")]).unwrap());
        assert!(!shown.contains("secret-word"), "{shown}");
    }

    #[test]
    fn words_of_the_environment_and_values_of_files_are_read_alike() {
        let words = environment(&[
            ("ASTRA_WORKER_RECONNECT_ABORT_ON_AUTH_ERROR", "Yes"),
            ("ASTRA_WORKER_LOG_LEVEL", "debug"),
            ("ASTRA_WORKER_RUNTIME_NAMES", r#"["python", "process"]"#),
            ("ASTRA_WORKER_CONCURRENCY_PER_NODE_LIMITS", r#"{"echo": 2}"#),
            ("ASTRA_WORKER_RECONNECT_JITTER", "0.5"),
            ("ASTRA_WORKER_WORKER_INSTANCE_ID", ""),
        ]);
        let values = Settings::load(&Sources {
            file: file(json!({
                "reconnect_abort_on_auth_error": true, "log_level": "DEBUG", "runtime_names": ["python", "process"],
                "concurrency_per_node_limits": {"echo": 2}, "reconnect_jitter": "0.5", "worker_instance_id": null,
            })),
            ..Sources::default()
        });
        assert_eq!(words.unwrap().settings, values.unwrap().settings);
    }

    #[test]
    fn every_setting_can_be_set_and_its_name_is_the_existing_workers() {
        let names: Vec<_> = super::super::names().collect();
        for name in &names {
            let (_, form, _) = find(name).unwrap();
            let value = match form {
                super::super::field::Form::Text | super::super::field::Form::Optional => json!("x"),
                super::super::field::Form::Count(_) => json!(7),
                super::super::field::Form::Number(..) => json!(0.5),
                // The one that is on by itself is turned off.
                super::super::field::Form::Flag => json!(*name != "host_operations"),
                super::super::field::Form::Word(words) => json!(words[words.len() - 1]),
                super::super::field::Form::Texts => json!(["x"]),
                super::super::field::Form::Limits => json!({"x": 1}),
            };
            let mut fields = Map::new();
            fields.insert((*name).to_owned(), value);
            if name.starts_with("tls_") {
                fields.insert("tls_cert_file".to_owned(), json!("x"));
                fields.insert("tls_key_file".to_owned(), json!("x"));
            }
            let loaded = Settings::load(&Sources { file: Some((PathBuf::from("f"), fields)), ..Sources::default() }).unwrap();
            assert_ne!(loaded.settings, Settings::default(), "{name}");
        }
        assert_eq!(names.len(), 59);
    }
}
