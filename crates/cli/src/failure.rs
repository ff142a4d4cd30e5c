//! What a failed command tells: what failed, why, what to do, where to read more, and a code.

use std::error::Error as StdError;
use std::fmt::Write as _;

use clap::builder::styling::{AnsiColor, Style};
use longshore_client::{ErrorCode, Problem};
use serde_json::json;

use crate::exit::Exit;
use crate::render::printable_lines;
use crate::settings;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What the program ends with.
    pub(crate) exit: Exit,
    /// What failed, in the user's words.
    what: String,
    causes: Vec<String>,
    hints: Vec<String>,
    code: Option<&'static str>,
    problem: Option<Box<Problem>>,
}

/// Codes of our own, beside the API's: the code, a title, what it means and what to do.
pub(crate) const OWN_CODES: &[(&str, &str, &str)] = &[
    (
        "unreachable",
        "the controller could not be reached",
        "Nothing answered at the address, or it did not answer in time. On one host `longshore start` runs everything; for another \
         controller give `--url`, set LONGSHORE_URL, or choose a context with `longshore context use NAME`.",
    ),
    (
        "no_controller",
        "no controller is known",
        "Neither --url, LONGSHORE_URL, the configuration (controller.client.url) nor a context names one. `longshore start` makes the \
         context `local`.",
    ),
    ("protocol", "the answer was not Longshore's", "Something else may listen at the address, or a proxy stands in between. Check --url."),
    (
        "configuration",
        "the configuration is not valid",
        "The message names the key and the place. `longshore config explain KEY` says what it takes.",
    ),
    (
        "unknown_id",
        "no job has this id",
        "Ids may be shortened to a unique prefix or tail of at least 4 characters. `longshore job list` shows them.",
    ),
    (
        "ambiguous_id",
        "several jobs have such an id, or may have",
        "Give more characters of it. Only the newest jobs are looked through; where there are more, give the whole id.",
    ),
    ("wait_timeout", "the time for waiting was up", "The job goes on. `longshore job wait ID` waits for it again."),
    (
        "broker",
        "the broker does not run",
        "The message says what was tried. nats-server 2.12.0 or newer is needed; `--nats-server PATH` names one.",
    ),
    (
        "broker_login",
        "the broker does not let us in",
        "The broker asks who comes, and does not know us by what it was shown: `nats.auth` and the flags --user, --password, --creds, --nkey \
         and --nats-token-file say what that is, and `longshore config show --origin` where it comes from.",
    ),
    (
        "broker_tls",
        "there is no secure connection to the broker",
        "The broker's certificate, ours, or a file that holds one is not what it must be. `nats.tls` and the flags --tls-ca, --tls-cert and \
         --tls-key name the files; nothing was sent to the broker.",
    ),
    (
        "already_running",
        "another process uses the data directory",
        "One `longshore start` per data directory. Stop the other, or choose another with --data.",
    ),
];

impl Failure {
    /// A failure that says `what`.
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), causes: Vec::new(), hints: Vec::new(), code: None, problem: None }
    }

    /// Ends the program without a word: all has been said.
    pub(crate) fn quiet(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// Whether there is nothing to say, as when nobody reads our output any more.
    pub(crate) fn is_quiet(&self) -> bool {
        self.what.is_empty()
    }

    /// Adds why.
    pub(crate) fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds why, walking the chain of sources.
    pub(crate) fn caused_by(mut self, error: &(dyn StdError + 'static)) -> Self {
        self.causes.push(chain(error));
        self
    }

    /// Adds what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Says what to do here, instead of what the API says to its own callers.
    pub(crate) fn hint_instead(mut self, code: ErrorCode, hint: impl Into<String>) -> Self {
        if self.problem.as_ref().is_some_and(|problem| problem.code == code) {
            self.hints = vec![hint.into()];
        }
        self
    }

    /// Adds a code of [`OWN_CODES`].
    pub(crate) fn code(mut self, code: &'static str) -> Self {
        debug_assert!(OWN_CODES.iter().any(|(own, _, _)| *own == code));
        self.code = Some(code);
        self
    }

    /// The same failure with another exit code.
    pub(crate) fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Puts what was being done before what the API says.
    pub(crate) fn doing(mut self, doing: &str) -> Self {
        if !self.what.is_empty() {
            self.causes.insert(0, std::mem::replace(&mut self.what, doing.to_owned()));
        }
        self
    }

    /// The five parts as text; empty when there is nothing to say.
    pub(crate) fn text(&self) -> String {
        if self.what.is_empty() {
            return String::new();
        }
        let (red, dim): (Style, Style) = (AnsiColor::Red.on_default().bold(), Style::new().dimmed());
        let indented = |text: &str| printable_lines(text).replace('\n', "\n         ");
        let mut text = format!("{red}error:{red:#} {}", indented(&self.what));
        let put = |text: &mut String, label: &str, lines: &[String]| {
            for (idx, line) in lines.iter().enumerate() {
                let label = if idx == 0 { label } else { "" };
                let _ = write!(text, "\n  {dim}{label:<6}{dim:#} {}", indented(line));
            }
        };
        put(&mut text, "cause:", &self.causes);
        put(&mut text, "hint:", &self.hints);
        if let Some(code) = self.code_text() {
            put(&mut text, "more:", &[format!("longshore explain {code}")]);
            put(&mut text, "code:", &[code.to_owned()]);
        }
        text.push('\n');
        text
    }

    /// The same as a problem document.
    pub(crate) fn document(&self) -> Option<serde_json::Value> {
        let hint = (!self.hints.is_empty()).then(|| self.hints.join("; "));
        if let Some(problem) = &self.problem {
            return serde_json::to_value(Problem { hint, ..(**problem).clone() }).ok();
        }
        if self.what.is_empty() {
            return None;
        }
        let code = self.code.unwrap_or("failed");
        let title = OWN_CODES.iter().find(|(own, _, _)| *own == code).map_or("it failed", |(_, title, _)| title);
        let detail = std::iter::once(&self.what).chain(&self.causes).cloned().collect::<Vec<_>>().join(": ");
        Some(json!({ "type": format!("/problems/{code}"), "title": title, "detail": detail, "code": code, "hint": hint }))
    }

    fn code_text(&self) -> Option<&str> {
        self.problem.as_ref().map(|problem| problem.code.as_str()).or(self.code)
    }
}

/// An error and its sources in one line, without saying the same twice.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut parts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        source = cause.source();
    }
    parts.join(": ")
}

impl From<longshore_client::Error> for Failure {
    fn from(error: longshore_client::Error) -> Self {
        use longshore_client::Error;
        match error {
            Error::Problem(problem) => {
                let fields = problem.errors.iter().map(|field| format!("{}: {}", field.pointer, field.detail));
                let mut failure = Self::new(Exit::of_code(problem.code), problem.detail.clone());
                // A refusal that names fields often says the same in its detail.
                failure.causes = fields.filter(|field| !problem.detail.contains(field.as_str())).collect();
                failure.hints = problem.hint.clone().into_iter().collect();
                if matches!(problem.code, ErrorCode::NoAgent | ErrorCode::AgentOffline) {
                    failure.hints.push("see which there are:     longshore agent list".to_owned());
                    failure.hints.push("run one on this host:    longshore agent start".to_owned());
                }
                if problem.code == ErrorCode::Internal {
                    failure.causes.extend(problem.request_id.as_ref().map(|id| format!("request id {id} in the controller's log")));
                }
                failure.problem = Some(problem);
                failure
            }
            Error::Unreachable { url, source, .. } => {
                let mut deepest: &(dyn StdError + 'static) = &*source;
                while let Some(deeper) = deepest.source() {
                    deepest = deeper;
                }
                Self::new(Exit::Unreachable, format!("the controller at {url} could not be reached"))
                    .because(deepest.to_string())
                    .hint("is it running? On one host:     longshore start")
                    .code("unreachable")
            }
            error @ Error::Protocol { .. } => Self::new(Exit::Failed, error.to_string()).code("protocol"),
            error @ Error::Config { .. } => Self::new(Exit::Usage, error.to_string()),
        }
    }
}

impl From<settings::Error> for Failure {
    fn from(error: settings::Error) -> Self {
        let exit = if matches!(error, settings::Error::Read { .. }) { Exit::Usage } else { Exit::Invalid };
        let mut failure = Self::new(exit, error.to_string()).code("configuration");
        failure.causes = error.source().map(chain).into_iter().collect();
        failure.hints = error.hint().into_iter().collect();
        failure
    }
}

/// Writing to standard output failed.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            // Whoever read has seen enough.
            return Self::quiet(Exit::Done);
        }
        Self::new(Exit::Failed, "standard output cannot be written").caused_by(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(failure: &Failure) -> String {
        anstream::adapter::strip_str(&failure.text()).to_string()
    }

    #[test]
    fn an_error_has_its_five_parts_in_order() {
        let failure = Failure::new(Exit::Failed, "it broke").because("a").because("b").hint("mend it").code("broker").exit(Exit::Invalid);
        let expected = "error: it broke\n  cause: a\n         b\n  hint:  mend it\n  more:  longshore explain broker\n  code:  broker\n";
        assert_eq!(plain(&failure), expected);
        assert_eq!(failure.exit.code(), 10);
        assert_eq!(failure.document().unwrap()["code"], "broker");
    }

    #[test]
    fn a_refusal_keeps_the_problem_document() {
        let problem = Problem { hint: Some("wait".to_owned()), ..Problem::new(ErrorCode::JobRunning, 409, "job j-x is running") };
        let failure = Failure::from(longshore_client::Error::Problem(Box::new(problem.clone())));
        assert!(plain(&failure).starts_with("error: job j-x is running\n  hint:  wait\n  more:  longshore explain job_running\n"));
        assert_eq!(failure.document(), serde_json::to_value(problem).ok());
        let failure = failure.doing("job j-x was not deleted");
        assert!(plain(&failure).starts_with("error: job j-x was not deleted\n  cause: job j-x is running\n"));
    }

    #[test]
    fn what_others_wrote_cannot_steer_the_terminal() {
        let text = "x\u{1b}[2J\u{9b}2J\u{202e}\nsecond".to_owned();
        let problem = Problem { hint: Some(text.clone()), ..Problem::new(ErrorCode::Internal, 500, text.clone()) };
        let shown = plain(&Failure::from(longshore_client::Error::Problem(Box::new(problem))).because(text));
        assert_eq!(shown.matches("x\u{fffd}[2J\u{fffd}2J\u{fffd}\n         second").count(), 3, "{shown}");
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
    }

    #[test]
    fn where_no_agent_is_found_the_way_to_one_is_shown() {
        let failure = Failure::from(longshore_client::Error::Problem(Box::new(Problem::new(ErrorCode::NoAgent, 409, "no agent is ready"))));
        assert!(plain(&failure).contains("longshore agent list") && plain(&failure).contains("longshore agent start"));
        assert!(failure.document().unwrap()["hint"].as_str().unwrap().contains("longshore agent list"), "also for machines");
    }

    #[test]
    fn an_unreachable_controller_is_named_with_the_deepest_cause() {
        let source = Box::new(std::io::Error::from_raw_os_error(111));
        let error = longshore_client::Error::Unreachable { url: "http://127.0.0.1:1".to_owned(), nothing_sent: true, source };
        let failure = Failure::from(error);
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(plain(&failure).contains("http://127.0.0.1:1") && plain(&failure).contains("refused"), "{}", plain(&failure));
    }
}
