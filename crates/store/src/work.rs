//! What agents take: the shared queue for `_any`, an inbox per agent for addressed work, and wake-ups.
//!
//! A delivery is transport, not permission: the ledger decides whether an attempt starts.

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use longshore_model::wire::record::Definition;
use longshore_model::{AgentId, ExecutionId, JobId, Label};
use tokio::time::Instant;

use crate::{Error, Revision};

/// Deliveries of one pull. Ends when the pull is used up, has expired, or the connection was lost; pull again then.
pub type PullStream = BoxStream<'static, Delivery>;

/// Hints. Losing one costs time, never work.
pub type WakeStream = BoxStream<'static, Wake>;

/// A hint to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// There is work for one agent of this group.
    Group(Label),
    /// People want something else of it.
    State,
    /// Its inbox has changed.
    Inbox,
    /// Somebody asked for the end of a job it may be running.
    Cancel(JobId),
    /// The connection was made again: anything may have been missed.
    Reconnected,
}

/// Which announcements count as missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// What is not there at all.
    Gone,
    /// Also what has been offered before and led to nothing. For a caller who knows that no claim on it can still hold: whoever holds
    /// one loses it.
    GoneOrSpent,
}

/// What is announced again, and on what ground.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    /// Of the job.
    pub execution: ExecutionId,
    /// Of the execution's definition or share; 0 if the share is not stored yet.
    pub revision: Revision,
    /// The newest revision of the history that the caller decided on: it travels with the announcement.
    pub seen: Revision,
    /// What counts as missing.
    pub absence: Absence,
}

/// What came before a delivery. Says what is to be read before anything is decided; of who is gone, only an announcement says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Nothing: nobody was offered it, so the ledger holds nothing but the definition, most likely.
    Nothing,
    /// It was offered before, or may have been: the ledger knows what came of it. Whose claim is over says [`Lease::follows`].
    Offers,
    /// It was announced again by somebody who had read the history up to this revision, and vouches that no claim of that history holds.
    Announcement(Revision),
}

/// How much is read at once of a list that can be long, such as an inbox; or somewhat more.
pub(crate) const PAGE: usize = 1000;

/// A part of an inbox.
pub struct InboxPage {
    /// What was addressed to the agent.
    pub deliveries: Vec<Delivery>,
    /// The place that the next page begins after; `None` if this was the last.
    pub next: Option<u64>,
}

/// What is addressed to an agent, whether or not it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addressed {
    /// To whom.
    pub agent: AgentId,
    /// The job.
    pub job: JobId,
    /// Where it is among all that is addressed to anybody.
    pub place: Revision,
}

/// Some of what is addressed to agents, in the order in which it was announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressedPage {
    /// The entries of inboxes.
    pub items: Vec<Addressed>,
    /// Where the next page goes on; `None` if this was the last.
    pub next: Option<Revision>,
}

/// One piece of work, offered to one agent.
pub struct Delivery {
    /// The job.
    pub definition: Definition,
    /// The definition's revision in the ledger.
    pub revision: Revision,
    /// What came before.
    pub before: Before,
    /// When it reached this process: its claim counts from here.
    pub received: Instant,
    /// The claim on it.
    pub lease: Box<dyn Lease>,
}

/// A claim on a delivery. While it is extended within [`Work::lease_duration`], nobody else is offered the work.
#[async_trait]
pub trait Lease: Send + Sync {
    /// Extends the claim; counts from now. Safe to repeat.
    async fn extend(&self) -> Result<(), Error>;

    /// Ends the claim: the work needs no agent any more. Safe to repeat. An end that is lost on its way is
    /// harmless: the work is offered again, and found finished.
    async fn done(&self) -> Result<(), Error>;

    /// Gives the work back, to be offered again after `delay`. Safe to repeat.
    async fn give_back(&self, delay: Duration) -> Result<(), Error>;

    /// What a later process of the same agent can give the work back by, with [`Work::give_back`].
    fn token(&self) -> Option<String>;

    /// What the delivery is known by, for the record of a start that rests on it; `None` where nobody else is ever offered the work.
    fn delivery(&self) -> Option<String>;

    /// Whether this claim was given because that of `earlier`, a [`Self::delivery`] read from the ledger, was over: it had lapsed or was
    /// given back. `false` proves nothing. It is a fact of these two deliveries, whatever was read of others; ask after `earlier` was
    /// read, since a broker that has forgotten its deliveries meanwhile must be noticed.
    ///
    /// # Errors
    /// `Unavailable` if the broker did not answer.
    async fn follows(&self, earlier: &str) -> Result<bool, Error>;
}

/// What agents take.
#[async_trait]
pub trait Work: Send + Sync {
    /// How long an unextended claim lasts.
    fn lease_duration(&self) -> Duration;

    /// Makes sure that this agent's queue group may take `_any` work. Safe to repeat.
    ///
    /// # Errors
    /// `Layout` if another group takes it; `Unavailable` if the broker did not answer.
    async fn join(&self) -> Result<(), Error>;

    /// Asks for up to `max` pieces of `_any` work.
    async fn pull(&self, max: usize) -> Result<PullStream, Error>;

    /// Takes up to `max` pieces of a group's work that are there now.
    async fn take(&self, group: &Label, max: usize) -> Result<Vec<Delivery>, Error>;

    /// Whether there is any work of a group, taken or not.
    async fn has_work(&self, group: &Label) -> Result<bool, Error>;

    /// A page of an agent's inbox, oldest first, after a place in it; 0 is its beginning.
    async fn inbox(&self, agent: AgentId, after: u64) -> Result<InboxPage, Error>;

    /// A page of what is in the inboxes of all agents, after a place; 0 is the beginning.
    async fn addressed(&self, after: Revision) -> Result<AddressedPage, Error>;

    /// Takes an entry out of an inbox, unless it was announced again since. Safe to repeat.
    async fn take_out(&self, entry: Addressed) -> Result<(), Error>;

    /// Hints for an agent that belongs to these groups, from now on.
    async fn wakes(&self, agent: AgentId, groups: &[Label]) -> Result<WakeStream, Error>;

    /// Gives back what an earlier process of the agent held when it ended. Unknown tokens are ignored.
    async fn give_back(&self, token: &str) -> Result<(), Error>;

    /// Takes up again the claim that an earlier process of the agent had on a job, by its [`Lease::token`]; `None` where that is not known.
    /// A claim that has lapsed stays lapsed: whose the work is, the ledger says. Nothing may be started under it.
    ///
    /// # Errors
    /// `Unavailable` if the broker did not answer.
    async fn resume(&self, agent: AgentId, definition: &Definition, token: Option<&str>) -> Result<Option<Box<dyn Lease>>, Error> {
        let _ = (agent, definition, token);
        Ok(None)
    }

    /// Returns when everything that was said to the broker without waiting for its word is on its way: before a process ends.
    async fn flush(&self) -> Result<(), Error>;

    /// Hints to an agent that a job's end was asked for.
    async fn signal_cancel(&self, agent: AgentId, job: JobId) -> Result<(), Error>;

    /// Makes sure that whoever should hear of an execution can: announces it if its announcement is missing. Gives whether it was. A
    /// broker that has just stored a job takes a moment to announce it; until then it is missing indeed.
    async fn announce(&self, definition: &Definition, announcement: Announcement) -> Result<bool, Error>;

    /// Takes back a job's announcements, so that nobody new is offered it. Safe to repeat.
    async fn withdraw(&self, definition: &Definition) -> Result<(), Error>;
}
