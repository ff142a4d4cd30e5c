//! What a job's secrets may be, how arguments look to people, and what a sealed value is bound to.

use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::call::{CallError, fault, no_nul};
use crate::JobId;
use crate::limits::{SECRETS_BYTES_MAX, SECRETS_MAX};
use crate::unit::ByteSize;
use crate::wire::secret::{MASK, Secret, Secrets};

/// Where every operation that takes secrets has them among its arguments; a test compares this with the schemas.
pub(super) const FIELD: &str = "secrets";

/// Arguments as people may see them: whatever stands where secrets belong is masked, sealed or not.
#[must_use]
pub fn shown_args(args: &Value) -> Value {
    let mut shown = args.clone();
    match shown.get_mut(FIELD) {
        Some(Value::Object(secrets)) => secrets.values_mut().for_each(|value| *value = MASK.into()),
        Some(other) => *other = MASK.into(),
        None => {}
    }
    shown
}

/// Whether these arguments, as they were submitted, have secrets among them.
#[must_use]
pub fn has_secrets(args: &Value) -> bool {
    args.get(FIELD).is_some_and(|secrets| !secrets.is_null())
}

/// What a sealed value is bound to beside its name: the job it was sealed for, and what that job does. Moved into a job that does
/// anything else, it does not open. `args` may hold the secrets in whatever form: only their names count.
#[must_use]
pub fn sealing_context(sealed_for: JobId, operation: &str, args: &Value) -> [u8; 32] {
    let mut args = shown_args(args);
    args.sort_all_objects();
    let mut hash = Sha256::new();
    for part in ["longshore secret 1", &sealed_for.to_string(), operation, &args.to_string()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Checks the names and the sizes. `env` is what stands beside them and must not say the same name.
pub(super) fn check(pointer: &str, secrets: &Secrets, env: &[&BTreeMap<String, String>]) -> Result<(), CallError> {
    let bytes = |value: &Secret| match value {
        Secret::Plain(text) => text.len(),
        // It was measured before it was sealed.
        Secret::Sealed(_) => 0,
    };
    if secrets.len() > SECRETS_MAX || secrets.iter().map(|(name, value)| name.len() + bytes(value) + 2).sum::<usize>() > SECRETS_BYTES_MAX {
        return Err(fault(pointer, format!("at most {SECRETS_MAX} secrets and {} in all", ByteSize(SECRETS_BYTES_MAX as u64))));
    }
    if let Some(name) = secrets.keys().find(|name| name.is_empty() || name.contains('=')) {
        return Err(fault(pointer, format!("{name:?} is not a variable's name")));
    }
    no_nul(pointer, secrets.keys())?;
    for (name, value) in secrets {
        if env.iter().any(|env| env.contains_key(name)) {
            return Err(fault(pointer, format!("{name:?} is in `env`, too")));
        }
        match value {
            Secret::Plain(text) if text.is_empty() => return Err(fault(pointer, format!("{name:?} is empty"))),
            Secret::Plain(text) => no_nul(pointer, [text])?,
            Secret::Sealed(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Call, Operation};
    use super::*;

    #[test]
    fn what_a_schema_marks_secret_is_what_is_masked() {
        fn marked(schema: &Value, path: &str, found: &mut Vec<String>) {
            match schema {
                Value::Object(fields) => {
                    if fields.get("x-longshore-secret") == Some(&true.into()) {
                        assert_eq!(fields.get("writeOnly"), Some(&true.into()), "{path}");
                        found.push(path.to_owned());
                    }
                    fields.iter().for_each(|(name, child)| marked(child, &format!("{path}/{name}"), found));
                }
                Value::Array(items) => items.iter().for_each(|child| marked(child, path, found)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        let mut with = Vec::new();
        for operation in Operation::ALL {
            let mut found = Vec::new();
            marked(&operation.args_schema(), "", &mut found);
            for path in &found {
                assert_eq!(path, &format!("/properties/{FIELD}/additionalProperties"), "{operation:?}");
            }
            with.extend(found.first().map(|_| operation.name()));
        }
        assert_eq!(with, ["command.exec", "command.shell", "package.run", "workspace.run"]);
        let args = json!({"command": "x", "secrets": {"A": "clear", "B": {"sealed": "x"}}});
        assert_eq!(shown_args(&args), json!({"command": "x", "secrets": {"A": "***", "B": "***"}}));
        assert_eq!(shown_args(&json!({"secrets": "clear"})), json!({"secrets": "***"}));
    }

    #[test]
    fn a_sealed_value_is_bound_to_the_job_and_to_everything_it_does() {
        let context = |job: u128, operation: &str, args: Value| sealing_context(JobId::from_bits(job), operation, &args);
        let args = || json!({"command": "deploy", "env": {"A": "1", "B": "2"}, "secrets": {"T": "clear"}});
        let this = context(1, "command.shell", args());
        let sealed = json!({"secrets": {"T": {"sealed": "x"}}, "env": {"B": "2", "A": "1"}, "command": "deploy"});
        assert_eq!(this, context(1, "command.shell", sealed), "order and sealing do not matter");
        let mut env = args();
        env["command"] = "printenv".into();
        for other in [context(2, "command.shell", args()), context(1, "command.exec", args()), context(1, "command.shell", env)] {
            assert_ne!(this, other);
        }
    }

    #[test]
    fn names_and_sizes_of_secrets_are_checked_and_values_never_quoted() {
        let refused = |args: Value| Call::parse("command.shell", args).unwrap_err().to_string();
        let secrets = |secrets: Value| refused(json!({"command": "x", "env": {"E": "1"}, "secrets": secrets}));
        for (given, expected) in [
            (json!({"": "hunter2"}), "is not a variable's name"),
            (json!({"A=B": "hunter2"}), "is not a variable's name"),
            (json!({"A\0": "hunter2"}), "NUL"),
            (json!({"A": "hunter2\0"}), "NUL"),
            (json!({"A": ""}), "is empty"),
            (json!({"E": "hunter2"}), "is in `env`, too"),
            (json!({"A": "hunter2".repeat(SECRETS_BYTES_MAX / 7)}), "at most 32 secrets and 64KiB"),
            (json!((0..=SECRETS_MAX).map(|n| (format!("N{n}"), "hunter2")).collect::<BTreeMap<_, _>>()), "at most 32 secrets"),
            (json!(["hunter2"]), "must be an object"),
        ] {
            let text = secrets(given);
            assert!(text.starts_with("/args/secrets") && text.contains(expected) && !text.contains("hunter2"), "{text}");
        }
        let step = json!({"steps": [{"run": "x", "env": {"A": "1"}}], "secrets": {"A": "hunter2"}});
        assert!(Call::parse("workspace.run", step).unwrap_err().to_string().contains("is in `env`, too"));
    }

    /// Fields are looked for by their names: what came as a list would be stored as it is.
    #[test]
    fn secrets_in_a_list_of_arguments_are_refused_and_not_quoted() {
        for (operation, args) in [
            ("command.exec", json!([["echo"], null, {}, null, {"A": "hunter2"}])),
            ("command.exec", json!([["echo", "@fact.hostname"], null, {}, null, {"A": "hunter2"}])),
            ("command.shell", json!(["echo @fact.hostname", null, {}, null, {"A": "hunter2"}])),
            ("package.run", json!(["p", null, "n", {}, {"A": "hunter2"}])),
            ("workspace.run", json!([null, ["make @fact.hostname"], {}, {"A": "hunter2"}])),
        ] {
            let refusal = Call::parse(operation, args).unwrap_err().to_string();
            assert_eq!(refusal, "/args: invalid type: sequence, expected an object", "{operation}");
        }
    }

    #[test]
    fn what_is_not_sealed_is_masked_where_arguments_are_stored() {
        for (operation, args) in [
            ("command.exec", json!({"command": ["x"], "secrets": {"A": "hunter2"}})),
            ("command.shell", json!({"command": "x", "secrets": {"A": "hunter2"}})),
            ("package.run", json!({"package": "p", "node": "n", "secrets": {"A": "hunter2"}})),
            ("workspace.run", json!({"steps": ["x"], "secrets": {"A": "hunter2"}})),
        ] {
            let mut call = Call::parse(operation, args).unwrap();
            assert_eq!(call.args_json()["secrets"], json!({"A": "***"}));
            assert!(!format!("{call:?}").contains("hunter2"));
            *call.secrets_mut().unwrap() = [("A".to_owned(), Secret::Sealed("s".to_owned()))].into();
            assert_eq!(Call::parse(operation, call.args_json()).unwrap(), call, "{operation}");
        }
    }
}
