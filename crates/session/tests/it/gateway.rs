//! The gateway's end, state by state, and who comes in (A102, A106, A107).

use longshore_session::control::Drain;
use longshore_session::{Gateway, Greeting, Ignored, Output, Phase, Refusal, Socket, code};
use serde_json::json;

use crate::ends::{drain, frames, from_worker, greeting, handshake, is_unexpected, kinds, open_gateway, register, resume};
use crate::world::{admission, gateway_config, message, ms, now};

#[test]
fn the_first_connection_goes_as_the_existing_worker_expects() {
    let mut gateway = Gateway::new(gateway_config(), 9, now(ms(0)));
    gateway.send(message(1), now(ms(0))).unwrap();
    let binding = gateway.greet(&greeting(&handshake("h-1")), admission("s-1"), Socket::New, now(ms(0))).unwrap();
    let ack = frames(&drain(|| gateway.next_output())).remove(0);
    assert_eq!((ack.kind.as_str(), &ack.payload["for"]), ("control.ack", &json!("h-1")));
    gateway.receive(binding, &register("r-1", json!([])), now(ms(1))).unwrap();
    let outputs = drain(|| gateway.next_output());
    let sent = frames(&outputs);
    assert_eq!((sent[0].kind.as_str(), sent[1].kind.as_str(), sent[2].session_seq), ("control.ack", "control.session.accept", Some(1)));
    assert_eq!((&sent[1].payload["session_id"], &sent[1].payload["resumed"]), (&json!("s-1"), &json!(false)));
    assert_eq!((sent[1].ack.clone(), sent[1].sender.id.as_str()), (None, "scheduler-control"));
    assert!(outputs.contains(&Output::Opened { resumed: false }));
    assert!(outputs.iter().any(|output| matches!(output, Output::Registered(_))));
}

#[test]
fn a_longshore_worker_is_told_whom_it_talks_to_before_anything_is_numbered() {
    let mut gateway = Gateway::new(gateway_config(), 9, now(ms(0)));
    gateway.send(message(1), now(ms(0))).unwrap();
    let binding = gateway.greet(&greeting(&handshake("h-1")), admission("s-1"), Socket::New, now(ms(0))).unwrap();
    gateway.receive(binding, &register("r-1", json!(["longshore.session.1"])), now(ms(1))).unwrap();
    let sent = frames(&drain(|| gateway.next_output()));
    let hello = sent.last().unwrap();
    assert_eq!((hello.kind.as_str(), hello.session_seq, gateway.stats().under_way), ("ext.longshore.hello", None, 0));
    gateway.receive(binding, &from_worker("control.ack", "a", json!({}), json!({"ack": {"for": hello.id}})), now(ms(2))).unwrap();
    assert_eq!(frames(&drain(|| gateway.next_output()))[0].session_seq, Some(1));
}

#[test]
fn who_does_not_greet_is_refused_by_name() {
    let config = gateway_config().link;
    for (bytes, expected) in [
        (from_worker("biz.exec.result", "r", json!({}), json!({})), code::HANDSHAKE_REQUIRED),
        (register("r", json!([])), code::HANDSHAKE_REQUIRED),
        (from_worker("control.unheard-of", "r", json!({}), json!({})), code::HANDSHAKE_REQUIRED),
        (from_worker("control.handshake", "r", json!({}), json!({})), code::PROTOCOL),
        (b"{".to_vec(), code::PROTOCOL),
        (vec![b'x'; config.frame_bytes_in_max + 1], code::PROTOCOL),
        (
            crate::ends::from_scheduler("control.resume", "r", json!({"session_id": "s", "session_token": "t"}), json!({})),
            code::HANDSHAKE_REQUIRED,
        ),
    ] {
        let refusal = Greeting::read(&bytes, &config).unwrap_err();
        assert_eq!(refusal.code, expected);
        let text = refusal.frame("default", "scheduler-control", now(ms(0)), 5);
        assert!(text.as_str().contains("control.reset"), "{}", text.as_str());
    }
}

#[test]
fn a_refused_resume_leaves_the_live_connection_alone() {
    let (mut gateway, binding) = open_gateway();
    let mut other = greeting(&resume("x", "s-1"));
    other.instance = "w-2".to_owned();
    let mut foreign = greeting(&resume("x", "s-1"));
    foreign.tenant = "other".to_owned();
    for (greeting, name, expected) in [
        (greeting(&resume("x", "s-0")), "s-0", code::SESSION_MISMATCH),
        (greeting(&resume("x", "s-1")), "s-0", code::SESSION_MISMATCH),
        (other, "s-1", code::SESSION_MISMATCH),
        (foreign, "s-1", code::TENANT_MISMATCH),
    ] {
        assert_eq!(gateway.greet(&greeting, admission(name), Socket::New, now(ms(5))).unwrap_err().code, expected);
        assert_eq!((gateway.next_output(), gateway.phase()), (None, Phase::Open));
    }
    gateway
        .receive(
            binding,
            &from_worker("control.heartbeat", "b", json!({"healthy": true, "metrics": {"inflight": 0}}), json!({})),
            now(ms(6)),
        )
        .unwrap();
    let mut fresh = Gateway::new(gateway_config(), 9, now(ms(0)));
    let unknown = fresh.greet(&greeting(&resume("x", "s-1")), admission("s-1"), Socket::New, now(ms(0))).unwrap_err();
    assert_eq!(unknown.code, code::SESSION_UNKNOWN);
    fresh.greet(&greeting(&handshake("h-1")), admission("s-1"), Socket::New, now(ms(0))).unwrap();
    let early = fresh.greet(&greeting(&resume("x", "s-1")), admission("s-1"), Socket::New, now(ms(0))).unwrap_err();
    assert_eq!(early.code, code::NOT_REGISTERED);
}

#[test]
fn a_newer_connection_takes_the_session_over_and_the_older_one_is_stale() {
    let (mut gateway, mut old) = open_gateway();
    for n in 0..100 {
        let bytes = if n % 2 == 0 { resume(&format!("g-{n}"), "s-1") } else { handshake(&format!("g-{n}")) };
        let new = gateway.greet(&greeting(&bytes), admission("s-1"), Socket::New, now(ms(10))).unwrap();
        let closed = Output::Close { binding: old, code: 1011, reason: "superseded session".to_owned() };
        assert_eq!(drain(|| gateway.next_output())[0], closed);
        let result = gateway.receive(old, &from_worker("biz.x", "x", json!({}), json!({"session_seq": 1})), now(ms(11)));
        assert!(matches!(result, Err(Ignored::StaleBinding)));
        gateway.disconnected(old, "late", now(ms(11)));
        if n % 2 == 1 {
            gateway.receive(new, &register(&format!("r-{n}"), json!([])), now(ms(12))).unwrap();
        }
        assert_eq!(gateway.phase(), Phase::Open);
        drain(|| gateway.next_output());
        old = new;
    }
}

#[test]
fn every_frame_is_answered_in_every_state() {
    let all = [
        (
            "control.handshake",
            json!({"protocol": 1, "auth": {"mode": "token"}, "worker": {"worker_name": "w", "version": "1", "hostname": "h"}}),
        ),
        ("control.resume", json!({"session_id": "s", "session_token": "t"})),
        ("control.register", json!({"capabilities": {"concurrency": {"max_parallel": 1}, "runtimes": ["x"], "features": []}})),
        ("control.ack", json!({})),
        ("control.heartbeat", json!({"healthy": true, "metrics": {"inflight": 0}})),
        ("control.session.accept", json!({"session_id": "s", "session_token": "t", "worker_instance_id": "w-1"})),
        ("control.reset", json!({"code": "c", "reason": "r"})),
        ("control.drain", json!({})),
        ("control.surprise", json!({})),
        ("biz.exec.result", json!({})),
    ];
    // Unexpected; and what comes of it.
    let table = [
        (
            false,
            [
                (false, "judge"),
                (false, "judge"),
                (false, "open"),
                (false, ""),
                (false, ""),
                (true, "ack"),
                (true, "ack"),
                (true, "ack"),
                (true, "ack"),
                (true, ""),
            ],
        ),
        (
            true,
            [
                (false, "judge"),
                (false, "judge"),
                (false, "update"),
                (false, ""),
                (false, "beat"),
                (true, "ack"),
                (true, "ack"),
                (true, "ack"),
                (true, "ack"),
                (false, "ack"),
            ],
        ),
    ];
    for (is_open, row) in table {
        for ((kind, payload), (is_refused, what)) in all.iter().zip(row) {
            let (mut gateway, mut binding) = open_gateway();
            if !is_open {
                binding = gateway.greet(&greeting(&handshake("h-2")), admission("s-2"), Socket::New, now(ms(0))).unwrap();
                drain(|| gateway.next_output());
            }
            let frame = from_worker(kind, "f", payload.clone(), json!({"ack": {"request": true}}));
            let result = gateway.receive(binding, &frame, now(ms(1)));
            assert_eq!(is_unexpected(&result), is_refused, "{kind}, open: {is_open}: {result:?}");
            let outputs = drain(|| gateway.next_output());
            let expected = match what {
                "judge" => matches!(outputs[..], [Output::Authenticate(_)]),
                "open" => kinds(&outputs) == ["control.ack", "control.session.accept"],
                "update" => matches!(outputs[..], [Output::Transmit { .. }, Output::Registered(_)]),
                "beat" => matches!(outputs[..], [Output::Heartbeat(_)]),
                "ack" => kinds(&outputs) == ["control.ack"],
                _ => outputs.is_empty(),
            };
            assert!(expected, "{kind}, open: {is_open}: {outputs:?}");
        }
    }
}

#[test]
fn repeated_greetings_and_registers_are_answered_again_without_effect() {
    let (mut gateway, binding) = open_gateway();
    assert!(matches!(gateway.receive(binding, &handshake("h-1"), now(ms(1))), Err(Ignored::Known)));
    assert_eq!(kinds(&drain(|| gateway.next_output())), ["control.ack", "control.session.accept"]);
    assert!(matches!(gateway.receive(binding, &register("r-1", json!([])), now(ms(1))), Err(Ignored::Known)));
    assert_eq!(kinds(&drain(|| gateway.next_output())), ["control.ack", "control.session.accept"]);
}

#[test]
fn a_handshake_on_the_same_socket_begins_a_new_session_there() {
    let (mut gateway, binding) = open_gateway();
    gateway.receive(binding, &handshake("h-2"), now(ms(1))).unwrap();
    let Some(Output::Authenticate(again)) = gateway.next_output() else { panic!("it is not handed out") };
    assert_eq!(gateway.greet(&again, admission("s-2"), Socket::Same(binding), now(ms(1))).unwrap(), binding);
    assert_eq!((kinds(&drain(|| gateway.next_output())), gateway.phase()), (vec!["control.ack".to_owned()], Phase::Handshaking));
    gateway.disconnected(binding, "gone", now(ms(2)));
    assert_eq!(gateway.greet(&again, admission("s-2"), Socket::Same(binding), now(ms(2))).unwrap_err().code, code::STALE_BINDING);
}

#[test]
fn frames_that_are_none_or_speak_for_others_end_the_connection() {
    let foreign_tenant = from_worker("biz.x", "x", json!({}), json!({"tenant": "other"}));
    let foreign_sender = from_worker("biz.x", "x", json!({}), json!({"sender": {"role": "worker", "id": "w-2"}}));
    let wrong_role = from_worker("biz.x", "x", json!({}), json!({"sender": {"role": "scheduler", "id": "w-1"}}));
    let bad_control = from_worker("control.heartbeat", "x", json!({}), json!({}));
    for bytes in [b"{}".to_vec(), b"\x00".to_vec(), foreign_tenant, foreign_sender, wrong_role, bad_control] {
        let (mut gateway, binding) = open_gateway();
        assert!(gateway.receive(binding, &bytes, now(ms(1))).is_err());
        assert!(matches!(drain(|| gateway.next_output())[..], [Output::Close { code: 1011, .. }, Output::Detached { .. }]));
        assert_eq!(gateway.phase(), Phase::Detached);
    }
}

#[test]
fn what_an_existing_worker_may_have_is_handed_back_and_not_sent_twice() {
    let (mut gateway, binding) = open_gateway();
    let sent = gateway.send(message(1), now(ms(1))).unwrap();
    drain(|| gateway.next_output());
    gateway.disconnected(binding, "gone", now(ms(2)));
    let waiting = gateway.send(message(2), now(ms(3))).unwrap();
    drain(|| gateway.next_output());
    let binding = gateway.greet(&greeting(&handshake("h-2")), admission("s-2"), Socket::New, now(ms(4))).unwrap();
    assert_eq!(drain(|| gateway.next_output())[0], Output::Uncertain { id: sent });
    gateway.receive(binding, &register("r-2", json!([])), now(ms(5))).unwrap();
    let numbered: Vec<_> = frames(&drain(|| gateway.next_output())).into_iter().filter(|frame| frame.session_seq.is_some()).collect();
    assert_eq!(numbered.iter().map(|frame| (frame.session_seq, frame.id.clone())).collect::<Vec<_>>(), [(Some(1), waiting)]);
}

#[test]
fn what_arrived_behind_a_hole_of_an_existing_worker_is_not_lost_with_its_session() {
    let (mut gateway, binding) = open_gateway();
    for number in [1, 3] {
        let result = from_worker("biz.exec.result", &format!("r{number}"), json!({"n": number}), json!({"session_seq": number}));
        gateway.receive(binding, &result, now(ms(1))).unwrap();
    }
    gateway.greet(&greeting(&handshake("h-2")), admission("s-2"), Socket::New, now(ms(2))).unwrap();
    let heard: Vec<_> =
        std::iter::from_fn(|| gateway.next_delivery(now(ms(3)))).map(|frame| frame.payload["n"].as_u64().unwrap()).collect();
    assert_eq!(heard, [1, 3]);
}

#[test]
fn a_number_that_an_existing_worker_gave_to_nothing_is_skipped_once_it_would_have_been_sent_again() {
    let (mut gateway, binding) = open_gateway();
    for number in [1, 3] {
        let result = from_worker("biz.exec.result", &format!("r{number}"), json!({"n": number}), json!({"session_seq": number}));
        gateway.receive(binding, &result, now(ms(1))).unwrap();
    }
    let heard = |gateway: &mut Gateway| std::iter::from_fn(|| gateway.next_delivery(now(ms(2)))).count();
    assert_eq!(heard(&mut gateway), 1);
    gateway.tick(now(ms(20_000)));
    assert_eq!(heard(&mut gateway), 0);
    gateway.tick(now(ms(20_001)));
    assert!(drain(|| gateway.next_output()).contains(&Output::Skipped { from: 2, to: 2 }));
    assert_eq!((heard(&mut gateway), gateway.stats().received_upto), (1, 3));
}

#[test]
fn silence_a_missing_register_and_a_long_absence_end_what_they_should() {
    let (mut gateway, _) = open_gateway();
    gateway.tick(now(ms(89_999)));
    assert_eq!(gateway.phase(), Phase::Open);
    gateway.tick(now(ms(90_000)));
    assert!(matches!(drain(|| gateway.next_output())[..], [Output::Close { code: 1011, .. }, Output::Detached { .. }]));
    assert_eq!(gateway.next_deadline(), Some(ms(90_000 + 3_600_000)));
    gateway.tick(now(ms(90_000 + 3_600_000)));
    assert_eq!((drain(|| gateway.next_output()), gateway.phase(), gateway.next_deadline()), (vec![Output::Expired], Phase::Over, None));
    let mut gateway = Gateway::new(gateway_config(), 9, now(ms(0)));
    gateway.greet(&greeting(&handshake("h-1")), admission("s-1"), Socket::New, now(ms(0))).unwrap();
    gateway.tick(now(ms(20_000)));
    assert_eq!(gateway.phase(), Phase::Detached);
}

#[test]
fn a_worker_is_asked_to_drain_until_it_says_that_it_heard() {
    let (mut gateway, binding) = open_gateway();
    gateway.drain(Drain { reason: Some("update".to_owned()), deadline_ms: Some(1000) }, now(ms(0)));
    let drain_frame = frames(&drain(|| gateway.next_output())).remove(0);
    assert_eq!((drain_frame.kind.as_str(), drain_frame.wants_ack()), ("control.drain", true));
    gateway.tick(now(ms(200)));
    assert_eq!(kinds(&drain(|| gateway.next_output())), ["control.drain"]);
    gateway.receive(binding, &from_worker("control.ack", "a", json!({}), json!({"ack": {"for": drain_frame.id}})), now(ms(300))).unwrap();
    gateway.tick(now(ms(600)));
    assert_eq!(gateway.next_output(), None);
}

#[test]
fn a_reset_says_why_and_the_session_does_not_go_on() {
    let (mut gateway, binding) = open_gateway();
    gateway.reset(&Refusal::new(code::SESSION_TOKEN, "expired"), now(ms(0)));
    let outputs = drain(|| gateway.next_output());
    assert_eq!(kinds(&outputs), ["control.reset"]);
    assert_eq!(outputs[1], Output::Close { binding, code: 1011, reason: "expired".to_owned() });
    let refused = gateway.greet(&greeting(&resume("x", "s-1")), admission("s-1"), Socket::New, now(ms(1))).unwrap_err();
    assert_eq!(refused.code, code::NOT_REGISTERED);
}
