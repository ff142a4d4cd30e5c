//! `longshore job submit`.

use std::io::Read;
use std::time::Duration;

use clap::Args;
use longshore_client::{Client, JobRequest, RetryRequest};
use longshore_model::unit::Span;
use serde_json::{Map, Value};

use super::{Audience, in_our_words, wait};
use crate::app::App;
use crate::command::secret::{SecretFlags, visible};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render;

/// Submit a job.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples\n  longshore job submit node.status.get --wait\n  longshore job submit command.shell --arg command='df -h' --target web-01\n  longshore job submit node.uptime.get --target group:web --wait\n  longshore job submit workspace.run --args @job.json"
)]
pub(crate) struct Submit {
    /// What to do, such as `node.hostname.get`; see `longshore operation list`.
    operation: String,
    /// All arguments as JSON, or @FILE, or - for standard input.
    #[arg(long, value_name = "JSON|@FILE|-")]
    args: Option<String>,
    /// One argument; a value that is JSON is taken as that, anything else as text. May be repeated.
    #[arg(long = "arg", value_name = "KEY=VALUE")]
    arg: Vec<String>,
    #[command(flatten)]
    secrets: SecretFlags,
    #[command(flatten)]
    pub(crate) audience: Audience,
    /// Of one attempt, such as `30s`.
    #[arg(long, value_name = "DURATION")]
    timeout: Option<Span>,
    /// Not started by then: never.
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<Span>,
    /// Earliest start: RFC 3339, or a duration from now.
    #[arg(long, value_name = "TIME")]
    not_before: Option<String>,
    /// The most attempts.
    #[arg(long, value_name = "N")]
    retry: Option<u32>,
    /// Waits between attempts, such as `1s,5s`.
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "retry")]
    backoff: Vec<Span>,
    /// A short string for people and searches. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
    /// The same key with the same submission gives the first job again; a fresh one unless given.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Of all jobs with this key one runs at a time, anywhere; the others wait in the order of submission.
    #[arg(long, value_name = "KEY")]
    concurrency_key: Option<String>,
    /// Wait until it has ended; the exit code says how.
    #[arg(long)]
    wait: bool,
}

impl Submit {
    pub(crate) async fn perform(self, app: &App) -> Result<Exit, Failure> {
        let (wait, audience, request) = (self.wait, self.audience.clone(), self.request()?);
        let client = app.client()?;
        audience.confirm(app, &client, &request.operation).await?;
        let head_start = wait.then_some(Duration::from_secs(20));
        let mut job = client.submit(&request, head_start).await.map_err(|error| in_our_words(error.into(), &audience.target))?;
        if wait {
            let id = job.id;
            let Some(ended) = wait::or_leave(app, &client, id, wait::until_final(app, &client, job)).await? else {
                return Ok(Exit::Interrupted);
            };
            job = ended;
        }
        let id = job.id;
        app.out.item(&job, |_| if wait { render::outcome(&app.out, &job) } else { id.to_string() }, || id.to_string())?;
        if !wait {
            app.out.suggest(format!("accepted; follow it with     longshore job logs -f {}", job.id.short()));
        }
        Ok(if wait { Exit::of_status(job.status) } else { Exit::Done })
    }

    fn request(self) -> Result<JobRequest, Failure> {
        let args = with_secrets(arguments(self.args.as_deref(), &self.arg)?, &self.secrets)?;
        let retry = self.retry.map(|max_attempts| RetryRequest {
            max_attempts,
            backoff: (!self.backoff.is_empty()).then(|| self.backoff.iter().map(Span::to_string).collect()),
        });
        Ok(JobRequest {
            timeout: self.timeout.map(|span| span.to_string()),
            expires_in: self.expires_in.map(|span| span.to_string()),
            not_before: self.not_before,
            retry,
            idempotency_key: Some(self.idempotency_key.unwrap_or_else(fresh_key)),
            concurrency_key: self.concurrency_key,
            annotations: self.annotation.iter().map(|text| pair("--annotation", text)).collect::<Result<_, _>>()?,
            ..self.audience.of(Client::request(self.operation, args))
        })
    }
}

/// A key that no other submission has.
pub(crate) fn fresh_key() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// `KEY=VALUE` as the two.
pub(crate) fn pair(flag: &str, text: &str) -> Result<(String, String), Failure> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(Failure::new(Exit::Usage, format!("{flag} takes KEY=VALUE, not {text:?}"))),
    }
}

fn arguments(whole: Option<&str>, single: &[String]) -> Result<Value, Failure> {
    let mut args = match whole {
        None => Map::new(),
        Some(text) => match serde_json::from_str(&read(text)?) {
            // Anything but a file or standard input is on the command line.
            Ok(Value::Object(args)) if args.contains_key("secrets") && !text.starts_with('@') && text != "-" => {
                return Err(visible("--args", "NAME"));
            }
            Ok(Value::Object(args)) => args,
            Ok(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                return Err(Failure::new(Exit::Usage, "--args must be a JSON object"));
            }
            Err(error) => return Err(Failure::new(Exit::Usage, "--args is not JSON").because(error.to_string())),
        },
    };
    for text in single {
        let (key, value) = pair("--arg", text)?;
        if key == "secrets" {
            return Err(visible("--arg secrets=…", "NAME"));
        }
        args.insert(key, serde_json::from_str(&value).unwrap_or(Value::String(value)));
    }
    Ok(Value::Object(args))
}

/// The arguments with those secrets among them.
fn with_secrets(mut args: Value, flags: &SecretFlags) -> Result<Value, Failure> {
    let secrets = flags.read()?;
    if secrets.is_empty() {
        return Ok(args);
    }
    let given = args.as_object_mut().map(|args| args.entry("secrets").or_insert_with(|| Value::Object(Map::new())));
    let Some(Value::Object(given)) = given else { return Err(Failure::new(Exit::Usage, "`secrets` in --args is not an object")) };
    for (name, secret) in secrets {
        let twice = Failure::new(Exit::Usage, format!("the secret {name:?} is given twice"));
        if given.insert(name, serde_json::to_value(secret).expect("a secret is text")).is_some() {
            return Err(twice);
        }
    }
    Ok(args)
}

fn read(text: &str) -> Result<String, Failure> {
    let unreadable = |what: &str, error: std::io::Error| Failure::new(Exit::Usage, format!("{what} cannot be read")).caused_by(&error);
    if text == "-" {
        let mut content = String::new();
        std::io::stdin().read_to_string(&mut content).map_err(|error| unreadable("standard input", error))?;
        return Ok(content);
    }
    match text.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(|error| unreadable(path, error)),
        None => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_come_whole_or_one_by_one() {
        let single = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let check = |whole, texts: &[&str], expected: Option<Value>| assert_eq!(arguments(whole, &single(texts)).ok(), expected);
        check(None, &[], Some(json!({})));
        check(Some(r#"{"a": 1}"#), &["b=x=y", "a=2", r#"c=["d"]"#], Some(json!({"a": 2, "b": "x=y", "c": ["d"]})));
        check(Some("[1]"), &[], None);
        check(Some("{"), &[], None);
        check(None, &["novalue"], None);
        check(None, &["=x"], None);
        check(Some(r#"{"secrets": {"A": "x"}}"#), &[], None);
        check(None, &[r#"secrets={"A": "x"}"#], None);
    }

    #[test]
    fn every_submission_has_a_key_of_its_own() {
        assert_ne!(fresh_key(), fresh_key());
    }
}
