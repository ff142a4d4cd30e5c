//! An execution's state, folded from its events and its answer.
//!
//! ```text
//!              started (agent)            answer (agent)
//!   pending ───────────────────► running ────────────────► completed | failed | skipped | cancelled
//!    │  ▲                        │  │  ▲
//!    │  │ time passes            │  │  │ late answer (agent) replaces lost by any of the above
//!    │  └──────── retryable ◄────┘  └──┼─► lost (controller: the agent did not answer in time)
//!    │             retrying (agent)    │
//!    │
//!    ├─ cancelled (controller, before any start)  ──► cancelled
//!    └─ expired   (controller or agent)           ──► expired
//! ```
//!
//! Records may be seen twice, and answers travel apart from events, so an answer may be folded before the events that led to it.
//! Every (state, record) pair is answered on purpose: applied, a duplicate, or refused by name. No record but an answer ever
//! leaves a final state, and an answer only leaves `lost`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::AgentId;
use crate::wire::record::{Answer, Event, EventKind, Failure, Outcome};

/// Where an execution stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecutionState {
    /// Not started, or waiting for a slot.
    Pending,
    /// An agent has claimed it.
    Running,
    /// The last attempt failed in passing; another follows.
    Retryable,
    /// Done.
    Completed,
    /// Failed for good.
    Failed,
    /// The operation does not exist on that platform.
    Skipped,
    /// Somebody ended it.
    Cancelled,
    /// Not started in time.
    Expired,
    /// The agent did not answer in time.
    Lost,
}

impl ExecutionState {
    /// Whether nothing but a late answer to a lost execution can change it any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Pending | Self::Running | Self::Retryable => false,
            Self::Completed | Self::Failed | Self::Skipped | Self::Cancelled | Self::Expired | Self::Lost => true,
        }
    }

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Retryable => "retryable",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Lost => "lost",
        }
    }
}

impl From<Outcome> for ExecutionState {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Completed => Self::Completed,
            Outcome::Failed => Self::Failed,
            Outcome::Skipped => Self::Skipped,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Expired => Self::Expired,
        }
    }
}

/// Everything known of an execution. Equal records in any admissible order give equal states.
#[derive(Debug, Clone, PartialEq)]
pub struct Execution {
    state: ExecutionState,
    attempts: u32,
    // Controllers keep millions of these: what most do not have takes little room.
    holder: Option<(AgentId, Box<str>)>,
    cancel_requested_by: Option<Box<str>>,
    retry_not_before: Option<Timestamp>,
    last_failure: Option<Box<Failure>>,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    answered: bool,
}

/// What a record did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The state is another now.
    Changed,
    /// It was known, or came late: nothing changed that a user would see.
    Duplicate,
}

/// Why a record was refused. The ledger's own guards make these impossible; seeing one is a broken invariant to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The attempt number does not follow the last one.
    #[error("attempt {got} does not follow attempt {last}")]
    AttemptOutOfOrder {
        /// The newest attempt known.
        last: u32,
        /// The record's.
        got: u32,
    },
    /// A retry of something that is not running.
    #[error("a retry of an execution that is {}", .0.as_str())]
    NotRunning(ExecutionState),
    /// A final record after a start that rules it out.
    #[error("an execution that is {} cannot become {}", .from.as_str(), .to.as_str())]
    AlreadyStarted {
        /// The state.
        from: ExecutionState,
        /// What the record wanted.
        to: ExecutionState,
    },
    /// A second, different end.
    #[error("an execution that is {} cannot become {}", .from.as_str(), .to.as_str())]
    AlreadyFinal {
        /// The state.
        from: ExecutionState,
        /// What the record wanted.
        to: ExecutionState,
    },
}

impl Default for Execution {
    fn default() -> Self {
        Self {
            state: ExecutionState::Pending,
            attempts: 0,
            holder: None,
            cancel_requested_by: None,
            retry_not_before: None,
            last_failure: None,
            started_at: None,
            ended_at: None,
            answered: false,
        }
    }
}

impl Execution {
    /// Folds whole histories: events in the order they were written, then the answer.
    ///
    /// # Errors
    /// The first record that was refused, with the state before it.
    pub fn fold<'a>(events: impl IntoIterator<Item = &'a Event>, answer: Option<&Answer>) -> Result<Self, Refused> {
        let mut execution = Self::default();
        for event in events {
            execution.apply(event)?;
        }
        if let Some(answer) = answer {
            execution.apply_answer(answer)?;
        }
        Ok(execution)
    }

    /// The delivery that the newest attempt rests on, if its start says so; of `events` that were folded into this.
    #[must_use]
    pub fn rests_on<'a>(&self, events: impl IntoIterator<Item = &'a Event>) -> Option<&'a str> {
        let started = events.into_iter().find_map(|event| match &event.kind {
            EventKind::Started { attempt, delivery, .. } if *attempt == self.attempts => Some(delivery.as_deref()),
            EventKind::Started { .. }
            | EventKind::Retrying { .. }
            | EventKind::CancelRequested { .. }
            | EventKind::Cancelled { .. }
            | EventKind::Expired
            | EventKind::Lost { .. } => None,
        });
        started.flatten()
    }

    /// Folds one event.
    ///
    /// # Errors
    /// The record contradicts what is known; nothing changed.
    pub fn apply(&mut self, event: &Event) -> Result<Applied, Refused> {
        match &event.kind {
            EventKind::Started { attempt, agent, hostname, delivery: _ } => self.started(*attempt, *agent, hostname, event.at),
            EventKind::Retrying { attempt, error, not_before } => self.retrying(*attempt, error, *not_before),
            EventKind::CancelRequested { by } => Ok(self.cancel_requested(by)),
            EventKind::Cancelled { by } => {
                let applied = self.ended_unstarted(ExecutionState::Cancelled, event.at)?;
                self.cancel_requested(by);
                if !self.answered {
                    // As its answer will say, whoever gets to write it.
                    self.last_failure = Some(Box::new(Failure::cancelled(by)));
                }
                Ok(applied)
            }
            EventKind::Expired => self.ended_unstarted(ExecutionState::Expired, event.at),
            EventKind::Lost { attempt } => Ok(self.lost(*attempt, event.at)),
        }
    }

    /// Folds the answer: the end of everything, and what replaces `lost`.
    ///
    /// # Errors
    /// Another end is known already; nothing changed.
    pub fn apply_answer(&mut self, answer: &Answer) -> Result<Applied, Refused> {
        let to = ExecutionState::from(answer.outcome);
        if self.answered {
            return if self.state == to { Ok(Applied::Duplicate) } else { Err(Refused::AlreadyFinal { from: self.state, to }) };
        }
        // `cancelled` and `expired` events decide the end before their answer is written; a different answer is a contradiction.
        if matches!(self.state, ExecutionState::Cancelled | ExecutionState::Expired) && self.state != to {
            return Err(Refused::AlreadyFinal { from: self.state, to });
        }
        // The answer may be owed for a while, and written by anybody: neither when it ended nor who had it changes with that.
        if !matches!(self.state, ExecutionState::Cancelled | ExecutionState::Expired) {
            self.ended_at = Some(answer.finished_at);
        }
        let never_had = answer.attempts == 0 && matches!(answer.outcome, Outcome::Cancelled | Outcome::Expired);
        self.answered = true;
        self.state = to;
        self.attempts = self.attempts.max(answer.attempts);
        self.retry_not_before = None;
        self.last_failure = answer.error.clone().map(Box::new);
        self.started_at = answer.started_at.or(self.started_at);
        if let (Some(agent), Some(hostname), false) = (answer.agent, &answer.hostname, never_had) {
            self.holder = Some((agent, hostname.as_str().into()));
        }
        Ok(Applied::Changed)
    }

    fn started(&mut self, attempt: u32, agent: AgentId, hostname: &str, at: Timestamp) -> Result<Applied, Refused> {
        if attempt <= self.attempts || self.answered {
            self.attempts = self.attempts.max(attempt);
            return Ok(Applied::Duplicate);
        }
        if attempt != self.attempts + 1 {
            return Err(Refused::AttemptOutOfOrder { last: self.attempts, got: attempt });
        }
        match self.state {
            // Running: the last holder is gone.
            ExecutionState::Pending | ExecutionState::Running | ExecutionState::Retryable => {
                self.state = ExecutionState::Running;
                self.attempts = attempt;
                self.holder = Some((agent, hostname.into()));
                self.retry_not_before = None;
                self.started_at = Some(at);
                self.ended_at = None;
                Ok(Applied::Changed)
            }
            from @ (ExecutionState::Completed
            | ExecutionState::Failed
            | ExecutionState::Skipped
            | ExecutionState::Cancelled
            | ExecutionState::Expired
            | ExecutionState::Lost) => Err(Refused::AlreadyFinal { from, to: ExecutionState::Running }),
        }
    }

    fn retrying(&mut self, attempt: u32, error: &Failure, not_before: Timestamp) -> Result<Applied, Refused> {
        if attempt < self.attempts || self.answered {
            return Ok(Applied::Duplicate);
        }
        match self.state {
            ExecutionState::Running => {
                self.state = ExecutionState::Retryable;
                self.retry_not_before = Some(not_before);
                self.last_failure = Some(Box::new(error.clone()));
                self.ended_at = None;
                Ok(Applied::Changed)
            }
            ExecutionState::Retryable => Ok(Applied::Duplicate),
            state @ (ExecutionState::Pending
            | ExecutionState::Completed
            | ExecutionState::Failed
            | ExecutionState::Skipped
            | ExecutionState::Cancelled
            | ExecutionState::Expired
            | ExecutionState::Lost) => Err(Refused::NotRunning(state)),
        }
    }

    fn cancel_requested(&mut self, by: &str) -> Applied {
        if self.cancel_requested_by.is_some() {
            return Applied::Duplicate;
        }
        self.cancel_requested_by = Some(by.into());
        Applied::Changed
    }

    fn ended_unstarted(&mut self, to: ExecutionState, at: Timestamp) -> Result<Applied, Refused> {
        if self.state == to {
            // Also where its answer was seen first.
            self.ended_at = Some(at);
            return Ok(Applied::Duplicate);
        }
        match self.state {
            ExecutionState::Pending | ExecutionState::Retryable => {
                self.state = to;
                self.retry_not_before = None;
                self.ended_at = Some(at);
                Ok(Applied::Changed)
            }
            from @ (ExecutionState::Running | ExecutionState::Lost) => Err(Refused::AlreadyStarted { from, to }),
            from @ (ExecutionState::Completed
            | ExecutionState::Failed
            | ExecutionState::Skipped
            | ExecutionState::Cancelled
            | ExecutionState::Expired) => Err(Refused::AlreadyFinal { from, to }),
        }
    }

    fn lost(&mut self, attempt: u32, at: Timestamp) -> Applied {
        match self.state {
            ExecutionState::Running if attempt == self.attempts => {
                self.state = ExecutionState::Lost;
                self.ended_at = Some(at);
                Applied::Changed
            }
            ExecutionState::Pending
            | ExecutionState::Running
            | ExecutionState::Retryable
            | ExecutionState::Completed
            | ExecutionState::Failed
            | ExecutionState::Skipped
            | ExecutionState::Cancelled
            | ExecutionState::Expired
            | ExecutionState::Lost => Applied::Duplicate,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> ExecutionState {
        self.state
    }

    /// Attempts that were started.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Who has it or had it last, with the host's name.
    #[must_use]
    pub fn holder(&self) -> Option<(AgentId, &str)> {
        self.holder.as_ref().map(|(agent, hostname)| (*agent, &**hostname))
    }

    /// Who asked for its end.
    #[must_use]
    pub fn cancel_requested_by(&self) -> Option<&str> {
        self.cancel_requested_by.as_deref()
    }

    /// When a retry may start.
    #[must_use]
    pub fn retry_not_before(&self) -> Option<Timestamp> {
        self.retry_not_before
    }

    /// What went wrong, the last time something did.
    #[must_use]
    pub fn last_failure(&self) -> Option<&Failure> {
        self.last_failure.as_deref()
    }

    /// When the last attempt started, by the agent's clock.
    #[must_use]
    pub fn started_at(&self) -> Option<Timestamp> {
        self.started_at
    }

    /// When it ended.
    #[must_use]
    pub fn ended_at(&self) -> Option<Timestamp> {
        self.ended_at
    }

    /// Whether its answer is stored. A final state without one (cancelled, expired) still owes it.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.answered
    }
}
