//! What an end holds at most, whatever the other does (A108, A109, A110).

use longshore_session::{Binding, LinkConfig, Output, Overflow, Phase, SendError, Worker};
use serde_json::json;

use crate::ends::{accept, ack_of, default_worker, drain, frames, from_scheduler, open_worker};
use crate::world::{message, ms, now, worker_config};

fn numbered(number: u64) -> Vec<u8> {
    let start = r#"{"type":"biz.exec.dispatch","ts":"2025-12-24T10:00:00Z","tenant":"default","sender":{"role":"scheduler","id":"s"}"#;
    let fill = "x".repeat(100);
    format!(r#"{start},"id":"d-{number}","session_seq":{number},"ack":{{"request":true}},"payload":{{"n":{number},"fill":"{fill}"}}}}"#)
        .into_bytes()
}

#[test]
fn a_flood_at_an_application_that_reads_nothing_is_bounded_under_every_policy() {
    for policy in [Overflow::Block, Overflow::DropNew, Overflow::DropOldest] {
        let mut config = worker_config();
        (config.link.app_frames_max, config.link.app_overflow, config.link.ack_repeats) = (100, policy, Vec::new());
        let (mut worker, binding) = open_worker(config);
        let mut n_dropped = 0;
        for number in 1..=100_000 {
            let _ = worker.receive(binding, &numbered(number), now(ms(1)));
            n_dropped += drain(|| worker.next_output()).into_iter().filter(|output| matches!(output, Output::Dropped(_))).count();
            let stats = worker.stats();
            assert!(stats.app_queue <= 100 && stats.held <= 64 && stats.received_bytes < 164 * 4000, "{policy:?}: {stats:?}");
        }
        let heard: Vec<_> =
            std::iter::from_fn(|| worker.next_delivery(now(ms(2)))).map(|envelope| envelope.payload["n"].as_u64().unwrap()).collect();
        match policy {
            // A peer that keeps to the window sends the rest when there is room; this one does not, and hears no yes for it.
            Overflow::Block => assert_eq!((n_dropped, heard), (0, (1..=164).collect())),
            Overflow::DropNew => assert_eq!((n_dropped, heard), (99_900, (1..=100).collect())),
            Overflow::DropOldest => assert_eq!((n_dropped, heard), (99_900, (99_901..=100_000).collect())),
        }
    }
}

#[test]
fn bytes_are_bounded_too() {
    for policy in [Overflow::Block, Overflow::DropNew, Overflow::DropOldest] {
        let mut config = worker_config();
        (config.link.app_bytes_max, config.link.app_overflow) = (50_000, policy);
        let (mut worker, binding) = open_worker(config);
        for number in 1..=1000 {
            let _ = worker.receive(binding, &numbered(number), now(ms(1)));
            drain(|| worker.next_output());
            assert!(worker.stats().received_bytes <= 50_000 + 2 * 4000, "{policy:?}: {:?}", worker.stats());
        }
    }
}

#[test]
fn what_is_out_of_the_window_is_not_acknowledged_by_id() {
    let (mut worker, binding) = default_worker();
    assert!(worker.receive(binding, &numbered(65), now(ms(0))).is_err());
    assert!(worker.receive(binding, &numbered(u64::MAX), now(ms(0))).is_err());
    for ack in frames(&drain(|| worker.next_output())) {
        assert_eq!((ack.ack, ack.payload.get("for"), ack.payload["ack_bitmap"].as_u64()), (None, None, Some(0)));
    }
    worker.receive(binding, &numbered(64), now(ms(0))).unwrap();
    let ack = frames(&drain(|| worker.next_output())).remove(0);
    assert_eq!((ack.payload["ack_seq"].as_u64(), ack.payload["ack_bitmap"].as_u64()), (Some(0), Some(1 << 63)));
    assert_eq!(ack.ack.unwrap().of.as_deref(), Some("d-64"));
}

#[test]
fn the_bitmap_is_that_of_the_existing_window() {
    let mut config = worker_config();
    config.link.window_frames = 8;
    let (mut worker, binding) = open_worker(config);
    for (number, expected) in [(2, (0, 0b10)), (4, (0, 0b1010)), (8, (0, 138)), (1, (2, 34))] {
        worker.receive(binding, &numbered(number), now(ms(0))).unwrap();
        let ack = frames(&drain(|| worker.next_output())).remove(0);
        assert_eq!((ack.payload["ack_seq"].as_u64().unwrap(), ack.payload["ack_bitmap"].as_u64().unwrap()), expected);
        assert_eq!(ack.payload["recv_window"], 8);
    }
}

#[test]
fn repeated_numbers_are_passed_on_once_and_acknowledged_each_time() {
    let (mut worker, binding) = default_worker();
    for n in [1, 1, 3, 3, 2, 0, 2] {
        let _ = worker.receive(binding, &numbered(n), now(ms(0)));
    }
    assert_eq!(frames(&drain(|| worker.next_output())).len(), 7);
    let heard: Vec<_> =
        std::iter::from_fn(|| worker.next_delivery(now(ms(1)))).map(|envelope| envelope.payload["n"].as_u64().unwrap()).collect();
    assert_eq!(heard, [1, 2, 3]);
}

#[test]
fn a_peer_that_never_acknowledges_blocks_the_sender_at_the_window_and_the_outbox() {
    let mut config = worker_config();
    config.link.outbox_frames_max = 200;
    let (mut worker, _) = open_worker(config);
    for n in 0..200 {
        worker.send(message(n), now(ms(0))).unwrap();
    }
    assert!(matches!(worker.send(message(200), now(ms(0))), Err(SendError::Full { frames: 200, .. })));
    assert_eq!(frames(&drain(|| worker.next_output())).len(), 64);
    assert_eq!((worker.stats().under_way, worker.stats().outbox), (64, 200));
    let mut config = worker_config();
    config.link.outbox_bytes_max = 1000;
    let (mut worker, _) = open_worker(config);
    let n_taken = (0..100).take_while(|n| worker.send(message(*n), now(ms(0))).is_ok()).count();
    assert!((2..8).contains(&n_taken), "{n_taken}");
}

#[test]
fn what_cannot_be_sent_takes_no_number_and_harms_no_other() {
    let mut config = worker_config();
    config.link.frame_bytes_out_max = 1000;
    let (mut worker, _) = open_worker(config);
    let mut large = message(1);
    large.payload.insert("fill".to_owned(), "x".repeat(1000).into());
    assert!(matches!(worker.send(large, now(ms(0))), Err(SendError::Unfit(_))));
    let mut deep = message(1);
    let nested = (0..200).fold(json!(1), |inner, _| json!([inner]));
    deep.payload.insert("deep".to_owned(), nested);
    assert!(matches!(worker.send(deep, now(ms(0))), Err(SendError::Unfit(_))));
    let mut reserved = message(1);
    reserved.kind = "control.reset".to_owned();
    assert!(matches!(worker.send(reserved, now(ms(0))), Err(SendError::Reserved(_))));
    let mut named = message(2);
    named.id = Some("mine".to_owned());
    assert_eq!(worker.send(named.clone(), now(ms(0))).unwrap(), "mine");
    assert!(matches!(worker.send(named, now(ms(0))), Err(SendError::Repeated(_))));
    let sent = frames(&drain(|| worker.next_output()));
    assert_eq!(sent.iter().map(|frame| (frame.session_seq, frame.id.as_str())).collect::<Vec<_>>(), [(Some(1), "mine")]);
}

#[test]
fn acknowledgements_of_what_was_never_sent_say_nothing() {
    let (mut worker, binding) = default_worker();
    for n in 0..3 {
        worker.send(message(n), now(ms(0))).unwrap();
    }
    drain(|| worker.next_output());
    for (upto, bits) in [(4, 0), (u64::MAX, u64::MAX), (0, u64::MAX)] {
        let ack = from_scheduler("control.ack", "a", json!({"ack_seq": upto, "ack_bitmap": bits, "recv_window": 64}), json!({}));
        worker.receive(binding, &ack, now(ms(1))).unwrap();
    }
    assert_eq!((worker.stats().under_way, worker.phase(), drain(|| worker.next_output())), (3, Phase::Open, Vec::new()));
    // By id alone nothing is done either: the existing end acknowledges by id what it has dropped.
    let ids: Vec<_> = ["x", "y"].into_iter().map(crate::ends::ack_of).collect();
    for ack in ids {
        worker.receive(binding, &ack, now(ms(1))).unwrap();
    }
    assert_eq!(worker.stats().under_way, 3);
}

#[test]
fn a_smaller_window_of_the_peer_is_kept_to() {
    let (mut worker, binding) = default_worker();
    worker.send(message(0), now(ms(0))).unwrap();
    let ack = from_scheduler("control.ack", "a", json!({"ack_seq": 1, "ack_bitmap": 0, "recv_window": 2}), json!({}));
    worker.receive(binding, &ack, now(ms(1))).unwrap();
    for n in 1..10 {
        worker.send(message(n), now(ms(2))).unwrap();
    }
    assert_eq!(worker.stats().under_way, 2);
    let mut config = LinkConfig::of_worker("t", "w");
    config.window_frames = u64::MAX;
    assert!(LinkConfig::WINDOW_FRAMES_MAX < config.window_frames);
}

#[test]
fn what_the_peer_holds_is_asked_after_slowly_for_as_long_as_it_answers() {
    let (mut worker, binding) = default_worker();
    worker.send(message(0), now(ms(0))).unwrap();
    drain(|| worker.next_output());
    let held = from_scheduler("control.ack", "a", json!({"ack_seq": 0, "ack_bitmap": 1, "recv_window": 64}), json!({}));
    let mut at = ms(100);
    for _ in 0..5 {
        worker.receive(binding, &held, now(at)).unwrap();
        at += ms(5000);
        worker.tick(now(at - ms(1)));
        assert_eq!(frames(&drain(|| worker.next_output())).len(), 0);
        worker.tick(now(at));
        let again = frames(&drain(|| worker.next_output()));
        assert_eq!(again.iter().map(|frame| frame.session_seq).collect::<Vec<_>>(), [Some(1)]);
    }
    // No answer any more: the usual attempts, and then the session is given up.
    while worker.phase() == Phase::Open {
        at = worker.next_deadline().unwrap();
        worker.tick(now(at));
        drain(|| worker.next_output());
    }
    assert!(at < ms(25_100 + 5000 + 16_200) && worker.stats().outbox == 1, "{at:?}");
}

#[test]
fn what_is_held_over_many_sessions_is_bounded_in_frames_and_bytes() {
    for policy in [Overflow::Block, Overflow::DropNew, Overflow::DropOldest] {
        let mut config = worker_config();
        (config.link.app_frames_max, config.link.app_overflow, config.link.ack_repeats) = (10, policy, Vec::new());
        config.link.app_bytes_max = 400_000;
        let (mut worker, mut binding) = open_worker(config);
        for session in 1..=200 {
            // In turn, and beyond a hole.
            for number in (1..=20).chain(30..=60) {
                let _ = worker.receive(binding, &numbered(number), now(ms(session)));
                drain(|| worker.next_output());
            }
            let stats = worker.stats();
            assert!(
                stats.app_queue + stats.held <= 10 + 2 * 64 && stats.received_bytes <= 404_000,
                "{policy:?}, session {session}: {stats:?}"
            );
            binding = reopen(&mut worker, binding, session);
        }
    }
}

/// The connection breaks, and the existing scheduler begins another session.
fn reopen(worker: &mut Worker, binding: Binding, session: u64) -> Binding {
    worker.disconnected(binding, None, "gone", now(ms(session)));
    drain(|| worker.next_output());
    let binding = worker.connected(now(ms(session)));
    let handshake = frames(&drain(|| worker.next_output())).remove(0);
    worker.receive(binding, &ack_of(&handshake.id), now(ms(session))).unwrap();
    let register = frames(&drain(|| worker.next_output())).remove(0);
    worker.receive(binding, &ack_of(&register.id), now(ms(session))).unwrap();
    worker.receive(binding, &accept(&format!("s-{session}"), false), now(ms(session))).unwrap();
    drain(|| worker.next_output());
    binding
}

#[test]
fn what_is_held_back_is_dropped_under_no_policy_and_waits_for_its_sender_to_wait() {
    for policy in [Overflow::Block, Overflow::DropNew, Overflow::DropOldest] {
        let mut config = worker_config();
        (config.link.app_frames_max, config.link.app_overflow, config.link.ack_repeats) = (10, policy, Vec::new());
        let (mut worker, binding) = open_worker(config);
        worker.hold_back(true, now(ms(0)));
        let taken = (1..=1000).filter(|number| worker.receive(binding, &numbered(*number), now(ms(0))).is_ok()).count();
        // What was not taken was not acknowledged, neither by its id nor by its number.
        let by_id = frames(&drain(|| worker.next_output())).iter().filter(|ack| ack.ack.is_some()).count();
        assert_eq!((taken, by_id, worker.stats().received_upto, worker.stats().dropped), (74, 74, 10, 0), "{policy:?}");
        assert!(worker.holds("d-74") && !worker.holds("d-75"));
        worker.hold_back(false, now(ms(1)));
        let outputs = drain(|| worker.next_output());
        let dropped: Vec<_> =
            outputs.iter().filter_map(|output| if let Output::Dropped(of) = output { Some(of.id.clone()) } else { None }).collect();
        let expected: Vec<_> = match policy {
            Overflow::Block => Vec::new(),
            Overflow::DropNew => (11..=74).map(|n| format!("d-{n}")).collect(),
            Overflow::DropOldest => (1..=64).map(|n| format!("d-{n}")).collect(),
        };
        assert_eq!(dropped, expected, "{policy:?}");
        // The peer hears that it may go on.
        assert_eq!(frames(&outputs).len(), usize::from(policy != Overflow::Block));
    }
}

#[test]
fn what_is_still_being_written_is_not_sent_again() {
    let (mut worker, _) = default_worker();
    worker.send(message(0), now(ms(0))).unwrap();
    drain(|| worker.next_output());
    // Four times as long as all attempts take.
    for at in (0..65_000).step_by(150) {
        worker.postpone(now(ms(at)));
        worker.tick(now(ms(at)));
        let again = frames(&drain(|| worker.next_output())).into_iter().filter(|frame| frame.session_seq.is_some()).count();
        assert_eq!((again, worker.phase()), (0, Phase::Open), "{at}");
    }
    let due = worker.next_deadline().unwrap();
    worker.tick(now(due));
    assert_eq!(frames(&drain(|| worker.next_output())).len(), 1);
}
