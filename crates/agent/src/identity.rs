//! That an identity is one agent's: a copied data directory makes two of them, and then at most one is bound.
//!
//! ```text
//!   unbound ──(nobody is heard, or an earlier process of this place)──► bound ──(every heartbeat follows the one before)──► bound
//!      │                                                                  │
//!      └──(another process is heard, and heard again)──► refused          └──(another process was bound meanwhile)──► refused
//! ```
//!
//! Two processes in one place are told apart by the lock on the state directory, so an agent that was killed is bound again at once. One
//! that was killed somewhere else, by a reboot say, is waited for until its last heartbeat expires.

use std::sync::Mutex;
use std::time::Duration;

use longshore_model::wire::agent::{Heartbeat, Process};
use longshore_model::wire::audit::AuditRecord;
use longshore_model::wire::problem::ErrorCode;
use longshore_store::{Newest, Registry, Revision, Store};

use crate::Error;

/// Between looks at an agent that has the same identity.
const LOOK: Duration = Duration::from_millis(250);

/// What binds this process to its identity.
#[derive(Debug)]
pub(crate) struct Binding {
    pub(crate) process: Process,
    /// Of its last heartbeat; nothing before it is bound.
    last: Mutex<Option<Revision>>,
}

/// What became of a heartbeat.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    Told,
    /// Another process, on this host, is bound.
    Refused {
        hostname: String,
    },
}

impl Binding {
    /// Of a process that is not bound yet.
    pub(crate) fn new(process: Process) -> Self {
        Self { process, last: Mutex::new(None) }
    }

    pub(crate) fn is_bound(&self) -> bool {
        self.last().is_some()
    }

    fn last(&self) -> Option<Revision> {
        *self.last.lock().expect("no holder of this lock panics")
    }

    fn keep(&self, revision: Revision) {
        *self.last.lock().expect("no holder of this lock panics") = Some(revision);
    }

    /// Binds the identity. Waits while another process has it and may be gone: for as long as a heartbeat lasts, at most.
    pub(crate) async fn bind(&self, registry: &dyn Registry, heartbeat: &Heartbeat) -> Result<Beat, longshore_store::Error> {
        let mut heard: Option<Revision> = None;
        loop {
            let newest = registry.newest(heartbeat.agent).await?;
            match self.other(&newest) {
                Some(other) => match heard {
                    Some(before) if before != newest.revision => return Ok(Beat::Refused { hostname: other.hostname.clone() }),
                    Some(_) => {}
                    None => {
                        tracing::info!(hostname = %other.hostname, "an agent with this identity was heard; looking whether it lives");
                        heard = Some(newest.revision);
                    }
                },
                None => {
                    if let Some(revision) = registry.beat_after(heartbeat, newest.revision).await? {
                        self.keep(revision);
                        return Ok(Beat::Told);
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Says once more that the agent lives.
    pub(crate) async fn beat(&self, registry: &dyn Registry, heartbeat: &Heartbeat) -> Result<Beat, longshore_store::Error> {
        let mut last = self.last().unwrap_or_default();
        loop {
            if let Some(revision) = registry.beat_after(heartbeat, last).await? {
                self.keep(revision);
                return Ok(Beat::Told);
            }
            // The broker was away for longer than a heartbeat lasts, the answer to an earlier one was lost, or somebody else is bound.
            let newest = registry.newest(heartbeat.agent).await?;
            if let Some(other) = self.other(&newest) {
                return Ok(Beat::Refused { hostname: other.hostname.clone() });
            }
            last = newest.revision;
        }
    }

    /// Another process that lives. One in this place has ended: this one has its lock.
    fn other<'a>(&self, newest: &'a Newest) -> Option<&'a Heartbeat> {
        let is_other = |process: &Process| process.id != self.process.id && process.place != self.process.place;
        newest.heartbeat.as_ref().filter(|heartbeat| heartbeat.process.as_ref().is_some_and(is_other))
    }
}

/// Tells people that an identity was refused to this process: in the audit trail, and as the error it ends with.
pub(crate) async fn refused(store: &Store, heartbeat: &Heartbeat, process: &Process, hostname: String) -> Error {
    let refused = Error::Identity { id: heartbeat.agent, hostname };
    let record = AuditRecord {
        request_id: process.id.clone(),
        targets: vec![heartbeat.hostname.clone()],
        status: Some(403),
        code: Some(ErrorCode::Forbidden),
        reason: Some(refused.to_string()),
        ..AuditRecord::new(process.id.clone(), store.clock.now(), "BIND".to_owned(), format!("/agents/{}", heartbeat.agent))
    };
    if let Err(error) = store.audit.append(&[record]).await {
        tracing::warn!(%error, "the refusal of an identity is not in the audit trail");
    }
    refused
}
