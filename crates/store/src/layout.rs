//! Where everything lives: names of streams, buckets, subjects and keys. Built here and nowhere else.
//!
//! ```text
//! KV job-queue      jobs.<job>._any.def.<kind>[.label.<key>.<v1>…]   definition of work for one of many  ─┐ sourced by the broker itself
//!                   jobs.<job>.host.<agent>.def.<kind>               definition of work for one agent    ─┐│
//!                   jobs.<job>.def.<kind>                            definition of work for several       ││
//!                   jobs.<job>.host.<agent>.share.<kind>             what one of those is to do          ─┤│
//!                   jobs.<job>.<_any|host.<agent>>.event.<after>     one event of an execution            ││
//!                   keys.<sha256>                                    an idempotency key                   ││
//! KV job-responses  <job>.<execution>                                an answer                            ││
//! KV agent-inbox    <agent>.<job>                                    addressed work, one key each        ◄┘│  republished: wake.<agent>.<job>
//! KV agent-registry <agent>                                          a heartbeat, which expires
//! KV job-turns      wait.<sha256 of a key>.<job>                     who waits for a concurrency key
//!                   turn.<sha256 of a key>                           who has it
//! KV agent-facts    <agent>                                          what an agent knows of its host
//! KV agent-state    <agent>                                          what people want of it                   republished: state.<agent>
//! stream JOBS       jobs.<kind>._any.<job>                           the shared work queue               ◄─┤
//!                   jobs.<kind>.any.label.<key>.<v1>….<job>          a group's work queue                ◄─┘  republished: group.<kind>.<key>…
//! stream JOBS-DLQ   dead.<job>                                       a dead letter, one a job
//! stream JOB-LOGS   logs.<job>.<execution>                           live output
//! stream AUDIT      audit.record                                     who changed what, and who was refused
//! core subjects     cancel.<agent>, deleted                          hints
//! ```
//!
//! So one client write both stores a job and announces it; nothing can crash in between. Work for several agents is one write and one more
//! for each of them; a crash between those is repaired by whoever finds a share missing.
//!
//! Everything of one execution is under one prefix: what is appended to it is guarded by the newest message there, and the oldest is the
//! definition or the share, so that nothing can be added to what was deleted.
//!
//! Everything that varies in a name is an identifier or a checked token: this module takes typed arguments only.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use longshore_model::limits::LABEL_SEGMENTS_MAX;
use longshore_model::operation::Kind;
use longshore_model::wire::record::Definition;
use longshore_model::{AgentId, ExecutionId, JobId, Label, Target};

use sha2::{Digest as _, Sha256};

use crate::jetstream::Config;

/// All names of one fleet.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    namespace: String,
    /// How every subject of the work queue begins.
    queue: String,
    pub(crate) work: String,
    pub(crate) dead_letters: String,
    pub(crate) logs: String,
    pub(crate) audit: String,
    pub(crate) queue_bucket: String,
    pub(crate) response_bucket: String,
    pub(crate) inbox_bucket: String,
    pub(crate) turn_bucket: String,
    pub(crate) registry_bucket: String,
    pub(crate) state_bucket: String,
    pub(crate) facts_bucket: String,
    pub(crate) object_bucket: String,
}

/// What a key of the ledger's first bucket says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueKey {
    Definition(JobId),
    Share(JobId, AgentId),
    Event(JobId, ExecutionId),
}

impl Layout {
    pub(crate) fn new(config: &Config) -> Self {
        let named = |name: &str| if config.namespace.is_empty() { name.to_owned() } else { format!("{}-{name}", config.namespace) };
        let namespace = if config.namespace.is_empty() { String::new() } else { format!("{}.", config.namespace) };
        Self {
            queue: format!("{namespace}{}", config.work_prefix),
            namespace,
            work: named(&config.stream.name),
            dead_letters: named(config.dead_letters.name.as_ref().unwrap_or(&format!("{}-DLQ", config.stream.name))),
            logs: named(&config.logs.name),
            audit: named(&config.audit.name),
            queue_bucket: named(&config.kv.bucket),
            response_bucket: named(&config.kv.response_bucket),
            inbox_bucket: named("agent-inbox"),
            turn_bucket: named("job-turns"),
            registry_bucket: named(&config.registry.bucket),
            state_bucket: named(&config.state_bucket),
            facts_bucket: named(&config.facts.bucket),
            object_bucket: named(&config.objects.bucket),
        }
    }

    // Streams behind buckets, and the subjects of their keys.

    pub(crate) fn bucket_stream(bucket: &str) -> String {
        format!("KV_{bucket}")
    }

    pub(crate) fn bucket_subjects(bucket: &str) -> String {
        format!("$KV.{bucket}.>")
    }

    pub(crate) fn object_stream(&self) -> String {
        format!("OBJ_{}", self.object_bucket)
    }

    /// Chunks and what is said of them, as the client's object store has them.
    pub(crate) fn object_subjects(&self) -> Vec<String> {
        vec![format!("$O.{}.C.>", self.object_bucket), self.object_infos()]
    }

    pub(crate) fn object_chunks(&self, upload: &str) -> String {
        format!("$O.{}.C.{upload}", self.object_bucket)
    }

    /// What is said of all objects.
    pub(crate) fn object_infos(&self) -> String {
        format!("$O.{}.M.>", self.object_bucket)
    }

    /// `encoded` is the object's name in base64.
    pub(crate) fn object_info(&self, encoded: &str) -> String {
        format!("$O.{}.M.{encoded}", self.object_bucket)
    }

    // The ledger.

    pub(crate) fn definition(&self, definition: &Definition, kind: Kind) -> String {
        let (job, kind) = (definition.id, kind.as_str());
        match definition.executions.as_slice() {
            [execution] => {
                let label = group_of(definition).map(|group| format!(".label.{}", tokens(&group))).unwrap_or_default();
                format!("{}.def.{kind}{label}", self.of_execution(job, *execution))
            }
            _ => format!("$KV.{}.jobs.{job}.def.{kind}", self.queue_bucket),
        }
    }

    pub(crate) fn share(&self, job: JobId, agent: AgentId, kind: Kind) -> String {
        format!("{}.share.{}", self.of_execution(job, agent.into()), kind.as_str())
    }

    pub(crate) fn event(&self, job: JobId, execution: ExecutionId, after: u64) -> String {
        format!("{}.event.{after}", self.of_execution(job, execution))
    }

    /// Everything of one execution: its definition or share, and its events.
    pub(crate) fn execution(&self, job: JobId, execution: ExecutionId) -> String {
        format!("{}.>", self.of_execution(job, execution))
    }

    fn of_execution(&self, job: JobId, execution: ExecutionId) -> String {
        match execution {
            ExecutionId::Any => format!("$KV.{}.jobs.{job}._any", self.queue_bucket),
            ExecutionId::Agent(agent) => format!("$KV.{}.jobs.{job}.host.{agent}", self.queue_bucket),
        }
    }

    /// Definition and events of a job.
    pub(crate) fn history(&self, job: JobId) -> String {
        format!("$KV.{}.jobs.{job}.>", self.queue_bucket)
    }

    /// Definitions and events of all jobs.
    pub(crate) fn histories(&self) -> String {
        format!("$KV.{}.jobs.>", self.queue_bucket)
    }

    pub(crate) fn idempotency(&self, key_hash: &str) -> String {
        format!("$KV.{}.keys.{key_hash}", self.queue_bucket)
    }

    pub(crate) fn answer(&self, job: JobId, execution: ExecutionId) -> String {
        format!("$KV.{}.{job}.{execution}", self.response_bucket)
    }

    pub(crate) fn answers(&self, job: JobId) -> String {
        format!("$KV.{}.{job}.*", self.response_bucket)
    }

    pub(crate) fn parse_queue_key(&self, subject: &str) -> Option<QueueKey> {
        let rest = subject.strip_prefix("$KV.")?.strip_prefix(self.queue_bucket.as_str())?.strip_prefix(".jobs.")?;
        let mut tokens = rest.split('.');
        let job = tokens.next()?.parse().ok()?;
        let execution = match tokens.next()? {
            "def" => return Some(QueueKey::Definition(job)),
            "_any" => ExecutionId::Any,
            "host" => ExecutionId::Agent(tokens.next()?.parse().ok()?),
            _ => return None,
        };
        match (tokens.next()?, execution) {
            ("def", _) => Some(QueueKey::Definition(job)),
            ("share", ExecutionId::Agent(agent)) => Some(QueueKey::Share(job, agent)),
            ("event", _) => Some(QueueKey::Event(job, execution)),
            _ => None,
        }
    }

    // Work.

    pub(crate) fn work_subjects(&self) -> Vec<String> {
        vec![format!("{}.query.>", self.queue), format!("{}.modify.>", self.queue)]
    }

    pub(crate) fn any_work(&self) -> String {
        format!("{}.*._any.*", self.queue)
    }

    pub(crate) fn group_work(&self, group: &Label) -> String {
        format!("{}.*.any.label.{}.*", self.queue, tokens(group))
    }

    /// Where work for one of many is announced.
    pub(crate) fn any_work_of(&self, definition: &Definition, kind: Kind) -> String {
        let (job, kind) = (definition.id, kind.as_str());
        match group_of(definition) {
            None => format!("{}.{kind}._any.{job}", self.queue),
            Some(group) => format!("{}.{kind}.any.label.{}.{job}", self.queue, tokens(&group)),
        }
    }

    /// How the broker turns definitions of work for one of many into work: from, to. One for each number of segments that a label has.
    pub(crate) fn any_transforms(&self) -> Vec<(String, String)> {
        let definitions = format!("$KV.{}.jobs.*._any.def.*", self.queue_bucket);
        let any = (definitions.clone(), format!("{}.{{{{wildcard(2)}}}}._any.{{{{wildcard(1)}}}}", self.queue));
        let groups = (1..=LABEL_SEGMENTS_MAX).map(|n_segments| {
            let mut from = format!("{definitions}.label");
            let mut to = format!("{}.{{{{wildcard(2)}}}}.any.label", self.queue);
            // The key and the segments.
            for place in 3..=3 + n_segments {
                from.push_str(".*");
                let _ = write!(to, ".{{{{wildcard({place})}}}}");
            }
            (from, to + ".{{wildcard(1)}}")
        });
        std::iter::once(any).chain(groups).collect()
    }

    /// How the broker turns what one agent is to do into inbox keys: from, to.
    pub(crate) fn inbox_transforms(&self) -> Vec<(String, String)> {
        let to = format!("$KV.{}.{{{{wildcard(2)}}}}.{{{{wildcard(1)}}}}", self.inbox_bucket);
        ["def", "share"].map(|what| (format!("$KV.{}.jobs.*.host.*.{what}.*", self.queue_bucket), to.clone())).into()
    }

    pub(crate) fn inbox(&self, agent: AgentId) -> String {
        format!("$KV.{}.{agent}.*", self.inbox_bucket)
    }

    pub(crate) fn inbox_key(&self, agent: AgentId, job: JobId) -> String {
        format!("$KV.{}.{agent}.{job}", self.inbox_bucket)
    }

    /// What is in all inboxes.
    pub(crate) fn inboxes(&self) -> String {
        Self::bucket_subjects(&self.inbox_bucket)
    }

    pub(crate) fn parse_inbox_key(&self, subject: &str) -> Option<(AgentId, JobId)> {
        let rest = subject.strip_prefix("$KV.")?.strip_prefix(self.inbox_bucket.as_str())?.strip_prefix('.')?;
        let (agent, job) = rest.split_once('.')?;
        Some((agent.parse().ok()?, job.parse().ok()?))
    }

    // Concurrency keys.

    pub(crate) fn turn_stream(&self) -> String {
        Self::bucket_stream(&self.turn_bucket)
    }

    pub(crate) fn waiter(&self, key: &str, job: JobId) -> String {
        format!("$KV.{}.wait.{}.{job}", self.turn_bucket, digest(key))
    }

    pub(crate) fn waiters(&self, key: &str) -> String {
        format!("$KV.{}.wait.{}.*", self.turn_bucket, digest(key))
    }

    pub(crate) fn all_waiters(&self) -> String {
        format!("$KV.{}.wait.>", self.turn_bucket)
    }

    pub(crate) fn turn(&self, key: &str) -> String {
        format!("$KV.{}.turn.{}", self.turn_bucket, digest(key))
    }

    // Hints.

    /// How the broker tells of inbox keys: from, to.
    pub(crate) fn wake_republish(&self) -> (String, String) {
        (format!("$KV.{}.>", self.inbox_bucket), format!("{}wake.>", self.namespace))
    }

    /// How the broker tells of a group's work: from, to.
    pub(crate) fn group_republish(&self) -> (String, String) {
        (format!("{}.*.any.label.>", self.queue), format!("{}group.{{{{wildcard(1)}}}}.>", self.namespace))
    }

    pub(crate) fn group_wake(&self, group: &Label) -> String {
        format!("{}group.*.{}.*", self.namespace, tokens(group))
    }

    pub(crate) fn wake(&self, agent: AgentId) -> String {
        format!("{}wake.{agent}.*", self.namespace)
    }

    /// How the broker tells of what people want of agents: from, to.
    pub(crate) fn state_republish(&self) -> (String, String) {
        (format!("$KV.{}.>", self.state_bucket), format!("{}state.>", self.namespace))
    }

    pub(crate) fn state_wake(&self, agent: AgentId) -> String {
        format!("{}state.{agent}", self.namespace)
    }

    pub(crate) fn cancel(&self, agent: AgentId) -> String {
        format!("{}cancel.{agent}", self.namespace)
    }

    pub(crate) fn deleted(&self) -> String {
        format!("{}deleted", self.namespace)
    }

    // Dead letters.

    pub(crate) fn dead_letter_subjects(&self) -> String {
        format!("{}dead.*", self.namespace)
    }

    pub(crate) fn dead_letter(&self, job: JobId) -> String {
        format!("{}dead.{job}", self.namespace)
    }

    // The audit trail.

    pub(crate) fn audit_record(&self) -> String {
        format!("{}audit.record", self.namespace)
    }

    // Logs and registry.

    pub(crate) fn log_subjects(&self) -> String {
        format!("{}logs.>", self.namespace)
    }

    pub(crate) fn log(&self, job: JobId, execution: ExecutionId) -> String {
        format!("{}logs.{job}.{execution}", self.namespace)
    }

    pub(crate) fn logs_of(&self, job: JobId) -> String {
        format!("{}logs.{job}.*", self.namespace)
    }

    pub(crate) fn parse_log(&self, subject: &str) -> Option<(JobId, ExecutionId)> {
        let (job, execution) = subject.strip_prefix(self.namespace.as_str())?.strip_prefix("logs.")?.split_once('.')?;
        Some((job.parse().ok()?, execution.parse().ok()?))
    }

    pub(crate) fn heartbeat(&self, agent: AgentId) -> String {
        format!("$KV.{}.{agent}", self.registry_bucket)
    }

    pub(crate) fn state(&self, agent: AgentId) -> String {
        format!("$KV.{}.{agent}", self.state_bucket)
    }

    pub(crate) fn facts(&self, agent: AgentId) -> String {
        format!("$KV.{}.{agent}", self.facts_bucket)
    }

    pub(crate) fn parse_heartbeat(&self, subject: &str) -> Option<AgentId> {
        subject.strip_prefix("$KV.")?.strip_prefix(self.registry_bucket.as_str())?.strip_prefix('.')?.parse().ok()
    }
}

/// The group that one agent of is to do the job.
pub(crate) fn group_of(definition: &Definition) -> Option<Label> {
    if definition.executions != [ExecutionId::Any] {
        // Chosen when it was submitted: it goes to that agent's inbox.
        return None;
    }
    match definition.target.parse() {
        Ok(Target::AnyOf(group)) => Some(group),
        Ok(Target::Any | Target::All | Target::Host(_) | Target::Group(_)) | Err(_) => None,
    }
}

/// A text of any characters as one token.
fn digest(text: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(text))
}

/// A label as tokens of a subject.
fn tokens(label: &Label) -> String {
    label.segments().fold(label.key().to_owned(), |tokens, segment| tokens + "." + segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_the_ledger_parse_back() {
        let layout = Layout::new(&Config::default());
        let (job, agent) = (JobId::from_bits(1), AgentId::from_bits(2));
        assert_eq!(layout.parse_queue_key(&layout.event(job, ExecutionId::Any, 7)), Some(QueueKey::Event(job, ExecutionId::Any)));
        assert_eq!(layout.parse_queue_key(&layout.event(job, agent.into(), 7)), Some(QueueKey::Event(job, agent.into())));
        for key in ["_any.def.query", "_any.def.modify.label.group.web.dev", &format!("host.{agent}.def.query"), "def.query"] {
            assert_eq!(layout.parse_queue_key(&format!("$KV.job-queue.jobs.{job}.{key}")), Some(QueueKey::Definition(job)), "{key}");
        }
        assert_eq!(layout.parse_queue_key(&layout.share(job, agent, Kind::Query)), Some(QueueKey::Share(job, agent)));
        assert_eq!(layout.parse_queue_key("$KV.job-queue.keys.00"), None);
        assert_eq!(layout.parse_log(&layout.log(job, ExecutionId::Any)), Some((job, ExecutionId::Any)));
        assert_eq!(layout.parse_heartbeat(&layout.heartbeat(agent)), Some(agent));
        assert_eq!(layout.parse_inbox_key(&layout.inbox_key(agent, job)), Some((agent, job)));
    }

    #[test]
    fn a_namespace_prefixes_every_name() {
        let layout = Layout::new(&Config { namespace: "blue".into(), ..Config::default() });
        let job = JobId::from_bits(1);
        assert_eq!(layout.work, "blue-JOBS");
        assert_eq!(layout.dead_letters, "blue-JOBS-DLQ");
        assert_eq!(layout.dead_letter(job), format!("blue.dead.{job}"));
        assert_eq!((layout.audit.as_str(), layout.audit_record().as_str()), ("blue-AUDIT", "blue.audit.record"));
        assert!(layout.any_work().starts_with("blue.jobs."));
        assert!(layout.history(job).starts_with("$KV.blue-job-queue."));
        assert_eq!(layout.parse_log(&layout.log(job, ExecutionId::Any)), Some((job, ExecutionId::Any)));
    }
}
