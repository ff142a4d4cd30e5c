//! What really happened, as far as the simulation itself saw it: what was asked for and answered, what took effect in the ledger, and when
//! work began and ended. No opinion of the product's is in here.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use longshore_model::wire::dead_letter::DeadLetter;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Answer, Definition, Event, Outcome};
use longshore_model::wire::rest::JobRequest;
use longshore_model::wire::turn::Waiter;
use longshore_model::{AgentId, ExecutionId, ExecutionState, JobId};

use crate::world::Actor;

/// Names an execution.
pub(crate) type Key = (JobId, ExecutionId);
/// Counts everything that is noted here: what is smaller was earlier.
pub(crate) type Seq = u64;

/// Everything that was noted.
#[derive(Debug, Default)]
pub(crate) struct History {
    seq: Seq,
    /// Since when nothing goes wrong.
    pub(crate) calm_since: Option<Timestamp>,
    /// By the number that is in the submission's annotation.
    pub(crate) intents: BTreeMap<u64, Intent>,
    pub(crate) defined: BTreeMap<JobId, Defined>,
    pub(crate) written: BTreeMap<Key, Vec<Written>>,
    pub(crate) runs: Vec<Run>,
    pub(crate) cancels: Vec<Cancelled>,
    pub(crate) deletes: Vec<Acknowledged>,
    /// Deletes that somebody began to ask for, whatever came of them.
    pub(crate) delete_wishes: Vec<Acknowledged>,
    /// Every offer of work that reached an agent.
    pub(crate) offers: Vec<Offer>,
    /// When an agent ended a claim or gave it back: when it said so, whether or not anybody heard it.
    pub(crate) let_go: Vec<(Key, AgentId, Seq)>,
    /// When an agent was first told that somebody wants the end of what it runs.
    pub(crate) learned: BTreeMap<(Key, AgentId), Timestamp>,
    /// When the ledger's records of a job went.
    pub(crate) removed: BTreeMap<JobId, Timestamp>,
    /// When an agent's claim was last known to the broker: delivered or extended.
    pub(crate) claims: BTreeMap<(Key, AgentId), Vec<Timestamp>>,
    pub(crate) drains: Vec<(AgentId, Seq, Drain)>,
    pub(crate) beats: BTreeMap<AgentId, Vec<Timestamp>>,
    /// The same heartbeats, with the processes that they bind to an identity.
    pub(crate) bindings: Vec<Binding>,
    /// Goodbyes.
    pub(crate) leaves: Vec<(AgentId, Seq)>,
    /// Processes that were refused an identity.
    pub(crate) refused: Vec<(AgentId, String, Seq)>,
    /// Two processes of one agent, its own and one from a copy, that had the time to be told apart while nothing went wrong.
    pub(crate) meetings: Vec<(AgentId, String, String)>,
    /// Dead letters as they were stored.
    pub(crate) letters: Vec<(Seq, DeadLetter)>,
    /// Agents that went and never come back.
    pub(crate) gone: BTreeMap<AgentId, Timestamp>,
    pub(crate) views: Vec<Seen>,
    /// Repeats that were asked for: of which job, and what was made.
    pub(crate) repeats: Vec<(JobId, Repeat, Option<JobId>)>,
    /// When a process of an agent ended, however.
    pub(crate) process_ends: Vec<(AgentId, Timestamp)>,
    /// By how much a process's clock is wrong.
    pub(crate) errors: BTreeMap<Actor, SignedDuration>,
    /// Who waits for a turn under a key, or did.
    pub(crate) queued: BTreeMap<JobId, Queued>,
    /// When the agent's part of a job was stored, for those that have any.
    pub(crate) shared: BTreeMap<Key, Timestamp>,
    pub(crate) readings: Vec<Reading>,
}

/// A submission that somebody means to make, once.
#[derive(Debug)]
pub(crate) struct Intent {
    pub(crate) request: JobRequest,
    /// Uses the key of this other one, with another body.
    pub(crate) clashes_with: Option<u64>,
    pub(crate) accepted: Vec<JobId>,
    pub(crate) refused: Option<ErrorCode>,
    /// A call ended without a word on whether it had an effect.
    pub(crate) is_unknown: bool,
}

/// A job's place among those that wait for a turn.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) key: String,
    /// When it took effect, the first time.
    pub(crate) seq: Seq,
    pub(crate) at: Timestamp,
}

/// What a reader of an event stream was told, over all its resumptions.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Of one job, or of all.
    pub(crate) of: Option<JobId>,
    pub(crate) told: Vec<Told>,
    /// It was told that it missed something.
    pub(crate) has_gap: bool,
    /// It was told that there is nothing more.
    pub(crate) has_ended: bool,
}

/// One thing that a reader was told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Told {
    pub(crate) job: JobId,
    pub(crate) execution: Option<ExecutionId>,
    pub(crate) event: String,
    pub(crate) attempt: Option<u32>,
}

/// A definition that took effect.
#[derive(Debug)]
pub(crate) struct Defined {
    pub(crate) definition: Definition,
    pub(crate) at: Timestamp,
    /// How often a definition of this id was stored.
    pub(crate) times: usize,
}

/// What took effect in the ledger.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) seq: Seq,
    pub(crate) at: Timestamp,
    pub(crate) by: Actor,
    pub(crate) record: Record,
}

#[derive(Debug)]
pub(crate) enum Record {
    Event(u64, Event),
    Answer(Answer),
}

/// Work that began.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) seq: Seq,
    pub(crate) key: Key,
    pub(crate) attempt: u32,
    pub(crate) agent: AgentId,
    /// Which process of the agent's.
    pub(crate) process: String,
    /// Of what was to be done, as the host was told.
    pub(crate) task: String,
    /// Whether it writes output, which its answer has to wait for.
    pub(crate) talks: bool,
    /// Of its turn, if its job has a key.
    pub(crate) fence: Option<u64>,
    pub(crate) began: Timestamp,
    pub(crate) ended: Option<(Timestamp, End)>,
}

/// How work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, or because it was told to.
    Finished { outcome: Outcome, transient: bool },
    /// With its agent.
    Killed,
}

/// A call about a job that was answered.
#[derive(Debug)]
pub(crate) struct Acknowledged {
    pub(crate) job: JobId,
    pub(crate) seq: Seq,
}

/// A cancel that was answered.
#[derive(Debug)]
pub(crate) struct Cancelled {
    pub(crate) job: JobId,
    /// When it was asked for.
    pub(crate) asked: Seq,
    pub(crate) seq: Seq,
    /// Where the answer says that it took effect.
    pub(crate) revision: Option<u64>,
}

/// Work that an agent was offered.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) key: Key,
    pub(crate) agent: AgentId,
    pub(crate) seq: Seq,
    pub(crate) at: Timestamp,
}

/// A heartbeat that took effect.
#[derive(Debug)]
pub(crate) struct Binding {
    pub(crate) agent: AgentId,
    pub(crate) process: String,
    pub(crate) place: String,
    pub(crate) revision: u64,
    pub(crate) seq: Seq,
    pub(crate) at: Timestamp,
}

impl Binding {
    /// Whether the process runs from a copy of its agent's data directory.
    pub(crate) fn is_copy(&self) -> bool {
        self.place.starts_with(COPY)
    }
}

/// How the place begins where such a process runs.
pub(crate) const COPY: &str = "copy";

/// What is known of an agent's drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drain {
    /// The wish took effect.
    Wanted,
    /// The agent said that it takes no work and has none.
    Confirmed,
    /// Somebody began to say otherwise.
    Lifted,
    /// A process of the agent began.
    ProcessBegan,
}

/// How a repeat was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    Retry,
    Redrive,
}

/// What a client was shown of a job.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Who was shown it.
    pub(crate) client: u64,
    pub(crate) job: JobId,
    pub(crate) seq: Seq,
    /// When it was asked for.
    pub(crate) asked: Seq,
    /// Of each execution; nothing of a job that is not there.
    pub(crate) shares: BTreeMap<ExecutionId, Share>,
    pub(crate) timeline: Vec<Told>,
}

/// What a client was shown of an execution.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    pub(crate) state: ExecutionState,
    pub(crate) attempts: u32,
    /// Somebody wants its end, or it has ended.
    pub(crate) is_ending: bool,
}

impl History {
    pub(crate) fn next(&mut self) -> Seq {
        self.seq += 1;
        self.seq
    }

    pub(crate) fn define(&mut self, definition: &Definition, at: Timestamp) {
        let defined = self.defined.entry(definition.id).or_insert_with(|| Defined { definition: definition.clone(), at, times: 0 });
        defined.times += 1;
    }

    /// Notes a record that the ledger has; the repeat of a write is no other record.
    pub(crate) fn write(&mut self, key: Key, by: Actor, at: Timestamp, record: Record) {
        let seq = self.next();
        let written = self.written.entry(key).or_default();
        let is_known = written.iter().any(|known| match (&known.record, &record) {
            (Record::Event(known, _), Record::Event(new, _)) => known == new,
            (Record::Answer(known), Record::Answer(new)) => known == new,
            (Record::Event(..), Record::Answer(_)) | (Record::Answer(_), Record::Event(..)) => false,
        });
        if !is_known {
            written.push(Written { seq, at, by, record });
        }
    }

    /// Whether an execution has been answered.
    pub(crate) fn is_answered(&self, key: Key) -> bool {
        self.written.get(&key).into_iter().flatten().any(|written| matches!(written.record, Record::Answer(_)))
    }

    pub(crate) fn claim(&mut self, key: Key, agent: AgentId, at: Timestamp) {
        self.claims.entry((key, agent)).or_default().push(at);
    }

    /// Notes a place in a queue; the first one counts.
    pub(crate) fn queue(&mut self, waiter: &Waiter, at: Timestamp) {
        let seq = self.next();
        self.queued.entry(waiter.job).or_insert_with(|| Queued { key: waiter.key.clone(), seq, at });
    }

    /// What a process takes for this moment.
    pub(crate) fn by_clock_of(&self, who: Actor, at: Timestamp) -> Timestamp {
        at + self.errors.get(&who).copied().unwrap_or_default()
    }

    /// The most by which two clocks differ.
    pub(crate) fn spread(&self) -> SignedDuration {
        let right = SignedDuration::ZERO;
        let (least, most) = self.errors.values().fold((right, right), |(least, most), error| (least.min(*error), most.max(*error)));
        most - least
    }

    pub(crate) fn drain(&mut self, agent: AgentId, what: Drain) {
        let seq = self.next();
        self.drains.push((agent, seq, what));
    }
}
