//! A consumer of an earlier configuration that stands in the way of ours.
//!
//! A work queue gives each piece of work to one consumer, so that only one queue group can take it. What an earlier configuration left
//! behind is removed once nobody asks it for work: deliveries permit nothing, so that what it had handed out is safe.

use async_nats::jetstream::consumer::{ReplayPolicy, pull};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind, Stream};
use futures::TryStreamExt;

use super::link::Link;
use crate::Error;

/// The broker's codes for a second consumer of the same work, and for a consumer that cannot be changed to what is wanted.
const IN_THE_WAY: [u64; 4] = [10099, 10100, 10012, 10013];

/// Whether this fault may be another consumer's doing.
pub(super) fn may_be_one(fault: &ConsumerError) -> bool {
    match fault.kind() {
        ConsumerErrorKind::JetStream(reason) => IN_THE_WAY.contains(&reason.error_code().0),
        ConsumerErrorKind::TimedOut
        | ConsumerErrorKind::Request
        | ConsumerErrorKind::InvalidConsumerType
        | ConsumerErrorKind::InvalidName
        | ConsumerErrorKind::Other => false,
    }
}

/// Removes every consumer of the same work that is not as `wanted`, unless somebody uses it. Safe to repeat.
///
/// # Errors
/// `Layout` if somebody does, which names it; `Unavailable` if the broker did not answer.
pub(super) async fn make_way(link: &Link, work: &Stream<()>, wanted: &pull::Config) -> Result<(), Error> {
    const DOING: &str = "looking for another queue group's consumer";
    let found: Vec<_> = work.consumers().try_collect().await.map_err(|fault| Error::unavailable(DOING, fault))?;
    for rival in found.into_iter().filter(|found| found.config.filter_subject == wanted.filter_subject) {
        let is_ours = Some(&rival.name) == wanted.durable_name.as_ref();
        if is_ours && rival.config.replay_policy == wanted.replay_policy {
            continue;
        }
        if rival.num_waiting > 0 {
            let problem = if is_ours {
                let policy = if rival.config.replay_policy == ReplayPolicy::Original { "original" } else { "instant" };
                format!(
                    "agents take its work with `agent.consumer.replay_policy: {policy}`: all of a fleet use the same, or stop them first"
                )
            } else {
                format!(
                    "agents of the queue group `{}` take its work, and it goes to one group only: set `agent.queue_group` to that name, \
                     stop those agents first, or keep fleets apart with `nats.server.namespace`",
                    rival.name
                )
            };
            return Err(Error::Layout { store: link.layout.work.clone(), problem });
        }
        tracing::info!(consumer = %rival.name, "removing a consumer of an earlier configuration that nobody uses");
        work.delete_consumer(&rival.name).await.map_err(|fault| Error::unavailable(DOING, fault))?;
    }
    Ok(())
}
