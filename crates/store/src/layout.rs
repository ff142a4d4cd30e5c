//! Where everything lives: names of streams, buckets, subjects and keys. Built here and nowhere else.
//!
//! ```text
//! KV job-queue      jobs.<job>.def.<query|modify>._any          definition of `_any` work     ─┐ sourced by the broker itself
//!                   jobs.<job>.def.<query|modify>.host.<agent>  definition of addressed work ─┐│
//!                   jobs.<job>.event.<execution>.<after>        one event                     ││
//!                   keys.<sha256>                               an idempotency key            ││
//! KV job-responses  <job>.<execution>                           an answer                     ││
//! KV agent-inbox    <agent>.<job>                               addressed work, one key each ◄┘│  republished as wake.<agent>.<job>
//! stream JOBS       jobs.<query|modify>._any.<job>              the shared work queue        ◄─┘
//! stream JOB-LOGS   logs.<job>.<execution>                      live output
//! core subjects     cancel.<agent>, deleted                     hints
//! ```
//!
//! So one client write both stores a job and announces it; nothing can crash in between. Everything that varies in a name is an
//! identifier or a checked token: this module takes typed arguments only.

use longshore_model::operation::Kind;
use longshore_model::wire::record::Definition;
use longshore_model::{AgentId, ExecutionId, JobId};

use crate::jetstream::Config;

/// All names of one fleet.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    namespace: String,
    pub(crate) work: String,
    pub(crate) logs: String,
    pub(crate) queue_bucket: String,
    pub(crate) response_bucket: String,
    pub(crate) inbox_bucket: String,
    pub(crate) registry_bucket: String,
    pub(crate) object_bucket: String,
}

/// What a key of the ledger's first bucket says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueKey {
    Definition(JobId),
    Event(JobId, ExecutionId),
}

impl Layout {
    pub(crate) fn new(config: &Config) -> Self {
        let named = |name: &str| if config.namespace.is_empty() { name.to_owned() } else { format!("{}-{name}", config.namespace) };
        Self {
            namespace: if config.namespace.is_empty() { String::new() } else { format!("{}.", config.namespace) },
            work: named(&config.stream.name),
            logs: named(&config.logs.name),
            queue_bucket: named(&config.kv.bucket),
            response_bucket: named(&config.kv.response_bucket),
            inbox_bucket: named("agent-inbox"),
            registry_bucket: named(&config.registry.bucket),
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
        vec![format!("$O.{}.C.>", self.object_bucket), format!("$O.{}.M.>", self.object_bucket)]
    }

    pub(crate) fn object_chunks(&self, upload: &str) -> String {
        format!("$O.{}.C.{upload}", self.object_bucket)
    }

    /// `encoded` is the object's name in base64.
    pub(crate) fn object_info(&self, encoded: &str) -> String {
        format!("$O.{}.M.{encoded}", self.object_bucket)
    }

    // The ledger.

    pub(crate) fn definition(&self, definition: &Definition, kind: Kind) -> Option<String> {
        let route = match definition.executions.as_slice() {
            [ExecutionId::Any] => "_any".to_owned(),
            [ExecutionId::Agent(agent)] => format!("host.{agent}"),
            _ => return None,
        };
        Some(format!("$KV.{}.jobs.{}.def.{}.{route}", self.queue_bucket, definition.id, kind.as_str()))
    }

    pub(crate) fn event(&self, job: JobId, execution: ExecutionId, after: u64) -> String {
        format!("$KV.{}.jobs.{job}.event.{execution}.{after}", self.queue_bucket)
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
        match tokens.next()? {
            "def" => Some(QueueKey::Definition(job)),
            "event" => Some(QueueKey::Event(job, tokens.next()?.parse().ok()?)),
            _ => None,
        }
    }

    // Work.

    pub(crate) fn work_subjects(&self) -> Vec<String> {
        vec![format!("{}jobs.query.>", self.namespace), format!("{}jobs.modify.>", self.namespace)]
    }

    pub(crate) fn any_work(&self) -> String {
        format!("{}jobs.*._any.*", self.namespace)
    }

    pub(crate) fn any_work_of(&self, job: JobId, kind: Kind) -> String {
        format!("{}jobs.{}._any.{job}", self.namespace, kind.as_str())
    }

    /// How the broker turns definitions of `_any` work into work: from, to.
    pub(crate) fn any_transform(&self) -> (String, String) {
        (
            format!("$KV.{}.jobs.*.def.*._any", self.queue_bucket),
            format!("{}jobs.{{{{wildcard(2)}}}}._any.{{{{wildcard(1)}}}}", self.namespace),
        )
    }

    /// How the broker turns definitions of addressed work into inbox keys: from, to.
    pub(crate) fn inbox_transform(&self) -> (String, String) {
        (
            format!("$KV.{}.jobs.*.def.*.host.*", self.queue_bucket),
            format!("$KV.{}.{{{{wildcard(3)}}}}.{{{{wildcard(1)}}}}", self.inbox_bucket),
        )
    }

    pub(crate) fn inbox(&self, agent: AgentId) -> String {
        format!("$KV.{}.{agent}.*", self.inbox_bucket)
    }

    pub(crate) fn inbox_key(&self, agent: AgentId, job: JobId) -> String {
        format!("$KV.{}.{agent}.{job}", self.inbox_bucket)
    }

    // Hints.

    /// How the broker tells of inbox keys: from, to.
    pub(crate) fn wake_republish(&self) -> (String, String) {
        (format!("$KV.{}.>", self.inbox_bucket), format!("{}wake.>", self.namespace))
    }

    pub(crate) fn wake(&self, agent: AgentId) -> String {
        format!("{}wake.{agent}.*", self.namespace)
    }

    pub(crate) fn cancel(&self, agent: AgentId) -> String {
        format!("{}cancel.{agent}", self.namespace)
    }

    pub(crate) fn deleted(&self) -> String {
        format!("{}deleted", self.namespace)
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

    pub(crate) fn parse_heartbeat(&self, subject: &str) -> Option<AgentId> {
        subject.strip_prefix("$KV.")?.strip_prefix(self.registry_bucket.as_str())?.strip_prefix('.')?.parse().ok()
    }
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
        assert_eq!(layout.parse_queue_key(&format!("$KV.job-queue.jobs.{job}.def.query._any")), Some(QueueKey::Definition(job)));
        assert_eq!(layout.parse_queue_key("$KV.job-queue.keys.00"), None);
        assert_eq!(layout.parse_log(&layout.log(job, ExecutionId::Any)), Some((job, ExecutionId::Any)));
        assert_eq!(layout.parse_heartbeat(&layout.heartbeat(agent)), Some(agent));
    }

    #[test]
    fn a_namespace_prefixes_every_name() {
        let layout = Layout::new(&Config { namespace: "blue".into(), ..Config::default() });
        let job = JobId::from_bits(1);
        assert_eq!(layout.work, "blue-JOBS");
        assert!(layout.any_work().starts_with("blue.jobs."));
        assert!(layout.history(job).starts_with("$KV.blue-job-queue."));
        assert_eq!(layout.parse_log(&layout.log(job, ExecutionId::Any)), Some((job, ExecutionId::Any)));
    }
}
