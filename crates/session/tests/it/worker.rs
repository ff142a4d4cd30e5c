//! The worker's end, state by state.

use longshore_session::code::Failure;
use longshore_session::control::Drain;
use longshore_session::{Binding, Envelope, Ignored, Output, Payload, Phase, Stop, Worker};
use serde_json::json;

use crate::ends::{accept, ack_of, default_worker, dialled, drain, frames, from_scheduler, is_unexpected, kinds, open_worker};
use crate::world::{message, ms, now, worker_config};

fn reset(code: &str) -> Vec<u8> {
    from_scheduler("control.reset", "x", json!({"code": code, "reason": "because"}), json!({}))
}

#[test]
fn the_first_connection_goes_as_the_existing_scheduler_expects() {
    let (mut worker, binding, handshake) = dialled(worker_config());
    assert_eq!((handshake.kind.as_str(), handshake.wants_ack(), worker.phase()), ("control.handshake", true, Phase::Handshaking));
    assert_eq!((handshake.sender.id.as_str(), handshake.tenant.as_str(), handshake.session_seq), ("w-1", "default", None));
    // Anything said earlier waits for the acceptance.
    worker.send(message(1), now(ms(1))).unwrap();
    assert_eq!(worker.next_output(), None);
    worker.receive(binding, &ack_of(&handshake.id), now(ms(2))).unwrap();
    let register = frames(&drain(|| worker.next_output())).remove(0);
    assert_eq!(register.payload["capabilities"]["features"], json!(["longshore.session.1"]));
    worker.receive(binding, &ack_of(&register.id), now(ms(3))).unwrap();
    assert_eq!(worker.next_output(), None);
    worker.receive(binding, &accept("s-1", false), now(ms(4))).unwrap();
    let outputs = drain(|| worker.next_output());
    assert_eq!(outputs[0], Output::Opened { resumed: false });
    assert_eq!(frames(&outputs)[0].session_seq, Some(1));
}

/// The frames a scheduler may send, in every state with a connection: which of them are unexpected.
#[test]
fn every_frame_is_answered_in_every_state() {
    let all = [
        (
            "control.handshake",
            json!({"protocol": 1, "auth": {"mode": "token"}, "worker": {"worker_name": "w", "version": "1", "hostname": "h"}}),
        ),
        ("control.register", json!({"capabilities": {"concurrency": {"max_parallel": 1}, "runtimes": ["x"], "features": []}})),
        ("control.resume", json!({"session_id": "s", "session_token": "t"})),
        ("control.session.accept", json!({"session_id": "other", "session_token": "t", "worker_instance_id": "w-1"})),
        ("control.ack", json!({})),
        ("control.heartbeat", json!({"healthy": true, "metrics": {"inflight": 0}})),
        ("control.drain", json!({})),
        ("control.surprise", json!({"x": 1})),
        ("biz.exec.dispatch", json!({})),
        ("ext.longshore.hello", json!({"version": 1})),
        ("control.reset", json!({"code": "c", "reason": "r"})),
    ];
    // Unexpected, and whether it is acknowledged all the same.
    let yes = (true, true);
    let silent = (true, false);
    let taken = (false, true);
    let quiet = (false, false);
    let table = [
        ("handshaking", [yes, yes, yes, silent, quiet, yes, silent, yes, silent, silent, quiet]),
        ("registering", [yes, yes, yes, quiet, quiet, yes, silent, yes, silent, silent, quiet]),
        ("resuming", [yes, yes, yes, quiet, quiet, yes, silent, yes, silent, silent, quiet]),
        ("open", [yes, yes, yes, silent, quiet, yes, taken, yes, taken, taken, quiet]),
        ("draining", [yes, yes, yes, silent, quiet, yes, taken, yes, taken, taken, quiet]),
    ];
    for (state, row) in table {
        for ((kind, payload), (is_refused, is_acknowledged)) in all.iter().zip(row) {
            let (mut worker, binding) = in_state(state);
            let frame = from_scheduler(kind, "f", payload.clone(), json!({"ack": {"request": true}}));
            let result = worker.receive(binding, &frame, now(ms(1)));
            if !(state == "draining" && *kind == "control.drain") {
                assert_eq!(is_unexpected(&result), is_refused, "{kind} while {state}: {result:?}");
            }
            let acks = frames(&drain(|| worker.next_output())).into_iter().filter(|out| out.kind == "control.ack").count();
            assert_eq!(acks == 1, is_acknowledged, "{kind} while {state}");
        }
    }
}

fn in_state(state: &str) -> (Worker, longshore_session::Binding) {
    let (mut worker, binding, handshake) = dialled(worker_config());
    match state {
        "handshaking" => return (worker, binding),
        "registering" => {
            worker.receive(binding, &ack_of(&handshake.id), now(ms(0))).unwrap();
            drain(|| worker.next_output());
            return (worker, binding);
        }
        _ => {}
    }
    let (mut worker, binding) = default_worker();
    match state {
        "resuming" => {
            worker.receive(binding, &from_scheduler("ext.longshore.hello", "h", json!({}), json!({})), now(ms(0))).unwrap();
            worker.disconnected(binding, None, "gone", now(ms(0)));
            let binding = worker.connected(now(ms(1)));
            assert_eq!(kinds(&drain(|| worker.next_output())), ["control.resume"]);
            return (worker, binding);
        }
        "draining" => {
            worker.receive(binding, &from_scheduler("control.drain", "d", json!({"deadline_ms": 5}), json!({})), now(ms(0))).unwrap();
            let drained = Output::Drain(Drain { reason: None, deadline_ms: Some(5) });
            assert_eq!(drain(|| worker.next_output()), [drained]);
            assert_eq!(worker.phase(), Phase::Draining);
        }
        _ => {}
    }
    (worker, binding)
}

#[test]
fn a_session_that_is_resumed_goes_on_where_it_was_and_is_open() {
    let (mut worker, binding) = default_worker();
    worker.receive(binding, &from_scheduler("ext.longshore.hello", "h", json!({}), json!({})), now(ms(0))).unwrap();
    worker.send(message(1), now(ms(0))).unwrap();
    worker.disconnected(binding, None, "gone", now(ms(0)));
    drain(|| worker.next_output());
    let binding = worker.connected(now(ms(1)));
    drain(|| worker.next_output());
    worker.receive(binding, &accept("s-1", true), now(ms(2))).unwrap();
    assert_eq!((drain(|| worker.next_output()), worker.phase()), (vec![Output::Opened { resumed: true }], Phase::Open));
    worker.tick(now(ms(2)));
    assert_eq!(frames(&drain(|| worker.next_output()))[0].session_seq, Some(1));
}

#[test]
fn what_comes_over_an_earlier_connection_is_refused() {
    let (mut worker, old) = default_worker();
    let new = worker.connected(now(ms(1)));
    assert!(matches!(worker.receive(old, &ack_of("x"), now(ms(2))), Err(Ignored::StaleBinding)));
    worker.disconnected(old, None, "gone", now(ms(2)));
    assert_eq!(worker.phase(), Phase::Handshaking);
    worker.disconnected(new, None, "gone", now(ms(2)));
    assert_eq!(worker.phase(), Phase::BackingOff);
}

#[test]
fn refused_credentials_back_off_or_end_the_worker_as_configured() {
    let (mut worker, binding, _) = dialled(worker_config());
    worker.receive(binding, &reset("E.AUTH.INVALID_TOKEN"), now(ms(0))).unwrap();
    assert_eq!(worker.phase(), Phase::BackingOff);
    assert!(worker.next_deadline().unwrap() >= ms(800));
    let mut config = worker_config();
    config.reconnect.abort_on_auth_error = true;
    let (mut worker, binding, _) = dialled(config.clone());
    worker.receive(binding, &reset("E.AUTH.INVALID_TOKEN"), now(ms(0))).unwrap();
    let refused = Output::Stopped(Stop::Refused("E.AUTH.INVALID_TOKEN: because".to_owned()));
    assert_eq!((drain(|| worker.next_output()).pop(), worker.phase(), worker.next_deadline()), (Some(refused), Phase::Over, None));
    let (mut worker, binding, _) = dialled(config);
    worker.receive(binding, &reset("E.SESSION.UNKNOWN"), now(ms(0))).unwrap();
    assert_eq!(worker.phase(), Phase::BackingOff);
}

#[test]
fn failed_dials_end_the_worker_by_the_flag_of_their_kind_only() {
    for (failure, auth, protocol, ends) in [
        (Failure::Auth, true, false, true),
        (Failure::Auth, false, true, false),
        (Failure::Protocol, false, true, true),
        (Failure::Protocol, true, false, false),
        (Failure::Network, true, true, false),
        (Failure::Unknown, true, true, false),
    ] {
        let mut config = worker_config();
        (config.reconnect.abort_on_auth_error, config.reconnect.abort_on_protocol_error) = (auth, protocol);
        let mut worker = Worker::new(config, 1, now(ms(0))).unwrap();
        worker.tick(now(ms(0)));
        worker.dial_failed(failure, "no", now(ms(0)));
        assert_eq!(worker.phase() == Phase::Over, ends, "{failure:?} {auth} {protocol}");
    }
}

#[test]
fn a_close_is_judged_by_its_words_and_a_broken_connection_is_not() {
    for (code, words, auth, protocol, ends) in [
        (Some(1008), "forbidden", true, false, true),
        (Some(1008), "forbidden", false, true, false),
        (Some(1002), "unsupported frame", false, true, true),
        (Some(403), "", true, false, true),
        (Some(1011), "internal error", true, true, false),
        (Some(1012), "service restart", true, true, false),
        // Words of our own: a line that breaks while the two shake hands.
        (None, "the handshake was not finished", true, true, false),
    ] {
        let mut config = worker_config();
        (config.reconnect.abort_on_auth_error, config.reconnect.abort_on_protocol_error) = (auth, protocol);
        let (mut worker, binding, _) = dialled(config);
        worker.disconnected(binding, code, words, now(ms(0)));
        assert_eq!(worker.phase() == Phase::Over, ends, "{code:?} {words} {auth} {protocol}");
    }
}

#[test]
fn waits_between_dials_double_up_to_their_bound_with_jitter_also_when_the_other_end_accepts_and_closes() {
    let mut worker = Worker::new(worker_config(), 3, now(ms(0))).unwrap();
    let (mut at, mut waits) = (ms(0), Vec::new());
    for n in 0..10 {
        worker.tick(now(at));
        assert_eq!(worker.next_output(), Some(Output::Connect));
        if n % 2 == 0 {
            worker.dial_failed(Failure::Network, "refused", now(at));
        } else {
            let binding = worker.connected(now(at));
            worker.disconnected(binding, Some(1006), "closed", now(at));
        }
        drain(|| worker.next_output());
        let next = worker.next_deadline().unwrap();
        waits.push(next - at);
        at = next;
    }
    for (n, wait) in waits.iter().enumerate() {
        let usual = ms(1000).saturating_mul(1 << n).min(ms(30_000));
        assert!(*wait >= usual.mul_f64(0.8) && *wait <= usual.mul_f64(1.2), "wait {n}: {wait:?}");
    }
}

#[test]
fn a_wait_that_the_other_end_asks_for_is_kept() {
    let (mut worker, binding, _) = dialled(worker_config());
    let later = from_scheduler("control.reset", "x", json!({"code": "c", "reason": "r", "retry_after_ms": 60_000}), json!({}));
    worker.receive(binding, &later, now(ms(0))).unwrap();
    assert_eq!(worker.next_deadline(), Some(ms(60_000)));
}

#[test]
fn a_handshake_or_an_acceptance_that_does_not_come_ends_the_connection() {
    let (mut worker, _, _) = dialled(worker_config());
    while worker.phase() == Phase::Handshaking {
        let at = worker.next_deadline().unwrap();
        worker.tick(now(at));
        assert!(at <= ms(16_200));
    }
    let (mut worker, binding, handshake) = dialled(worker_config());
    worker.receive(binding, &ack_of(&handshake.id), now(ms(0))).unwrap();
    let register = frames(&drain(|| worker.next_output())).remove(0);
    worker.receive(binding, &ack_of(&register.id), now(ms(100))).unwrap();
    assert_eq!(worker.next_deadline(), Some(ms(10_100)));
    worker.tick(now(ms(10_100)));
    assert_eq!(worker.phase(), Phase::BackingOff);
}

#[test]
fn heartbeats_come_after_each_interval_with_jitter_and_hold_the_counts_of_the_session() {
    let (mut worker, _) = default_worker();
    let mut at = ms(0);
    for _ in 0..20 {
        let due = worker.next_deadline().unwrap();
        assert!(due >= at + ms(30_000) && due < at + ms(35_000), "{due:?} after {at:?}");
        at = due;
        worker.tick(now(at));
        assert_eq!(drain(|| worker.next_output()), [Output::HeartbeatDue]);
    }
    worker.heartbeat(false, Payload::from_iter([("inflight".to_owned(), 2.into())]), Some(true), now(at));
    let beat = frames(&drain(|| worker.next_output())).remove(0);
    assert_eq!((beat.ack, beat.session_seq, beat.payload["healthy"].as_bool()), (None, None, Some(false)));
    assert_eq!((&beat.payload["metrics"]["inflight"], &beat.payload["packages"]["drift"]), (&json!(2), &json!(true)));
    for key in ["pending_acks", "app_queue", "app_queue_drops", "conn_state", "recv_base_seq", "recv_buffer"] {
        assert!(beat.payload["metrics"].get(key).is_some(), "{key}");
    }
}

#[test]
fn what_a_worker_can_do_is_said_again_when_it_changes_and_the_session_is_open() {
    let (mut worker, binding) = default_worker();
    let mut register = worker_config().register;
    register.capabilities.concurrency.max_parallel = 9;
    worker.update(register.clone(), now(ms(0))).unwrap();
    assert_eq!(kinds(&drain(|| worker.next_output())), ["control.register"]);
    worker.disconnected(binding, None, "gone", now(ms(1)));
    drain(|| worker.next_output());
    worker.update(register, now(ms(2))).unwrap();
    assert_eq!(worker.next_output(), None);
    let mut config = worker_config();
    config.link.frame_bytes_out_max = 2000;
    let (mut worker, _) = open_worker(config.clone());
    let mut large = config.register;
    large.channels = Some(vec!["x".repeat(3000)]);
    assert!(worker.update(large, now(ms(0))).is_err());
    assert_eq!(worker.next_output(), None);
}

#[test]
fn a_worker_that_finishes_waits_for_its_acknowledgements_and_no_longer_than_its_deadline() {
    let (mut worker, binding) = default_worker();
    let id = worker.send(message(1), now(ms(0))).unwrap();
    drain(|| worker.next_output());
    worker.finish(ms(5000), now(ms(1)));
    assert_eq!(worker.phase(), Phase::Open);
    let ack = from_scheduler("control.ack", "a", json!({"ack_seq": 1, "ack_bitmap": 0, "recv_window": 64}), json!({}));
    worker.receive(binding, &ack, now(ms(2))).unwrap();
    let outputs = drain(|| worker.next_output());
    assert_eq!((&outputs[0], outputs.last()), (&Output::Acknowledged { id }, Some(&Output::Stopped(Stop::Finished))));
    let (mut worker, _) = default_worker();
    worker.send(message(1), now(ms(0))).unwrap();
    worker.finish(ms(150), now(ms(1)));
    assert_eq!(worker.next_deadline(), Some(ms(150)));
    worker.tick(now(ms(150)));
    assert_eq!(drain(|| worker.next_output()).pop(), Some(Output::Stopped(Stop::Unfinished(1))));
}

#[test]
fn frames_that_cannot_be_read_are_ignored_and_not_acknowledged() {
    let (mut worker, binding) = default_worker();
    for bytes in [&b"{"[..], b"", b"\xff", b"[]", br#"{"type":"control.ack"}"#] {
        assert!(matches!(worker.receive(binding, bytes, now(ms(0))), Err(Ignored::Malformed(_))));
    }
    let bad = from_scheduler("control.drain", "d", json!({"surprise": 1}), json!({"ack": {"request": true}}));
    assert!(matches!(worker.receive(binding, &bad, now(ms(0))), Err(Ignored::BadControl(_))));
    assert_eq!((worker.next_output(), worker.phase()), (None, Phase::Open));
}

#[test]
fn settings_of_any_size_are_lived_with() {
    for time in [std::time::Duration::ZERO, std::time::Duration::MAX] {
        let mut config = worker_config();
        (config.heartbeat_interval, config.heartbeat_jitter, config.accept_timeout) = (time, time, time);
        (config.reconnect.base, config.reconnect.max, config.reconnect.jitter) = (time, time, f64::NAN);
        (config.link.resend.base, config.link.resend.max, config.link.resend.attempts) = (time, time, u32::MAX);
        (config.link.hole_patience, config.link.ack_repeats, config.link.window_frames) = (time, vec![time], 0);
        let (mut worker, binding) = open_worker(config);
        worker.send(message(1), now(ms(0))).unwrap();
        for number in [1, 2] {
            let more = json!({"session_seq": number, "ack": {"request": true}});
            let _ = worker.receive(binding, &from_scheduler("biz.x", "x", json!({}), more), now(ms(0)));
        }
        worker.tick(now(ms(1)));
        worker.finish(time, now(ms(1)));
        worker.disconnected(binding, None, "gone", now(ms(1)));
        drain(|| worker.next_output());
    }
}

#[test]
fn an_update_whose_acknowledgement_never_came_is_said_again_in_the_resumed_session() {
    let (mut worker, binding) = session_with_a_longshore();
    let mut register = worker_config().register;
    register.capabilities.concurrency.max_parallel = 9;
    worker.update(register, now(ms(0))).unwrap();
    assert_eq!(kinds(&drain(|| worker.next_output())), ["control.register"]);
    worker.disconnected(binding, None, "gone", now(ms(1)));
    let resumed = resumed(&mut worker);
    let update = resumed.iter().find(|frame| frame.kind == "control.register").expect("it is said again");
    assert_eq!(update.payload["capabilities"]["concurrency"]["max_parallel"], 9);
}

#[test]
fn an_acknowledged_update_is_not_said_again() {
    let (mut worker, binding) = session_with_a_longshore();
    worker.update(worker_config().register, now(ms(0))).unwrap();
    let update = frames(&drain(|| worker.next_output())).remove(0);
    worker.receive(binding, &ack_of(&update.id), now(ms(0))).unwrap();
    worker.disconnected(binding, None, "gone", now(ms(1)));
    assert!(resumed(&mut worker).iter().all(|frame| frame.kind != "control.register"));
}

#[test]
fn an_older_update_is_never_sent_after_a_newer_one() {
    let (mut worker, binding) = default_worker();
    let mut register = worker_config().register;
    for n in [2, 3] {
        register.capabilities.concurrency.max_parallel = n;
        worker.update(register.clone(), now(ms(0))).unwrap();
    }
    let said = frames(&drain(|| worker.next_output()));
    assert_eq!(said.len(), 2);
    worker.tick(now(ms(300)));
    let again = frames(&drain(|| worker.next_output()));
    assert_eq!(again.iter().map(|frame| &frame.id).collect::<Vec<_>>(), [&said[1].id]);
    // The late word about the older one does not stop the newer one.
    worker.receive(binding, &ack_of(&said[0].id), now(ms(301))).unwrap();
    worker.tick(now(ms(800)));
    assert_eq!(frames(&drain(|| worker.next_output())).len(), 1);
}

/// An open session with a scheduler that has said that it is a Longshore, so that it is resumed.
fn session_with_a_longshore() -> (Worker, Binding) {
    let (mut worker, binding) = default_worker();
    worker
        .receive(
            binding,
            &from_scheduler(longshore_session::HELLO, "hello", json!({"version": 1}), json!({"ack": {"request": true}})),
            now(ms(0)),
        )
        .unwrap();
    drain(|| worker.next_output());
    (worker, binding)
}

/// What a worker says in the session that it resumes.
fn resumed(worker: &mut Worker) -> Vec<Envelope> {
    drain(|| worker.next_output());
    let binding = worker.connected(now(ms(2)));
    let resume = frames(&drain(|| worker.next_output())).remove(0);
    assert_eq!(resume.kind, "control.resume");
    worker.receive(binding, &ack_of(&resume.id), now(ms(2))).unwrap();
    worker.receive(binding, &accept("s-1", true), now(ms(2))).unwrap();
    frames(&drain(|| worker.next_output()))
}
