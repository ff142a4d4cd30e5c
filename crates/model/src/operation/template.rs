//! Arguments that name facts: checked as far as that goes before a host has put its own in, and parsed as a whole once it has.
//!
//! When a job is submitted, samples stand for the facts: what is refused whatever stands there is refused then. On the host the values go
//! through the same parsing as arguments that were written out, so that a fact can say nothing that a submitter could not.

use serde_json::Value;

use super::Operation;
use super::call::{Call, CallError, fault, stored};
use super::secret;
use crate::fact::{FactError, FactValues, Place, is_mentioned, replace, value_at};
use crate::wire::secret::{Secrets, deserialize};

/// An operation whose arguments name facts of the host that is to do it.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    operation: Operation,
    /// All but the secrets, in which nothing is replaced.
    args: Value,
    secrets: Option<Secrets>,
}

/// Why a host cannot put its facts into arguments. Another attempt on it would end the same way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// A reference cannot be replaced.
    #[error("{pointer}: {source}")]
    Fact {
        /// Where it stands.
        pointer: String,
        /// Why.
        source: FactError,
    },
    /// With the facts in them these are not the operation's arguments.
    #[error("with this host's facts in them the arguments cannot be: {0}")]
    Args(CallError),
}

/// What may stand for a fact: an interface or a name, an address, a path, a length of time. Each occurrence has a number of its own.
const SAMPLES: [fn(usize) -> String; 4] =
    [|n| format!("eth{n}"), |n| format!("198.51.{}.{}", 100 + n / 250 % 100, 1 + n % 250), |n| format!("/x{n}"), |_| "1s".to_owned()];

impl Template {
    pub(super) fn parse(operation: Operation, mut args: Value) -> Result<Self, CallError> {
        let secrets = args.as_object_mut().and_then(|fields| fields.remove(secret::FIELD));
        let mut named = Vec::new();
        check_paths(&args, &mut named)?;
        if named.iter().any(|pointer| pointer == "/args/bundle") {
            return Err(fault("/args/bundle", "takes no fact: a bundle is chosen when the job is submitted"));
        }
        let mut template = Self { operation, args, secrets: None };
        let mut refusals = Vec::new();
        for sample in SAMPLES {
            let mut n = 0;
            let sampled = template.filled(|_, _| {
                n += 1;
                Ok(sample(n))
            });
            let mut sampled = sampled.map_err(|error| fault("/args", error.to_string()))?;
            if let (Some(fields), Some(secrets)) = (sampled.as_object_mut(), &secrets) {
                fields.insert(secret::FIELD.to_owned(), secrets.clone());
            }
            match Call::parse_plain(operation, sampled) {
                Ok(call) => {
                    template.secrets = call.secrets().cloned();
                    return Ok(template);
                }
                Err(refusal) => refusals.push(refusal),
            }
        }
        // What a fact is part of may be what the samples spoil, unless it is refused in the same words whatever stands there.
        let is_spoilt = |refusal: &CallError| match refusal {
            CallError::Args(errors) => errors.iter().all(|error| named.iter().any(|named| is_part_of(named, &error.pointer))),
            CallError::UnknownOperation { .. } => false,
        };
        let are_the_same = refusals.windows(2).all(|pair| pair[0] == pair[1]);
        match refusals.into_iter().find(|refusal| are_the_same || !is_spoilt(refusal)) {
            Some(refusal) => Err(refusal),
            None => {
                template.secrets = secrets.map(deserialize).transpose().map_err(|error| fault("/args/secrets", error.to_string()))?;
                if let Some(secrets) = &template.secrets {
                    secret::check("/args/secrets", secrets, &[])?;
                }
                Ok(template)
            }
        }
    }

    /// Which operation.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// The arguments as they were given; of secrets that are not sealed, nothing but their names.
    pub(super) fn args_json(&self) -> Value {
        let mut args = self.args.clone();
        if let (Some(fields), Some(secrets)) = (args.as_object_mut(), self.secrets.as_ref().filter(|secrets| !secrets.is_empty())) {
            let stored = serde_json::to_value(stored(secrets)).expect("names are text");
            fields.insert(secret::FIELD.to_owned(), stored);
        }
        args
    }

    pub(super) fn secrets(&self) -> Option<&Secrets> {
        self.secrets.as_ref()
    }

    pub(super) fn secrets_mut(&mut self) -> Option<&mut Secrets> {
        self.secrets.as_mut()
    }

    /// The bundle it needs, if it needs one: that names no fact.
    pub(super) fn bundle(&self) -> Option<&str> {
        if self.operation == Operation::WorkspaceRun { self.args.get("bundle").and_then(Value::as_str) } else { None }
    }

    /// The call with a host's facts in it, checked as every call is.
    ///
    /// # Errors
    /// A fact that the host does not have or that a script must not have in it, or arguments that cannot be.
    pub fn fill(&self, values: &FactValues) -> Result<Call, FillError> {
        let args = self.filled(|place, path| value_at(values, place, path))?;
        let mut call = Call::parse_plain(self.operation, args).map_err(FillError::Args)?;
        if let (Some(secrets), Some(own)) = (call.secrets_mut(), &self.secrets) {
            secrets.clone_from(own);
        }
        Ok(call)
    }

    fn filled(&self, mut value: impl FnMut(Place, &str) -> Result<String, FactError>) -> Result<Value, FillError> {
        let mut args = self.args.clone();
        each_text(&mut args, "/args", &mut |pointer, text| {
            let place = place_of(self.operation, pointer);
            *text = replace(text, |path| value(place, path)).map_err(|source| FillError::Fact { pointer: pointer.to_owned(), source })?;
            Ok::<(), FillError>(())
        })?;
        Ok(args)
    }
}

/// Collects where references stand, and refuses one without a path.
fn check_paths(args: &Value, named: &mut Vec<String>) -> Result<(), CallError> {
    each_text(&mut args.clone(), "/args", &mut |pointer, text| {
        if is_mentioned(&Value::from(text.as_str())) {
            replace(text, |_| Ok(String::new())).map_err(|error| fault(pointer, error.to_string()))?;
            named.push(pointer.to_owned());
        }
        Ok(())
    })
}

/// Shows every text below, with where it stands.
fn each_text<E>(value: &mut Value, pointer: &str, see: &mut impl FnMut(&str, &mut String) -> Result<(), E>) -> Result<(), E> {
    match value {
        Value::String(text) => see(pointer, text),
        Value::Array(items) => {
            items.iter_mut().enumerate().try_for_each(|(index, item)| each_text(item, &format!("{pointer}/{index}"), see))
        }
        Value::Object(fields) => fields.iter_mut().try_for_each(|(name, field)| each_text(field, &format!("{pointer}/{name}"), see)),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

/// Whether the text at `pointer` is read by a shell or whatever else runs scripts.
fn place_of(operation: Operation, pointer: &str) -> Place {
    let is_step = |rest: &str| !rest.contains('/') || rest.split_once('/').is_some_and(|(_, field)| field == "run");
    let is_script = match operation {
        Operation::CommandShell => pointer == "/args/command",
        Operation::WorkspaceRun => pointer.strip_prefix("/args/steps/").is_some_and(is_step),
        Operation::CommandExec
        | Operation::NetworkDnsGet
        | Operation::NetworkDnsSet
        | Operation::NetworkPingRun
        | Operation::NodeDiskGet
        | Operation::NodeHostnameGet
        | Operation::NodeHostnameSet
        | Operation::NodeLoadGet
        | Operation::NodeMemoryGet
        | Operation::NodeOsGet
        | Operation::NodeStatusGet
        | Operation::NodeUptimeGet
        | Operation::PackageInstall
        | Operation::PackageList
        | Operation::PackageRun
        | Operation::PackageUninstall => false,
    };
    if is_script { Place::Script } else { Place::Word }
}

fn is_part_of(text: &str, of: &str) -> bool {
    text.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::operation::CallError;
    use crate::wire::facts::{Facts, InterfaceFacts};

    fn values(hostname: &str) -> FactValues {
        FactValues::of(&Facts {
            hostname: hostname.to_owned(),
            interface: InterfaceFacts { primary: Some("eth0".to_owned()), address: Some("192.0.2.7".to_owned()) },
            label: [("group".to_owned(), "web.dev".to_owned())].into(),
            ..Facts::default()
        })
    }

    fn template(operation: &str, args: Value) -> Template {
        let call = Call::parse(operation, args).unwrap();
        if let Call::WithFacts(template) = call { template } else { panic!("{call:?}") }
    }

    #[test]
    fn every_kind_of_argument_may_name_facts_and_is_kept_as_it_was_given() {
        for (operation, args, filled) in [
            ("network.dns.get", json!({"interface": "@fact.interface.primary"}), json!({"interface": "eth0"})),
            (
                "network.dns.set",
                json!({"interface": "@fact.interface.primary", "servers": ["@fact.interface.address", "192.0.2.1"], "search": ["@fact.hostname.x"]}),
                json!(null),
            ),
            (
                "network.dns.set",
                json!({"servers": ["@fact.interface.address", "192.0.2.1"]}),
                json!({"servers": ["192.0.2.7", "192.0.2.1"]}),
            ),
            ("node.hostname.set", json!({"hostname": "new-@fact.hostname"}), json!({"hostname": "new-web-01"})),
            (
                "command.exec",
                json!({"command": ["echo", "@fact.hostname", r"\@fact.hostname"], "cwd": "/srv/@fact.label.group", "env": {"A": "@fact.hostname"}}),
                json!({"command": ["echo", "web-01", "@fact.hostname"], "cwd": "/srv/web.dev", "env": {"A": "web-01"}}),
            ),
            ("command.shell", json!({"command": "echo @fact.hostname"}), json!({"command": "echo web-01"})),
            (
                "workspace.run",
                json!({"steps": ["echo @fact.hostname", {"run": "ls", "name": "on @fact.hostname"}], "artifacts": ["@fact.hostname/*"]}),
                json!({"steps": ["echo web-01", {"run": "ls", "name": "on web-01", "continue_on_error": false}], "artifacts": ["web-01/*"]}),
            ),
        ] {
            let call = Call::parse(operation, args.clone()).unwrap();
            assert_eq!((call.args_json(), call.operation().name()), (args.clone(), operation));
            let result = template(operation, args).fill(&values("web-01"));
            if filled.is_null() {
                assert!(result.unwrap_err().to_string().contains("/args/search/0: the host has no fact"));
            } else {
                let call = result.unwrap();
                assert!(!matches!(call, Call::WithFacts(_)));
                assert_eq!(call.args_json(), filled, "{operation}");
            }
        }
    }

    #[test]
    fn what_no_fact_could_make_right_is_refused_at_once() {
        let hash = "0".repeat(64);
        for (operation, args, expected) in [
            ("network.dns.get", json!({"interface": "@fact.x", "verbose": true}), "/args/verbose"),
            ("network.dns.set", json!({"interface": "@fact.x", "servers": []}), "/args/servers: 1 to 8"),
            ("network.dns.set", json!({"interface": "@fact.x", "servers": ["no"]}), "/args/servers/0"),
            ("network.dns.get", json!({"interface": "@fact."}), "/args/interface: `@fact.` is followed by no path"),
            ("command.exec", json!({"command": [], "env": {"A": "@fact.x"}}), "/args/command: needs at least"),
            ("command.shell", json!({"command": "@fact.x", "cwd": "x"}), "/args/cwd: must be an absolute path"),
            ("workspace.run", json!({"steps": ["x"], "bundle": "@fact.x"}), "/args/bundle: takes no fact"),
            ("workspace.run", json!({"steps": ["@fact.x"], "bundle": "no"}), "/args/bundle: must be a SHA-256"),
            ("node.uptime.get", json!({"x": "@fact.x"}), "/args/x: unknown field"),
        ] {
            let refused = Call::parse(operation, args.clone()).unwrap_err().to_string();
            assert!(refused.starts_with(expected), "{args}: {refused}");
        }
        let call = Call::parse("workspace.run", json!({"steps": ["@fact.x"], "bundle": hash})).unwrap();
        assert_eq!(call.bundle(), Some(hash.as_str()));
        let unknown = Call::parse("x.y.z", json!({"x": "@fact.x"}));
        assert!(matches!(unknown, Err(CallError::UnknownOperation { .. })));
    }

    /// A host whose name was chosen to break out of wherever it is put.
    #[test]
    fn a_hostile_fact_never_becomes_more_than_one_word_and_never_part_of_a_script() {
        for hostile in ["a b", "'; id; '", "$(id)", "`id`", "-rf", "a\"b", "x;y", "@fact.interface.primary", r"\@fact.x"] {
            let values = values(hostile);
            let exec = template("command.exec", json!({"command": ["echo", "@fact.hostname"], "env": {"A": "@fact.hostname"}}));
            let Call::CommandExec(command) = exec.fill(&values).unwrap() else { panic!("{hostile}") };
            assert_eq!((command.words, &command.env["A"]), (vec!["echo".to_owned(), hostile.to_owned()], &hostile.to_owned()));
            for (operation, args) in [
                ("node.hostname.set", json!({"hostname": "@fact.hostname"})),
                ("network.dns.get", json!({"interface": "@fact.hostname"})),
                ("network.ping.run", json!({"address": "@fact.hostname"})),
                ("network.dns.set", json!({"servers": ["@fact.hostname"]})),
            ] {
                let refused = template(operation, args).fill(&values).unwrap_err();
                assert!(matches!(refused, FillError::Args(_)), "{operation} {hostile}: {refused}");
            }
            if hostile.starts_with('@') {
                continue;
            }
            for (operation, args) in [
                ("command.shell", json!({"command": "echo '@fact.hostname'"})),
                ("workspace.run", json!({"steps": ["true", "echo @fact.hostname"]})),
                ("workspace.run", json!({"steps": [{"run": "echo \"@fact.hostname\""}]})),
            ] {
                let refused = template(operation, args).fill(&values).unwrap_err().to_string();
                assert!(refused.contains("hand it over in `env`"), "{operation} {hostile}: {refused}");
            }
        }
    }
}
