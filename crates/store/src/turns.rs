//! Concurrency keys: who waits for a turn, in which order, and which attempt has it.
//!
//! What is decided of it is `longshore_model::job::turn`. A turn is transport, like a delivery: it permits a start, and the ledger records it.

use async_trait::async_trait;
use longshore_model::JobId;
use longshore_model::wire::turn::{Hold, Waiter};

use crate::{Error, Revision};

/// Who has a key's turn, and what the next write of that must name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turn {
    /// `None` if nobody has it.
    pub hold: Option<Hold>,
    /// Of this record; 0 if there never was one. Grows with every change, so that of two holders the later one has the higher.
    pub revision: Revision,
}

/// Some of those who wait for a turn, in the order in which they entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaiterPage {
    /// Each with its place. One that cannot be read is passed over.
    pub items: Vec<(Revision, Waiter)>,
    /// Where the next page goes on; `None` if this was the last.
    pub next: Option<Revision>,
}

/// Turns. Reads are as the leader has it.
#[async_trait]
pub trait Turns: Send + Sync {
    /// Notes that a job waits. Safe to repeat: it keeps its place.
    async fn enter(&self, waiter: &Waiter) -> Result<(), Error>;

    /// Who waits for a key, in the order in which they entered.
    async fn waiting(&self, key: &str) -> Result<Vec<Waiter>, Error>;

    /// Some thousand of those who wait for any key and entered after the place `after`; 0 is the beginning.
    async fn page(&self, after: Revision) -> Result<WaiterPage, Error>;

    /// Removes a job from those who wait. Safe to repeat.
    async fn leave(&self, key: &str, job: JobId) -> Result<(), Error>;

    /// Who has a key's turn.
    async fn turn(&self, key: &str) -> Result<Turn, Error>;

    /// Gives a key's turn to somebody, if its record still has the revision `after`. Gives the new one, or `None` if somebody else was
    /// first. May be repeated with the same content: it takes effect once.
    async fn take(&self, key: &str, hold: &Hold, after: Revision) -> Result<Option<Revision>, Error>;

    /// Frees a key's turn, if its record still has the revision `held`. Safe to repeat.
    async fn release(&self, key: &str, held: Revision) -> Result<(), Error>;
}
