//! The name, form and bounds of every setting, and how words from a file or the environment become its value.

use serde_json::{Number, Value};

/// What a setting is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form {
    /// A text that says something.
    Text,
    /// A text that may be empty, which is the same as none.
    Optional,
    /// A whole number of at least this.
    Count(u64),
    /// A number of at least this, and at most that.
    Number(f64, f64),
    /// Yes or no.
    Flag,
    /// One of these words, in any case, as the settings have them.
    Word(&'static [&'static str]),
    /// A list of texts.
    Texts,
    /// Texts, each with a whole number of at least 1.
    Limits,
}

const POLICIES: Form = Form::Word(&["block", "drop_new", "drop_oldest"]);
const SECONDS: Form = Form::Number(0.0, 1e9);

const FIELDS: &[(&str, Form)] = &[
    ("scheduler_ws_url", Form::Text),
    ("scheduler_rest_base_url", Form::Text),
    ("tenant", Form::Text),
    ("worker_name", Form::Text),
    ("worker_instance_id", Form::Optional),
    ("auth_token", Form::Optional),
    ("auth_token_file", Form::Optional),
    ("worker_version", Form::Text),
    ("handshake_protocol_version", Form::Count(1)),
    ("auth_mode", Form::Word(&["token", "mtls"])),
    ("auth_fingerprint", Form::Optional),
    ("tls_ca_file", Form::Optional),
    ("tls_cert_file", Form::Optional),
    ("tls_key_file", Form::Optional),
    ("transport", Form::Word(&["websocket", "dummy"])),
    ("heartbeat_interval_seconds", Form::Count(1)),
    ("heartbeat_jitter_seconds", Form::Count(1)),
    ("ack_retry_base_ms", Form::Count(1)),
    ("ack_retry_max_ms", Form::Count(1)),
    ("ack_retry_attempts", Form::Count(1)),
    ("session_accept_timeout_seconds", Form::Count(1)),
    ("session_window_size", Form::Count(1)),
    ("reconnect_base_delay_seconds", SECONDS),
    ("reconnect_max_delay_seconds", SECONDS),
    ("reconnect_jitter", Form::Number(0.0, 1.0)),
    ("reconnect_abort_on_auth_error", Form::Flag),
    ("reconnect_abort_on_protocol_error", Form::Flag),
    ("transport_recv_queue_max", Form::Count(0)),
    ("session_app_queue_max", Form::Count(0)),
    ("session_app_queue_overflow", POLICIES),
    ("dispatch_max_inflight", Form::Count(0)),
    ("dispatch_queue_max", Form::Count(0)),
    ("dispatch_queue_overflow", POLICIES),
    ("dispatch_queue_idle_seconds", SECONDS),
    ("dispatch_timeout_seconds", SECONDS),
    ("dispatch_max_failures", Form::Count(0)),
    ("dispatch_failure_cooldown_seconds", SECONDS),
    ("concurrency_max_parallel", Form::Count(1)),
    ("concurrency_per_node_limits", Form::Limits),
    ("exec_mode_default", Form::Word(&["auto", "inline", "thread"])),
    ("runtime_names", Form::Texts),
    ("feature_flags", Form::Texts),
    ("payload_types", Form::Texts),
    ("packages_dir", Form::Optional),
    ("data_dir", Form::Text),
    ("state_dir", Form::Optional),
    ("package_reach", Form::Word(&["public", "private", "loopback"])),
    ("package_hooks", Form::Flag),
    ("package_keys", Form::Texts),
    ("package_allow_downgrade", Form::Flag),
    ("package_wheels_dir", Form::Optional),
    ("package_index", Form::Optional),
    ("host_operations", Form::Flag),
    ("job_opening_keys_file", Form::Optional),
    ("job_trusted_keys_file", Form::Optional),
    ("python_program", Form::Text),
    ("log_level", Form::Word(&["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])),
    ("drain_timeout_seconds", SECONDS),
    ("config_path", Form::Optional),
];

/// Settings that an earlier version of the existing worker had under another name, which goes first.
const RENAMED: [&str; 8] = [
    "dispatch_max_inflight",
    "dispatch_queue_max",
    "dispatch_queue_overflow",
    "dispatch_queue_idle_seconds",
    "dispatch_timeout_seconds",
    "dispatch_max_failures",
    "dispatch_failure_cooldown_seconds",
    "exec_mode_default",
];

/// The names of all settings.
pub fn names() -> impl Iterator<Item = &'static str> {
    FIELDS.iter().map(|(name, _)| *name)
}

/// The setting that a name in any case means, and whether it is the earlier spelling.
pub(super) fn find(spelling: &str) -> Option<(&'static str, Form, bool)> {
    let lower = spelling.to_lowercase();
    let earlier = lower.strip_prefix("handler_").filter(|rest| RENAMED.contains(rest));
    let name = earlier.unwrap_or(&lower);
    FIELDS.iter().find(|(known, _)| *known == name).map(|(known, form)| (*known, *form, earlier.is_some()))
}

/// The name that somebody may have meant.
pub(super) fn near(spelling: &str) -> Option<&'static str> {
    let lower = spelling.to_lowercase();
    names()
        .map(|name| (strsim::jaro_winkler(name, &lower), name))
        .filter(|(score, _)| *score > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

impl Form {
    /// A word of the environment as the value that a file would hold.
    pub(super) fn read(self, word: &str) -> Result<Value, String> {
        match self {
            Self::Texts | Self::Limits => serde_json::from_str(word).map_err(|_| format!("must be JSON: {}", self.must())),
            Self::Text | Self::Optional | Self::Count(_) | Self::Number(..) | Self::Flag | Self::Word(_) => {
                Ok(Value::String(word.to_owned()))
            }
        }
    }

    /// The value in the form that the settings are read from; nothing for what is the same as unset.
    pub(super) fn checked(self, value: Value) -> Result<Option<Value>, String> {
        let wrong = || Err(format!("must be {}", self.must()));
        let trimmed = match &value {
            Value::String(text) => Some(text.trim()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
        };
        let found = match (self, &value) {
            (_, Value::Null) => return Ok(None),
            (Self::Optional, Value::String(text)) if text.is_empty() => return Ok(None),
            (Self::Text | Self::Optional, Value::String(text)) if !text.is_empty() => value,
            (Self::Count(least), _) => {
                let number = value.as_u64().or_else(|| trimmed.and_then(|text| text.parse().ok()));
                match number.filter(|number| *number >= least && *number <= 1 << 40) {
                    Some(number) => Value::from(number),
                    None => return wrong(),
                }
            }
            (Self::Number(least, most), _) => {
                let number = value.as_f64().or_else(|| trimmed.and_then(|text| text.parse().ok()));
                match number.filter(|number| (least..=most).contains(number)).and_then(Number::from_f64) {
                    Some(number) => Value::Number(number),
                    None => return wrong(),
                }
            }
            (Self::Flag, Value::Bool(_)) => value,
            (Self::Flag, _) => match trimmed.map(str::to_lowercase).or_else(|| value.as_u64().map(|n| n.to_string())).as_deref() {
                Some("1" | "true" | "yes" | "on" | "t" | "y") => Value::Bool(true),
                Some("0" | "false" | "no" | "off" | "f" | "n") => Value::Bool(false),
                Some(_) | None => return wrong(),
            },
            (Self::Word(words), _) => match trimmed.and_then(|text| words.iter().find(|word| word.eq_ignore_ascii_case(text))) {
                Some(word) => Value::String((*word).to_owned()),
                None => return wrong(),
            },
            (Self::Texts, Value::Array(items)) if items.iter().all(Value::is_string) => value,
            (Self::Limits, Value::Object(limits)) if limits.values().all(|limit| limit.as_u64().is_some_and(|limit| limit >= 1)) => value,
            (Self::Text | Self::Optional | Self::Texts | Self::Limits, _) => return wrong(),
        };
        Ok(Some(found))
    }

    fn must(self) -> String {
        match self {
            Self::Text => "a text that is not empty".to_owned(),
            Self::Optional => "a text".to_owned(),
            Self::Count(least) => format!("a whole number of at least {least}"),
            Self::Number(least, most) => format!("a number from {least} to {most}"),
            Self::Flag => "yes or no (1, true, yes, on; 0, false, no, off)".to_owned(),
            Self::Word(words) => format!("one of {}", words.join(", ")),
            Self::Texts => r#"a list of texts, such as ["a", "b"]"#.to_owned(),
            Self::Limits => r#"texts with whole numbers of at least 1, such as {"echo": 2}"#.to_owned(),
        }
    }
}
