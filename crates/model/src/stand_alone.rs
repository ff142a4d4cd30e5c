//! Requests to a stand-alone workspace worker, read into what it does.
//!
//! What is wrong with a request is told apart by what is known of it: without a name there is nobody to answer to.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::DirectoryName;
use crate::limits::TIMEOUT_MAX;
use crate::operation::{CallError, WorkspaceRun};
use crate::unit::Span;
use crate::wire::args::WorkspaceArgs;
use crate::wire::read::read;
use crate::wire::stand_alone::DefinitionArgs;

/// A request with a name that can be used.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The name of the job and of its directory.
    pub id: DirectoryName,
    /// What it says of the definition.
    args: DefinitionArgs,
}

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The steps; there may be none.
    pub run: WorkspaceRun,
    /// Its own time-out.
    pub timeout: Option<Duration>,
}

/// A request that can never be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// The name that it gave itself, if it is a text; not one that may be used as a name.
    pub id: Option<String>,
    /// What is wrong with it.
    pub reason: String,
}

/// Why there is no definition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// Neither the request nor the job's directory has steps.
    #[error("there is no definition: the request has no `steps`, and the job's directory has no job.json")]
    Missing,
    /// It cannot be read, or asks for what cannot be.
    #[error("{place}: {reason}")]
    Bad {
        /// Whose fault it is: `job.json` or `request`.
        place: &'static str,
        /// What is wrong, with its place.
        reason: String,
    },
}

impl Request {
    /// Reads a message's payload.
    ///
    /// # Errors
    /// It is no JSON object, or has no `id`, one that is no text or no plain name of a directory, or fields that nobody knows.
    pub fn parse(payload: &[u8]) -> Result<Self, Refused> {
        let refused = |id: Option<&str>, reason: String| Refused { id: id.map(str::to_owned), reason };
        let mut fields: Map<String, Value> = match serde_json::from_slice(payload) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => return Err(refused(None, "the request is not a JSON object".to_owned())),
            Err(error) => return Err(refused(None, format!("the request is not JSON: {error}"))),
        };
        let id = match fields.remove("id") {
            Some(Value::String(id)) => id,
            Some(_) => return Err(refused(None, "`id` is not a text".to_owned())),
            None => return Err(refused(None, "the request has no `id`".to_owned())),
        };
        let name: DirectoryName = id.parse().map_err(|error| refused(Some(&id), format!("`id` cannot be used: {error}")))?;
        let args = definition_args(Value::Object(fields)).map_err(|reason| refused(Some(&id), format!("the request: {reason}")))?;
        let request = Self { id: name, args };
        if request.has_steps() {
            // What can be seen to be wrong without the job's directory is.
            request.definition(None).map_err(|error| refused(Some(&id), error.to_string()))?;
        }
        Ok(request)
    }

    /// Whether it brings its own steps; then `job.json` is not looked at.
    #[must_use]
    pub fn has_steps(&self) -> bool {
        self.args.steps.is_some()
    }

    /// What to do: by the request if that has steps, else by `job_json`, in which each field that the request has is replaced.
    ///
    /// # Errors
    /// There are no steps anywhere, or what there is cannot be done.
    pub fn definition(&self, job_json: Option<&[u8]>) -> Result<Definition, DefinitionError> {
        if self.has_steps() {
            return definition(self.args.clone()).map_err(|reason| DefinitionError::Bad { place: "request", reason });
        }
        let bad = |reason| DefinitionError::Bad { place: "job.json", reason };
        let value = serde_json::from_slice(job_json.ok_or(DefinitionError::Missing)?).map_err(|error| bad(error.to_string()))?;
        let file = definition_args(value).map_err(bad)?;
        if file.steps.is_none() {
            return Err(bad("it has no `steps`".to_owned()));
        }
        let own = self.args.clone();
        definition(DefinitionArgs {
            steps: file.steps,
            env: own.env.or(file.env),
            shell: own.shell.or(file.shell),
            timeout: own.timeout.or(file.timeout),
            artifacts: own.artifacts.or(file.artifacts),
            limits: own.limits.or(file.limits),
        })
        .map_err(bad)
    }
}

fn definition_args(value: Value) -> Result<DefinitionArgs, String> {
    read(value).map_err(|unreadable| at(&unreadable.pointer, &unreadable.cause.to_string()))
}

fn definition(args: DefinitionArgs) -> Result<Definition, String> {
    let timeout = match args.timeout.as_deref().map(str::parse::<Span>) {
        None => None,
        Some(Ok(Span(span))) if !span.is_zero() && span <= TIMEOUT_MAX => Some(span),
        Some(Ok(_)) => return Err(at("/timeout", &format!("more than 0 and at most {}", Span(TIMEOUT_MAX)))),
        Some(Err(error)) => return Err(at("/timeout", &error.to_string())),
    };
    let args = WorkspaceArgs {
        bundle: None,
        source: None,
        steps: args.steps.unwrap_or_default(),
        env: args.env.unwrap_or_default(),
        secrets: Default::default(),
        shell: args.shell,
        artifacts: args.artifacts,
        limits: args.limits.map(Box::new),
    };
    let run = WorkspaceRun::parse(&args).map_err(|error| match error {
        CallError::Args(faults) => {
            let texts = faults.iter().map(|fault| at(fault.pointer.strip_prefix("/args").unwrap_or(&fault.pointer), &fault.detail));
            texts.collect::<Vec<_>>().join("; ")
        }
        CallError::UnknownOperation { .. } => error.to_string(),
    })?;
    Ok(Definition { run, timeout })
}

fn at(pointer: &str, detail: &str) -> String {
    if pointer.is_empty() { detail.to_owned() } else { format!("{pointer}: {detail}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Request, Refused> {
        Request::parse(text.as_bytes())
    }

    #[track_caller]
    fn refused(text: &str, id: Option<&str>, reason: &str) {
        let refused = parse(text).unwrap_err();
        assert_eq!(refused.id.as_deref(), id, "{text}");
        assert!(refused.reason.contains(reason), "{text}: {}", refused.reason);
    }

    fn scripts(definition: &Definition) -> Vec<&str> {
        definition.run.steps.iter().map(|step| step.script.as_str()).collect()
    }

    #[test]
    fn a_request_is_an_object_with_a_plain_name() {
        assert_eq!(parse(r#"{"id":"job 1.2-ü"}"#).unwrap().id.as_str(), "job 1.2-ü");
        for text in ["", "{", "nonsense", "\u{feff}{}", "{\"id\":\"x\"} more"] {
            refused(text, None, "not JSON");
        }
        for text in ["[]", "\"id\"", "7", "null", r#"["id"]"#] {
            refused(text, None, "not a JSON object");
        }
        refused("{}", None, "has no `id`");
        for id in ["7", "null", "[\"x\"]", "{\"x\":1}", "true"] {
            refused(&format!(r#"{{"id":{id}}}"#), None, "`id` is not a text");
        }
        for id in ["", ".", "..", "../x", "a/b", "a\\b", "/etc", "a\nb"] {
            refused(&serde_json::json!({ "id": id }).to_string(), Some(id), "`id` cannot be used");
        }
        let nul = r#"{"id":"a\u0000b"}"#;
        refused(nul, Some("a\0b"), "control");
    }

    #[test]
    fn what_nobody_knows_is_named() {
        refused(r#"{"id":"x","stepz":[]}"#, Some("x"), "stepz");
        refused(r#"{"id":"x","steps":[{"run":"a","nmae":"b"}]}"#, Some("x"), "nmae");
        refused(r#"{"id":"x","steps":["true"],"secrets":{}}"#, Some("x"), "secrets");
        refused(r#"{"id":"x","steps":["a",7]}"#, Some("x"), "/steps/1");
        refused(r#"{"id":"x","steps":[""]}"#, Some("x"), "/steps/0: is empty");
        refused(r#"{"id":"x","steps":["a"],"timeout":"soon"}"#, Some("x"), "/timeout");
        let error = parse(r#"{"id":"x"}"#).unwrap().definition(Some(br#"{"steps":["a"],"retries":3}"#)).unwrap_err();
        assert!(error.to_string().starts_with("job.json: ") && error.to_string().contains("retries"), "{error}");
    }

    #[test]
    fn steps_of_the_request_win_and_its_other_fields_replace_those_of_the_file() {
        let file = br#"{"steps":["from file"],"env":{"A":"file"},"timeout":"5m"}"#;
        let own = parse(r#"{"id":"x","steps":["own"]}"#).unwrap();
        assert_eq!(scripts(&own.definition(Some(b"not even JSON")).unwrap()), ["own"]);
        let plain = parse(r#"{"id":"x"}"#).unwrap().definition(Some(file)).unwrap();
        assert_eq!((scripts(&plain), plain.timeout), (vec!["from file"], Some(Duration::from_secs(300))));
        let mixed = parse(r#"{"id":"x","env":{"A":"request"}}"#).unwrap().definition(Some(file)).unwrap();
        assert_eq!((scripts(&mixed), mixed.run.steps[0].env["A"].as_str()), (vec!["from file"], "request"));
    }

    #[test]
    fn no_steps_are_fine_and_no_definition_is_not() {
        let none = parse(r#"{"id":"x","steps":[]}"#).unwrap();
        assert!(none.definition(Some(br#"{"steps":["a"]}"#)).unwrap().run.steps.is_empty());
        let request = parse(r#"{"id":"x"}"#).unwrap();
        assert!(request.definition(Some(br#"{"steps":[]}"#)).unwrap().run.steps.is_empty());
        assert_eq!(request.definition(None), Err(DefinitionError::Missing));
        for file in ["{}", "[]", "", r#"{"steps":null}"#, r#"["steps"]"#] {
            assert!(matches!(request.definition(Some(file.as_bytes())), Err(DefinitionError::Bad { .. })), "{file}");
        }
    }

    #[test]
    fn what_looks_like_a_fact_of_a_host_is_just_text() {
        let request = parse(r#"{"id":"x","steps":["echo @fact.hostname"]}"#).unwrap();
        assert_eq!(scripts(&request.definition(None).unwrap()), ["echo @fact.hostname"]);
    }
}
