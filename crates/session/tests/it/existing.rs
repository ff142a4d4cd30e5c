//! A worker at a stand-in for the existing scheduler: one that never sends again, acknowledges by id what it drops, and forgets its windows with each handshake.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use longshore_session::codec::decode;
use longshore_session::{Envelope, Output, Payload, Worker};
use serde_json::json;

use crate::ends::{accept, ack_of, from_scheduler};
use crate::world::{Rng, message, ms, now, worker_config};

/// Its receiving half, as it was measured.
#[derive(Default)]
struct Scheduler {
    is_accepted: bool,
    base: u64,
    held: BTreeMap<u64, Envelope>,
    results: BTreeSet<u64>,
    n_results: usize,
    n_sessions: usize,
}

impl Scheduler {
    fn receive(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let envelope = decode(bytes, 16 << 20).unwrap();
        match envelope.kind.as_str() {
            "control.handshake" => {
                (self.is_accepted, self.base) = (false, 0);
                self.held.clear();
                vec![ack_of(&envelope.id)]
            }
            "control.register" if self.is_accepted => vec![ack_of(&envelope.id)],
            "control.register" => {
                self.is_accepted = true;
                self.n_sessions += 1;
                vec![ack_of(&envelope.id), accept(&format!("s-{}", self.n_sessions), false)]
            }
            "control.heartbeat" | "control.ack" => Vec::new(),
            "control.resume" => panic!("with this scheduler a resume leaves holes"),
            _ => vec![self.take(envelope)],
        }
    }

    fn take(&mut self, envelope: Envelope) -> Vec<u8> {
        let (number, id) = (envelope.session_seq.unwrap(), envelope.id.clone());
        if number > self.base && number <= self.base + 64 {
            self.held.insert(number, envelope);
        }
        while let Some(next) = self.held.remove(&(self.base + 1)) {
            self.base += 1;
            self.n_results += 1;
            self.results.insert(next.payload["n"].as_u64().unwrap());
        }
        let bits = self.held.keys().map(|number| 1_u64 << (number - self.base - 1)).sum::<u64>();
        let payload = json!({"ok": true, "for": id, "ack_seq": self.base, "ack_bitmap": bits, "recv_window": 64});
        from_scheduler("control.ack", "a", payload, json!({"ack": {"for": id}}))
    }
}

#[test]
fn no_result_is_lost_over_a_thousand_cuts_at_the_existing_scheduler() {
    let (mut rng, mut scheduler) = (Rng(11), Scheduler::default());
    let mut at = ms(0);
    let mut worker = Worker::new(worker_config(), 5, now(at)).unwrap();
    let (mut binding, mut n_cuts, mut n_said) = (None, 0, 0_u64);
    let (mut up, mut down): (VecDeque<Vec<u8>>, VecDeque<Vec<u8>>) = Default::default();
    while n_cuts < 1000 || worker.stats().outbox > 0 {
        if n_cuts < 1000 && worker.stats().outbox < 200 {
            for _ in 0..rng.below(3) {
                worker.send(message(n_said), now(at)).unwrap();
                n_said += 1;
            }
        }
        while let Some(output) = worker.next_output() {
            match output {
                Output::Connect => binding = Some(worker.connected(now(at))),
                Output::Transmit { to, text } if Some(to) == binding => up.push_back(text.into_string().into_bytes()),
                Output::Close { .. } => panic!("nothing but cuts ends a connection here"),
                Output::HeartbeatDue => worker.heartbeat(true, Payload::new(), None, now(at)),
                Output::Transmit { .. }
                | Output::Opened { .. }
                | Output::Detached { .. }
                | Output::Acknowledged { .. }
                | Output::Dropped(_)
                | Output::Skipped { .. }
                | Output::Drain(_)
                | Output::Stopped(_)
                | Output::Registered(_)
                | Output::Heartbeat(_)
                | Output::Authenticate(_)
                | Output::Uncertain { .. }
                | Output::Expired => {}
            }
        }
        match (rng.below(100), binding) {
            (0..3, Some(bound)) if n_cuts < 1000 => {
                (up, down, binding) = Default::default();
                worker.disconnected(bound, Some(1006), "cut", now(at));
                n_cuts += 1;
            }
            (0..55, Some(_)) if !up.is_empty() => down.extend(scheduler.receive(&up.pop_front().unwrap())),
            (_, Some(bound)) if !down.is_empty() => worker.receive(bound, &down.pop_front().unwrap(), now(at)).unwrap(),
            _ if up.is_empty() && down.is_empty() => at = worker.next_deadline().unwrap().max(at),
            _ => {}
        }
        at += ms(1);
        worker.tick(now(at));
    }
    assert_eq!(scheduler.results, (0..n_said).collect());
    assert!(n_said > 10_000, "{n_said}");
    assert!(scheduler.n_results < 2 * scheduler.results.len(), "{} of {}", scheduler.n_results, scheduler.results.len());
}
