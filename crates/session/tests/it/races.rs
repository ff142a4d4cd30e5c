//! What the existing scheduler needs beyond its own protocol: the race of its acknowledgements, and the holes that it leaves.

use longshore_session::{Output, Phase};
use serde_json::json;

use crate::ends::{default_worker, drain, frames, from_scheduler, kinds};
use crate::world::{message, ms, now};

fn dispatch(number: u64) -> Vec<u8> {
    let more = json!({"ack": {"request": true}, "session_seq": number, "corr": "task", "seq": 5});
    from_scheduler("biz.exec.dispatch", &format!("d-{number}"), json!({"n": number}), more)
}

#[test]
fn a_dispatch_is_acknowledged_at_once_and_twice_more_whatever_becomes_of_it() {
    let (mut worker, binding) = default_worker();
    worker.receive(binding, &dispatch(1), now(ms(10))).unwrap();
    let first = frames(&drain(|| worker.next_output())).remove(0);
    assert_eq!((first.corr.as_deref(), first.seq, first.session_seq), (Some("task"), Some(5), None));
    assert_eq!(first.ack.as_ref().unwrap().of.as_deref(), Some("d-1"));
    assert_eq!(
        serde_json::Value::Object(first.payload),
        json!({"ok": true, "for": "d-1", "ack_seq": 1, "ack_bitmap": 0, "recv_window": 64})
    );
    for due in [260, 1010] {
        assert_eq!(worker.next_deadline(), Some(ms(due)));
        worker.tick(now(ms(due - 1)));
        assert_eq!(worker.next_output(), None);
        worker.tick(now(ms(due)));
        let again = frames(&drain(|| worker.next_output())).remove(0);
        assert_eq!((again.kind.as_str(), again.ack.unwrap().of.as_deref()), ("control.ack", Some("d-1")));
    }
    assert_eq!(worker.stats().ack_repeats, 0);
}

/// The stand-in forgets an acknowledgement that comes within 100 ms, and says a dispatch again that was not acknowledged within 5 s.
#[test]
fn two_hundred_dispatches_to_a_scheduler_with_the_race_are_each_taken_once() {
    let (mut worker, binding) = default_worker();
    let mut at = ms(100);
    for number in 1..=200 {
        let sent = at;
        worker.receive(binding, &dispatch(number), now(at)).unwrap();
        assert_eq!(worker.next_delivery(now(at)).unwrap().payload["n"], number);
        let mut is_acknowledged = false;
        while !is_acknowledged {
            for frame in frames(&drain(|| worker.next_output())) {
                let is_its_own = frame.ack.and_then(|ack| ack.of).as_deref() == Some(format!("d-{number}").as_str());
                is_acknowledged |= is_its_own && at >= sent + ms(100);
            }
            at = worker.next_deadline().unwrap().max(at);
            assert!(at < sent + ms(5000), "dispatch {number} would be sent again");
            worker.tick(now(at));
        }
        assert_eq!(worker.next_delivery(now(at)), None);
    }
}

#[test]
fn a_number_that_the_scheduler_lost_is_skipped_and_told() {
    let (mut worker, binding) = default_worker();
    for number in [1, 3, 4] {
        worker.receive(binding, &dispatch(number), now(ms(0))).unwrap();
    }
    assert_eq!(std::iter::from_fn(|| worker.next_delivery(now(ms(1)))).count(), 1);
    drain(|| worker.next_output());
    worker.tick(now(ms(1000)));
    assert!(drain(|| worker.next_output()).contains(&Output::Skipped { from: 2, to: 2 }));
    assert_eq!(std::iter::from_fn(|| worker.next_delivery(now(ms(1001)))).count(), 2);
    assert_eq!(worker.stats().received_upto, 4);
}

#[test]
fn results_that_end_while_disconnected_are_sent_in_a_new_session_under_new_numbers() {
    let (mut worker, binding) = default_worker();
    let before: Vec<_> = (0..3).map(|n| worker.send(message(n), now(ms(0))).unwrap()).collect();
    assert_eq!(
        frames(&drain(|| worker.next_output())).iter().map(|frame| frame.session_seq).collect::<Vec<_>>(),
        [Some(1), Some(2), Some(3)]
    );
    let upto = from_scheduler("control.ack", "a", json!({"ack_seq": 1, "ack_bitmap": 0b10, "recv_window": 64}), json!({}));
    worker.receive(binding, &upto, now(ms(1))).unwrap();
    assert_eq!(drain(|| worker.next_output()), [Output::Acknowledged { id: before[0].clone() }]);
    worker.disconnected(binding, None, "gone", now(ms(2)));
    let offline = worker.send(message(3), now(ms(3))).unwrap();
    assert_eq!(worker.phase(), Phase::BackingOff);
    let due = worker.next_deadline().unwrap();
    assert!(due >= ms(802) && due <= ms(1202), "{due:?}");
    worker.tick(now(due));
    let binding = worker.connected(now(due));
    let outputs = drain(|| worker.next_output());
    // This scheduler repeats nothing, so what was on its way to us is gone: only a new session has no hole.
    let handshake = frames(&outputs).remove(0);
    assert_eq!(handshake.kind, "control.handshake");
    worker.receive(binding, &crate::ends::ack_of(&handshake.id), now(due)).unwrap();
    let register = frames(&drain(|| worker.next_output())).remove(0);
    worker.receive(binding, &crate::ends::ack_of(&register.id), now(due)).unwrap();
    worker.receive(binding, &crate::ends::accept("s-2", false), now(due)).unwrap();
    let sent: Vec<_> = frames(&drain(|| worker.next_output())).into_iter().map(|frame| (frame.session_seq.unwrap(), frame.id)).collect();
    assert_eq!(sent, [(1, before[1].clone()), (2, before[2].clone()), (3, offline)]);
}

#[test]
fn a_peer_that_has_lost_numbers_is_left_for_a_new_session() {
    let (mut worker, binding) = default_worker();
    for n in 0..3 {
        worker.send(message(n), now(ms(0))).unwrap();
    }
    let ack = |upto: u64, bits: u64| {
        from_scheduler("control.ack", "a", json!({"ack_seq": upto, "ack_bitmap": bits, "recv_window": 64}), json!({}))
    };
    worker.receive(binding, &ack(2, 0), now(ms(1))).unwrap();
    drain(|| worker.next_output());
    // It had 2 and says now that it has none, but holds 3: the hole can never be filled.
    let mut at = ms(2);
    while worker.phase() == Phase::Open {
        worker.receive(binding, &ack(0, 0b100), now(at)).unwrap();
        at = worker.next_deadline().unwrap().max(at + ms(1));
        worker.tick(now(at));
        assert!(at < ms(10_000), "it goes on with a hole");
    }
    assert!(matches!(drain(|| worker.next_output()).last(), Some(Output::Detached { .. })));
    assert_eq!(worker.stats().outbox, 1);
}

#[test]
fn unacknowledged_frames_are_sent_again_byte_for_byte_and_then_the_session_is_given_up_but_no_frame() {
    let (mut worker, _) = default_worker();
    worker.send(message(1), now(ms(0))).unwrap();
    let texts = |outputs: Vec<Output>| -> Vec<String> {
        outputs
            .into_iter()
            .filter_map(|output| if let Output::Transmit { text, .. } = output { Some(text.into_string()) } else { None })
            .collect()
    };
    let first = texts(drain(|| worker.next_output()));
    let mut times = Vec::new();
    while worker.phase() == Phase::Open {
        let at = worker.next_deadline().unwrap();
        worker.tick(now(at));
        let again = texts(drain(|| worker.next_output()));
        if !again.is_empty() {
            assert_eq!(again, first);
            times.push(at.as_millis());
        }
    }
    assert_eq!(times, [200, 600, 1400, 3000, 6200, 11_200]);
    assert_eq!((worker.phase(), worker.stats().outbox), (Phase::BackingOff, 1));
    assert!(kinds(&drain(|| worker.next_output())).is_empty());
}
