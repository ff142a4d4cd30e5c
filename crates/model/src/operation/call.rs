//! An operation with its arguments, parsed.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::network::{self, DnsChange, Ping};
use super::package::{PackageInstall, PackageRun, PackageUninstall};
use super::secret;
use super::template::Template;
use super::{InterfaceName, NodeName, Operation};
use crate::DirectoryName;
use crate::fact::is_mentioned;
use crate::limits::{
    COMMAND_BYTES_MAX, COMMAND_WORDS_MAX, ENV_VARS_MAX, LIMIT_BYTES_MAX, LIMIT_MEMORY_MIN, LOG_BYTES_PER_STEP_MAX, OUTPUT_BYTES_MAX,
    PROCESSES_MAX, STEPS_MAX, TIMEOUT_MAX,
};
use crate::unit::{ByteSize, Span};
use crate::wire::args::{
    DnsGetArgs, ExecArgs, HostnameSetArgs, LimitArgs, NoArgs, ShellArgs, ShellChoice, StepArgs, StepDetail, WorkspaceArgs,
};
use crate::wire::problem::FieldError;
use crate::wire::read::{Unreadable, read};
use crate::wire::secret::{Secret, Secrets};

/// An operation with arguments that have been checked.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// `network.dns.get`
    NetworkDnsGet {
        /// Of one interface rather than of the whole host.
        interface: Option<InterfaceName>,
    },
    /// `network.dns.set`
    NetworkDnsSet(DnsChange),
    /// `network.ping.run`
    NetworkPingRun(Ping),
    /// `node.disk.get`
    NodeDiskGet,
    /// `node.hostname.get`
    NodeHostnameGet,
    /// `node.hostname.set`
    NodeHostnameSet {
        /// The new name.
        hostname: NodeName,
    },
    /// `node.load.get`
    NodeLoadGet,
    /// `node.memory.get`
    NodeMemoryGet,
    /// `node.os.get`
    NodeOsGet,
    /// `node.status.get`
    NodeStatusGet,
    /// `node.uptime.get`
    NodeUptimeGet,
    /// `command.exec`
    CommandExec(Command),
    /// `command.shell`; the command is `/bin/sh -c SCRIPT`.
    CommandShell {
        /// The script.
        script: String,
        /// How to run it.
        command: Command,
    },
    /// `package.install`
    PackageInstall(PackageInstall),
    /// `package.list`
    PackageList,
    /// `package.run`
    PackageRun(PackageRun),
    /// `package.uninstall`
    PackageUninstall(PackageUninstall),
    /// `workspace.run`
    WorkspaceRun {
        /// What to do.
        run: WorkspaceRun,
        /// What was asked for, word for word, but for the secrets: those are in `run` alone.
        args: Box<WorkspaceArgs>,
    },
    /// Any of these, with facts of the host still to be put in: nothing runs before [`Template::fill`].
    WithFacts(Template),
}

/// A program to start. No word holds a NUL, and there is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program, then its arguments.
    pub words: Vec<String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// Variables added to the environment.
    pub env: BTreeMap<String, String>,
    /// Output kept in the answer, of stdout and stderr together, at most [`OUTPUT_BYTES_MAX`]; the usual bounds unless given.
    pub max_output: Option<ByteSize>,
    /// More of them, whose values are secret. No name is in `env`.
    pub secrets: Secrets,
}

/// What `workspace.run` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceRun {
    /// SHA-256 of the bundle, 64 lower-case hex digits.
    pub bundle: Option<String>,
    /// A directory of the agent's own drive; there is no bundle then.
    pub source: Option<DirectoryName>,
    /// 1 to [`STEPS_MAX`] steps; in a stand-alone worker there may be none.
    pub steps: Vec<Step>,
    /// Globs of what to bring back; `None` is everything created or changed.
    pub artifacts: Option<Vec<String>>,
    /// Bytes of output kept of each step.
    pub output_bytes_max: u64,
    /// What its processes may use.
    pub limits: StepLimits,
    /// Variables of every step whose values are secret. No name is in a step's `env`.
    pub secrets: Secrets,
}

/// What the processes of a workspace job may use, together; no bound where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepLimits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub cpu_millis: Option<u32>,
    /// Processes and threads at once.
    pub processes: Option<u32>,
    /// Bytes of any one file that is written.
    pub file_size: Option<u64>,
}

impl WorkspaceRun {
    /// Checks arguments by themselves, without a catalogue: no step at all is fine here.
    ///
    /// # Errors
    /// Arguments that cannot be.
    pub fn parse(args: &WorkspaceArgs) -> Result<Self, CallError> {
        workspace(args)
    }
}

/// One step, with the job's settings folded in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// A name for people.
    pub name: Option<String>,
    /// The script.
    pub script: String,
    /// What runs it.
    pub shell: Shell,
    /// Variables added to the environment.
    pub env: BTreeMap<String, String>,
    /// Its own time-out.
    pub timeout: Option<Duration>,
    /// Go on when it fails.
    pub continue_on_error: bool,
}

/// The words before a step's script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shell(pub Vec<String>);

impl Default for Shell {
    fn default() -> Self {
        Self(["/bin/sh", "-c"].map(str::to_owned).to_vec())
    }
}

/// Why an operation cannot be called so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The catalogue does not have it.
    #[error("there is no operation {name:?}")]
    UnknownOperation {
        /// What was asked for.
        name: String,
        /// What it may have meant.
        nearest: Vec<&'static str>,
    },
    /// Arguments that cannot be.
    #[error("{}", .0.iter().map(|field| format!("{}: {}", field.pointer, field.detail)).collect::<Vec<_>>().join("; "))]
    Args(Vec<FieldError>),
}

impl Call {
    /// Checks arguments against the catalogue.
    ///
    /// # Errors
    /// No such operation, or arguments it does not take.
    pub fn parse(operation: &str, args: serde_json::Value) -> Result<Self, CallError> {
        let Some(operation) = Operation::by_name(operation) else {
            let name = operation.chars().take(128).collect::<String>();
            return Err(CallError::UnknownOperation { nearest: Operation::nearest(&name), name });
        };
        // What a handler gets, it gets word for word: a worker behind a gateway has no facts to put in.
        if !operation.is_of_packages() && is_mentioned(&args) {
            Template::parse(operation, args).map(Self::WithFacts)
        } else {
            Self::parse_plain(operation, args)
        }
    }

    /// Arguments as they are, without facts to be put in.
    pub(super) fn parse_plain(operation: Operation, args: serde_json::Value) -> Result<Self, CallError> {
        match operation {
            Operation::NetworkDnsGet => {
                let DnsGetArgs { interface } = typed(args)?;
                Ok(Self::NetworkDnsGet { interface: network::interface(interface.as_deref())? })
            }
            Operation::NetworkDnsSet => DnsChange::parse(&typed(args)?).map(Self::NetworkDnsSet),
            Operation::NetworkPingRun => Ping::parse(&typed(args)?).map(Self::NetworkPingRun),
            Operation::NodeDiskGet => typed(args).map(|NoArgs {}| Self::NodeDiskGet),
            Operation::NodeHostnameGet => typed(args).map(|NoArgs {}| Self::NodeHostnameGet),
            Operation::NodeHostnameSet => {
                let HostnameSetArgs { hostname } = typed(args)?;
                Ok(Self::NodeHostnameSet { hostname: parsed("/args/hostname", &hostname)? })
            }
            Operation::NodeLoadGet => typed(args).map(|NoArgs {}| Self::NodeLoadGet),
            Operation::NodeMemoryGet => typed(args).map(|NoArgs {}| Self::NodeMemoryGet),
            Operation::NodeOsGet => typed(args).map(|NoArgs {}| Self::NodeOsGet),
            Operation::NodeStatusGet => typed(args).map(|NoArgs {}| Self::NodeStatusGet),
            Operation::NodeUptimeGet => typed(args).map(|NoArgs {}| Self::NodeUptimeGet),
            Operation::CommandExec => {
                let ExecArgs { command, cwd, env, max_output, secrets } = typed(args)?;
                words("/args/command", &command)?;
                Ok(Self::CommandExec(checked(command, cwd, env, max_output, secrets)?))
            }
            Operation::CommandShell => {
                let ShellArgs { command: script, cwd, env, max_output, secrets } = typed(args)?;
                check_script("/args/command", &script)?;
                let mut words = Shell::default().0;
                words.push(script.clone());
                Ok(Self::CommandShell { script, command: checked(words, cwd, env, max_output, secrets)? })
            }
            Operation::PackageInstall => PackageInstall::parse(typed(args)?).map(Self::PackageInstall),
            Operation::PackageList => typed(args).map(|NoArgs {}| Self::PackageList),
            Operation::PackageRun => PackageRun::parse(typed(args)?).map(Self::PackageRun),
            Operation::PackageUninstall => PackageUninstall::parse(typed(args)?).map(Self::PackageUninstall),
            Operation::WorkspaceRun => {
                let mut args: Box<WorkspaceArgs> = typed(args)?;
                if args.steps.is_empty() {
                    return Err(fault("/args/steps", format!("1 to {STEPS_MAX} steps")));
                }
                let run = workspace(&args)?;
                args.secrets.clear();
                Ok(Self::WorkspaceRun { run, args })
            }
        }
    }

    /// Which operation.
    #[must_use]
    pub fn operation(&self) -> Operation {
        match self {
            Self::NetworkDnsGet { .. } => Operation::NetworkDnsGet,
            Self::NetworkDnsSet(_) => Operation::NetworkDnsSet,
            Self::NetworkPingRun(_) => Operation::NetworkPingRun,
            Self::NodeDiskGet => Operation::NodeDiskGet,
            Self::NodeHostnameGet => Operation::NodeHostnameGet,
            Self::NodeHostnameSet { .. } => Operation::NodeHostnameSet,
            Self::NodeLoadGet => Operation::NodeLoadGet,
            Self::NodeMemoryGet => Operation::NodeMemoryGet,
            Self::NodeOsGet => Operation::NodeOsGet,
            Self::NodeStatusGet => Operation::NodeStatusGet,
            Self::NodeUptimeGet => Operation::NodeUptimeGet,
            Self::CommandExec(_) => Operation::CommandExec,
            Self::CommandShell { .. } => Operation::CommandShell,
            Self::PackageInstall(_) => Operation::PackageInstall,
            Self::PackageList => Operation::PackageList,
            Self::PackageRun(_) => Operation::PackageRun,
            Self::PackageUninstall(_) => Operation::PackageUninstall,
            Self::WorkspaceRun { .. } => Operation::WorkspaceRun,
            Self::WithFacts(template) => template.operation(),
        }
    }

    /// The arguments as they were given, in canonical form; of secrets that are not sealed, nothing but their names.
    #[must_use]
    pub fn args_json(&self) -> serde_json::Value {
        let json = match self {
            Self::NodeDiskGet
            | Self::NodeHostnameGet
            | Self::NodeLoadGet
            | Self::NodeMemoryGet
            | Self::NodeOsGet
            | Self::NodeStatusGet
            | Self::NodeUptimeGet
            | Self::PackageList => serde_json::to_value(NoArgs {}),
            Self::NetworkDnsGet { interface } => {
                serde_json::to_value(DnsGetArgs { interface: interface.as_ref().map(ToString::to_string) })
            }
            Self::NetworkDnsSet(change) => serde_json::to_value(change.args()),
            Self::NetworkPingRun(ping) => serde_json::to_value(ping.args()),
            Self::NodeHostnameSet { hostname } => serde_json::to_value(HostnameSetArgs { hostname: hostname.to_string() }),
            Self::CommandExec(Command { words, cwd, env, max_output, secrets }) => {
                let (command, cwd, env, secrets) = (words.clone(), cwd.clone(), env.clone(), stored(secrets));
                serde_json::to_value(ExecArgs { command, cwd, env, max_output: max_output.map(|max| max.to_string()), secrets })
            }
            Self::CommandShell { script, command: Command { cwd, env, max_output, secrets, words: _ } } => {
                let (command, cwd, env, secrets) = (script.clone(), cwd.clone(), env.clone(), stored(secrets));
                serde_json::to_value(ShellArgs { command, cwd, env, max_output: max_output.map(|max| max.to_string()), secrets })
            }
            Self::PackageInstall(install) => serde_json::to_value(install.args()),
            Self::PackageRun(run) => serde_json::to_value(run.args()),
            Self::PackageUninstall(uninstall) => serde_json::to_value(uninstall.args()),
            Self::WorkspaceRun { args, run } => serde_json::to_value(WorkspaceArgs { secrets: stored(&run.secrets), ..(**args).clone() }),
            Self::WithFacts(template) => Ok(template.args_json()),
        };
        json.expect("argument structs have string keys only")
    }

    /// The bundle it needs, if it needs one.
    #[must_use]
    pub fn bundle(&self) -> Option<&str> {
        match self {
            Self::WorkspaceRun { run, .. } => run.bundle.as_deref(),
            Self::WithFacts(template) => template.bundle(),
            Self::NetworkDnsGet { .. }
            | Self::NetworkDnsSet(_)
            | Self::NetworkPingRun(_)
            | Self::NodeDiskGet
            | Self::NodeHostnameGet
            | Self::NodeHostnameSet { .. }
            | Self::NodeLoadGet
            | Self::NodeMemoryGet
            | Self::NodeOsGet
            | Self::NodeStatusGet
            | Self::NodeUptimeGet
            | Self::CommandExec(_)
            | Self::CommandShell { .. }
            | Self::PackageInstall(_)
            | Self::PackageList
            | Self::PackageRun(_)
            | Self::PackageUninstall(_) => None,
        }
    }
}

/// Where each operation has its secrets, if it takes any: to look at, or to change, as `$call` is.
macro_rules! secrets_of {
    ($call:expr, $of_template:ident) => {
        match $call {
            Self::CommandExec(Command { secrets, .. })
            | Self::CommandShell { command: Command { secrets, .. }, script: _ }
            | Self::PackageRun(PackageRun { secrets, .. })
            | Self::WorkspaceRun { run: WorkspaceRun { secrets, .. }, args: _ } => Some(secrets),
            Self::WithFacts(template) => template.$of_template(),
            Self::NetworkDnsGet { .. }
            | Self::NetworkDnsSet(_)
            | Self::NetworkPingRun(_)
            | Self::NodeDiskGet
            | Self::NodeHostnameGet
            | Self::NodeHostnameSet { .. }
            | Self::NodeLoadGet
            | Self::NodeMemoryGet
            | Self::NodeOsGet
            | Self::NodeStatusGet
            | Self::NodeUptimeGet
            | Self::PackageInstall(_)
            | Self::PackageList
            | Self::PackageUninstall(_) => None,
        }
    };
}

impl Call {
    /// Its secrets, if its operation takes any.
    #[must_use]
    pub fn secrets(&self) -> Option<&Secrets> {
        secrets_of!(self, secrets)
    }

    /// The same, to be sealed or opened.
    pub fn secrets_mut(&mut self) -> Option<&mut Secrets> {
        secrets_of!(self, secrets_mut)
    }
}

pub(super) fn stored(secrets: &Secrets) -> Secrets {
    secrets.iter().map(|(name, secret)| (name.clone(), Secret::stored(secret))).collect()
}

/// Whether this is the text of a SHA-256: 64 lower-case hex digits.
#[must_use]
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

pub(super) fn fault(pointer: impl Into<String>, detail: impl Into<String>) -> CallError {
    CallError::Args(vec![FieldError { pointer: pointer.into(), detail: detail.into() }])
}

/// A text argument as what it stands for.
pub(super) fn parsed<T: FromStr<Err: Display>>(pointer: &str, text: &str) -> Result<T, CallError> {
    text.parse().map_err(|error: T::Err| fault(pointer, error.to_string()))
}

fn typed<T: DeserializeOwned>(args: serde_json::Value) -> Result<T, CallError> {
    read(args).map_err(|Unreadable { pointer, cause }| fault(format!("/args{pointer}"), cause.to_string()))
}

fn words(pointer: &str, words: &[String]) -> Result<(), CallError> {
    if words.first().is_none_or(String::is_empty) {
        return Err(fault(pointer, "needs at least the program's name"));
    }
    if words.len() > COMMAND_WORDS_MAX || words.iter().map(|word| word.len() + 1).sum::<usize>() > COMMAND_BYTES_MAX {
        return Err(fault(pointer, format!("at most {COMMAND_WORDS_MAX} words and {} in all", ByteSize(COMMAND_BYTES_MAX as u64))));
    }
    no_nul(pointer, words.iter())
}

fn check_script(pointer: &str, script: &str) -> Result<(), CallError> {
    if script.trim().is_empty() {
        return Err(fault(pointer, "is empty"));
    }
    if script.len() > COMMAND_BYTES_MAX {
        return Err(fault(pointer, format!("at most {}", ByteSize(COMMAND_BYTES_MAX as u64))));
    }
    no_nul(pointer, [script])
}

pub(super) fn no_nul<T: AsRef<str>>(pointer: &str, texts: impl IntoIterator<Item = T>) -> Result<(), CallError> {
    if texts.into_iter().any(|text| text.as_ref().contains('\0')) {
        return Err(fault(pointer, "must not contain NUL"));
    }
    Ok(())
}

fn check_env(pointer: &str, env: &BTreeMap<String, String>) -> Result<(), CallError> {
    if env.len() > ENV_VARS_MAX || env.iter().map(|(key, value)| key.len() + value.len() + 2).sum::<usize>() > COMMAND_BYTES_MAX {
        return Err(fault(pointer, format!("at most {ENV_VARS_MAX} variables and {} in all", ByteSize(COMMAND_BYTES_MAX as u64))));
    }
    if let Some(name) = env.keys().find(|name| name.is_empty() || name.contains('=')) {
        return Err(fault(pointer, format!("{name:?} is not a variable's name")));
    }
    no_nul(pointer, env.iter().flat_map(|(key, value)| [key, value]))
}

fn checked(
    words: Vec<String>,
    cwd: Option<String>,
    env: BTreeMap<String, String>,
    max_output: Option<String>,
    secrets: Secrets,
) -> Result<Command, CallError> {
    check_env("/args/env", &env)?;
    secret::check("/args/secrets", &secrets, &[&env])?;
    if let Some(dir) = &cwd {
        no_nul("/args/cwd", [dir])?;
        if !dir.starts_with('/') {
            return Err(fault("/args/cwd", "must be an absolute path"));
        }
    }
    let max_output = max_output.map(|text| parsed::<ByteSize>("/args/max_output", &text)).transpose()?;
    if max_output.is_some_and(|max| max.0 > OUTPUT_BYTES_MAX) {
        return Err(fault("/args/max_output", format!("at most {}; the log keeps more", ByteSize(OUTPUT_BYTES_MAX))));
    }
    Ok(Command { words, cwd, env, max_output, secrets })
}

fn workspace(args: &WorkspaceArgs) -> Result<WorkspaceRun, CallError> {
    if let Some(bundle) = &args.bundle
        && !is_sha256(bundle)
    {
        return Err(fault("/args/bundle", "must be a SHA-256 of 64 lower-case hex digits"));
    }
    let source = args.source.as_deref().map(|name| parsed::<DirectoryName>("/args/source", name)).transpose()?;
    if source.is_some() && args.bundle.is_some() {
        return Err(fault("/args/source", "a job runs in a bundle or in a directory of the agent's, not in both"));
    }
    if args.steps.len() > STEPS_MAX {
        return Err(fault("/args/steps", format!("1 to {STEPS_MAX} steps")));
    }
    check_env("/args/env", &args.env)?;
    let shell = args.shell.as_ref().map(|choice| shell("/args/shell", choice)).transpose()?.unwrap_or_default();
    let steps: Vec<Step> =
        args.steps.iter().enumerate().map(|(index, step)| self::step(index, step, &shell, &args.env)).collect::<Result<_, _>>()?;
    secret::check("/args/secrets", &args.secrets, &steps.iter().map(|step| &step.env).collect::<Vec<_>>())?;
    if let Some(globs) = &args.artifacts {
        no_nul("/args/artifacts", globs)?;
        if globs.len() > STEPS_MAX || globs.iter().any(|glob| glob.is_empty() || glob.len() > 1024) {
            return Err(fault("/args/artifacts", format!("at most {STEPS_MAX} globs of 1 to 1024 bytes")));
        }
    }
    let output = args.limits.as_ref().and_then(|limits| limits.output.as_deref());
    let output_bytes_max = match output.map(str::parse::<ByteSize>) {
        None => LOG_BYTES_PER_STEP_MAX,
        Some(Ok(ByteSize(bytes))) if (1..=LOG_BYTES_PER_STEP_MAX).contains(&bytes) => bytes,
        Some(Ok(_)) => return Err(fault("/args/limits/output", format!("1B to {}", ByteSize(LOG_BYTES_PER_STEP_MAX)))),
        Some(Err(error)) => return Err(fault("/args/limits/output", error.to_string())),
    };
    let limits = args.limits.as_deref().map(limits).transpose()?.unwrap_or_default();
    let (bundle, artifacts, secrets) = (args.bundle.clone(), args.artifacts.clone(), args.secrets.clone());
    Ok(WorkspaceRun { bundle, source, steps, artifacts, output_bytes_max, limits, secrets })
}

fn limits(args: &LimitArgs) -> Result<StepLimits, CallError> {
    let size = |pointer: &str, text: &Option<String>, min: u64| -> Result<Option<u64>, CallError> {
        let Some(text) = text else { return Ok(None) };
        let ByteSize(bytes) = parsed::<ByteSize>(pointer, text)?;
        if bytes < min || bytes > LIMIT_BYTES_MAX {
            return Err(fault(pointer, format!("{} to {}", ByteSize(min), ByteSize(LIMIT_BYTES_MAX))));
        }
        Ok(Some(bytes))
    };
    let cpu_millis = match &args.cpu {
        None => None,
        Some(text) => Some(millis(text).ok_or_else(|| fault("/args/limits/cpu", "a number of processors, 0.01 to 1024, such as 1.5"))?),
    };
    if args.processes.is_some_and(|n| !(1..=PROCESSES_MAX).contains(&n)) {
        return Err(fault("/args/limits/processes", format!("1 to {PROCESSES_MAX}")));
    }
    Ok(StepLimits {
        memory: size("/args/limits/memory", &args.memory, LIMIT_MEMORY_MIN)?,
        cpu_millis,
        processes: args.processes,
        file_size: size("/args/limits/file_size", &args.file_size, 1)?,
    })
}

/// Thousandths of a decimal number with at most three decimals, 0.01 to 1024.
fn millis(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || part.len() > 3 {
        return None;
    }
    let part: u32 = format!("{part:0<3}").parse().ok()?;
    let millis = whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(part)?;
    (10..=1_024_000).contains(&millis).then_some(millis)
}

fn step(index: usize, step: &StepArgs, job_shell: &Shell, job_env: &BTreeMap<String, String>) -> Result<Step, CallError> {
    let pointer = format!("/args/steps/{index}");
    let detail = match step {
        StepArgs::Full(detail) => detail.clone(),
        StepArgs::Script(script) => {
            StepDetail { name: None, run: script.clone(), env: BTreeMap::new(), timeout: None, continue_on_error: false, shell: None }
        }
    };
    check_script(&pointer, &detail.run)?;
    check_env(&format!("{pointer}/env"), &detail.env)?;
    let timeout = match detail.timeout.as_deref().map(str::parse::<Span>) {
        None => None,
        Some(Ok(Span(span))) if !span.is_zero() && span <= TIMEOUT_MAX => Some(span),
        Some(Ok(_)) => return Err(fault(format!("{pointer}/timeout"), format!("more than 0 and at most {}", Span(TIMEOUT_MAX)))),
        Some(Err(error)) => return Err(fault(format!("{pointer}/timeout"), error.to_string())),
    };
    let shell = detail.shell.as_ref().map(|choice| shell(&format!("{pointer}/shell"), choice)).transpose()?;
    let mut env = job_env.clone();
    env.extend(detail.env);
    Ok(Step {
        name: detail.name,
        script: detail.run,
        shell: shell.unwrap_or_else(|| job_shell.clone()),
        env,
        timeout,
        continue_on_error: detail.continue_on_error,
    })
}

fn shell(pointer: &str, choice: &ShellChoice) -> Result<Shell, CallError> {
    match choice {
        ShellChoice::Named(name) if name == "sh" => Ok(Shell::default()),
        ShellChoice::Named(name) if name == "bash" => Ok(Shell(["bash", "-c"].map(str::to_owned).to_vec())),
        ShellChoice::Named(name) => {
            Err(fault(pointer, format!("{:?} is not a shell: `sh`, `bash`, or a list of words", name.chars().take(64).collect::<String>())))
        }
        ShellChoice::Words(list) => words(pointer, list).map(|()| Shell(list.clone())),
    }
}

#[cfg(test)]
mod tests;
