//! The event hub: every change the feed tells goes from here to whoever streams events.
//!
//! A bounded ring of the newest changes lets a reader resume from the position it saw last; a reader that is slower than the world is
//! told so and cut off, never buffered without bound.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use longshore_model::wire::rest::TimelineEntry;
use longshore_store::Position;
use tokio::sync::broadcast;

/// Changes kept for readers that resume.
pub(crate) const RING_ITEMS: usize = 10_000;
/// Changes that may wait for one reader before it is cut off.
const LIVE_ITEMS: usize = 1024;

/// Which of the ledger's sequences a change belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Queue,
    Responses,
    /// To neither: a hint between two changes, at the position of the one before.
    Deletion,
}

/// One change, and how far a reader is with it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Item {
    pub(crate) position: Position,
    pub(crate) source: Source,
    pub(crate) entry: TimelineEntry,
    /// Whether nothing more is expected of the job.
    pub(crate) is_settled: bool,
}

impl Item {
    pub(crate) fn is_after(&self, seen: Position) -> bool {
        match self.source {
            Source::Queue => self.position.queue > seen.queue,
            Source::Responses => self.position.responses > seen.responses,
            // Told again rather than missed by a reader that stopped exactly here.
            Source::Deletion => self.position.queue >= seen.queue && self.position.responses >= seen.responses,
        }
    }
}

/// How the wire writes a position: `QUEUE.RESPONSES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventId(pub(crate) Position);

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0.queue, self.0.responses)
    }
}

impl FromStr for EventId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (queue, responses) = text.split_once('.').ok_or(())?;
        Ok(Self(Position { queue: queue.parse().map_err(|_| ())?, responses: responses.parse().map_err(|_| ())? }))
    }
}

/// What a reader begins with.
pub(crate) struct Subscription {
    /// Changes after the position it asked for, oldest first.
    pub(crate) missed: Vec<Arc<Item>>,
    /// Whether some before those are gone from the ring.
    pub(crate) has_gap: bool,
    /// Changes from now on.
    pub(crate) live: broadcast::Receiver<Arc<Item>>,
}

/// The hub.
pub(crate) struct Hub {
    ring: Mutex<Ring>,
    live: broadcast::Sender<Arc<Item>>,
}

#[derive(Default)]
struct Ring {
    items: VecDeque<Arc<Item>>,
    /// The newest position that fell out.
    floor: Position,
}

impl Default for Hub {
    fn default() -> Self {
        Self { ring: Mutex::default(), live: broadcast::Sender::new(LIVE_ITEMS) }
    }
}

impl Hub {
    /// Tells everybody.
    pub(crate) fn publish(&self, item: Item) {
        let item = Arc::new(item);
        let mut ring = self.ring.lock().expect("no holder of this lock panics");
        if ring.items.len() == RING_ITEMS
            && let Some(old) = ring.items.pop_front()
        {
            ring.floor.queue = ring.floor.queue.max(old.position.queue);
            ring.floor.responses = ring.floor.responses.max(old.position.responses);
        }
        ring.items.push_back(Arc::clone(&item));
        // Nobody listening is no error. Sent under the lock, so that a subscriber finds each change once: in the ring or live.
        let _ = self.live.send(item);
    }

    /// Passes over a change of the past that would fall out of the ring before anybody could ask for it.
    pub(crate) fn pass_over(&self, position: Position) {
        let mut ring = self.ring.lock().expect("no holder of this lock panics");
        ring.floor.queue = ring.floor.queue.max(position.queue);
        ring.floor.responses = ring.floor.responses.max(position.responses);
    }

    /// Changes after `seen` that are still in the ring, and those from now on. Without `seen` only the latter.
    pub(crate) fn subscribe(&self, seen: Option<Position>) -> Subscription {
        let ring = self.ring.lock().expect("no holder of this lock panics");
        let live = self.live.subscribe();
        let Some(seen) = seen else { return Subscription { missed: Vec::new(), has_gap: false, live } };
        Subscription {
            missed: ring.items.iter().filter(|item| item.is_after(seen)).cloned().collect(),
            has_gap: seen.queue < ring.floor.queue || seen.responses < ring.floor.responses,
            live,
        }
    }
}

#[cfg(test)]
mod tests {
    use longshore_model::JobId;

    use super::*;

    fn item(queue: u64, responses: u64, source: Source) -> Item {
        let entry = TimelineEntry {
            job: JobId::from_bits(1),
            execution: None,
            at: jiff::Timestamp::UNIX_EPOCH,
            event: "submitted".to_owned(),
            attempt: None,
            hostname: None,
            outcome: None,
            detail: None,
            status: None,
        };
        Item { position: Position { queue, responses }, source, entry, is_settled: false }
    }

    fn positions(hub: &Hub, seen: &str) -> (Vec<String>, bool) {
        let EventId(seen) = seen.parse().unwrap();
        let found = hub.subscribe(Some(seen));
        (found.missed.iter().map(|item| EventId(item.position).to_string()).collect(), found.has_gap)
    }

    #[test]
    fn a_reader_resumes_after_what_it_saw_in_each_sequence() {
        let hub = Hub::default();
        for (queue, responses, source) in
            [(1, 0, Source::Queue), (1, 1, Source::Responses), (2, 1, Source::Queue), (2, 2, Source::Responses)]
        {
            hub.publish(item(queue, responses, source));
        }
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(positions(&hub, "0.0").0.len(), 4);
        assert_eq!(positions(&hub, "2.1"), (own(&["2.2"]), false));
        // Another controller may have told the two sequences in another order.
        assert_eq!(positions(&hub, "1.2"), (own(&["2.1"]), false));
        assert_eq!(positions(&hub, "2.2"), (own(&[]), false));
    }

    #[test]
    fn what_fell_out_of_the_ring_is_a_gap() {
        let hub = Hub::default();
        for queue in 1..=(RING_ITEMS as u64 + 5) {
            hub.publish(item(queue, 0, Source::Queue));
        }
        assert!(positions(&hub, "4.0").1);
        let (missed, has_gap) = positions(&hub, "5.0");
        assert_eq!((missed.len(), has_gap), (RING_ITEMS, false));
    }

    #[test]
    fn what_was_passed_over_is_a_gap() {
        let hub = Hub::default();
        hub.pass_over(Position { queue: 5, responses: 0 });
        hub.publish(item(6, 0, Source::Queue));
        assert_eq!((positions(&hub, "4.0").1, positions(&hub, "5.0").1), (true, false));
    }

    #[test]
    fn a_deletion_is_told_to_a_reader_that_stopped_just_before_it() {
        let hub = Hub::default();
        hub.publish(item(3, 1, Source::Queue));
        hub.publish(item(3, 1, Source::Deletion));
        assert_eq!(positions(&hub, "3.1").0.len(), 1);
        assert_eq!(positions(&hub, "4.1").0.len(), 0);
    }

    #[test]
    fn foreign_event_ids_are_refused() {
        for text in ["", "1", "1.", ".1", "a.b", "1.2.3", "-1.0"] {
            assert!(text.parse::<EventId>().is_err(), "{text:?}");
        }
    }
}
