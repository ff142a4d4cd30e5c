//! What is kept, and how it travels: streams, buckets, consumers. The only crate that knows there is a NATS.
//!
//! One trait per aggregate; [`jetstream`] implements them on a real broker, [`memory`] in this process for tests and simulation, and one
//! conformance suite runs on both. Names are made in [`layout`] and nowhere else.
//!
//! The invariant guarded here: a fact that was reported as stored is stored, exactly once, and what cannot be known is reported as
//! [`Error::Unavailable`], never as a success or a failure.

mod audit;
mod clock;
mod dead_letters;
mod error;
mod facts;
mod feed;
pub mod jetstream;
mod layout;
mod ledger;
mod logs;
pub mod memory;
mod objects;
mod registry;
mod turns;
mod turnstile;
mod work;

use std::sync::Arc;

pub use audit::{Audit, AuditPage, StoredAudit};
pub use clock::Clock;
pub use dead_letters::{DeadLetters, LetterEvent, LetterPut, LetterStream, StoredLetter};
pub use error::Error;
pub use facts::Facts;
pub use feed::{Fact, Feed, FeedItem, FeedStream, Position};
pub use ledger::{Answered, Appended, Created, ExecutionRecord, JobRecord, Ledger, Revision};
pub use logs::{LogStream, Logs, StoredLog};
pub use objects::{ObjectInfo, ObjectOwner, ObjectPage, ObjectReader, Objects, archive_name, bundle_name, result_name};
pub use registry::{Newest, Registry, RegistryEvent, RegistryItem, RegistryStream};
pub use turns::{Turn, Turns, WaiterPage};
pub use turnstile::{Asked, Fence, Turnstile, is_forgotten, turn_kept};
pub use work::{Absence, Addressed, AddressedPage, Announcement, Before, Delivery, InboxPage, Lease, PullStream, Wake, WakeStream, Work};

/// Every store, shared by reference. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    /// Definitions, events, answers.
    pub ledger: Arc<dyn Ledger>,
    /// What agents take.
    pub work: Arc<dyn Work>,
    /// What is told of every change.
    pub feed: Arc<dyn Feed>,
    /// Live output.
    pub logs: Arc<dyn Logs>,
    /// Which agents live.
    pub registry: Arc<dyn Registry>,
    /// What agents know of their hosts.
    pub facts: Arc<dyn Facts>,
    /// Jobs whose attempts are used up.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// Who changed what, and who was refused.
    pub audit: Arc<dyn Audit>,
    /// Who waits for a concurrency key, and who has it.
    pub turns: Arc<dyn Turns>,
    /// Bundles, artifacts, large results.
    pub objects: Arc<dyn Objects>,
    /// The connection itself.
    pub broker: Arc<dyn Broker>,
    /// The time that whoever uses the stores stamps its records with.
    pub clock: Clock,
}

/// The connection to whatever keeps the stores.
pub trait Broker: Send + Sync {
    /// Whether it answers at the moment.
    fn is_connected(&self) -> bool;
    /// Its version, where it has one.
    fn version(&self) -> Option<String>;
    /// Bytes of the largest record that it takes at the moment; at most
    /// [`RECORD_BYTES_MAX`](longshore_model::limits::RECORD_BYTES_MAX).
    fn record_bytes_max(&self) -> usize;
}
