//! Whatever comes, the codec answers; and what it writes it reads.

use longshore_session::codec::{DecodeError, EncodeError, NAME_BYTES_MAX, PAYLOAD_DEPTH_MAX, decode, encode};
use longshore_session::control::Control;
use longshore_session::{AckMark, Envelope, Greeting, Payload, Role, Sender};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::world::gateway_config;

const MAX: usize = 1 << 20;

const GOOD: &str =
    r#"{"type":"biz.x","id":"1","ts":"2025-12-24T10:00:00Z","tenant":"t","sender":{"role":"worker","id":"w"},"payload":{"a":[1,"NaN"]}}"#;

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        // Halves are written exactly; how far others are is a matter of the JSON library.
        any::<i32>().prop_map(|n| Value::from(f64::from(n) / 2.0)),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            btree_map(".{0,8}", inner, 0..6).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn envelope() -> impl Strategy<Value = Envelope> {
    let payload = btree_map(".{0,8}", value(), 0..6).prop_map(|fields| fields.into_iter().collect::<Payload>());
    let ack = proptest::option::of((proptest::option::of(".{0,9}"), proptest::option::of(any::<bool>())));
    let names = (".{1,20}", ".{1,20}", ".{1,9}", ".{1,9}", any::<bool>());
    let numbers = (0..250_000_000_000_000_000_i64, proptest::option::of(any::<u64>()), proptest::option::of(any::<u64>()));
    let rest = (proptest::option::of(".{0,9}"), ack, proptest::option::of(vec(".{1,9}", 0..3)));
    (payload, names, numbers, rest).prop_map(
        |(payload, (kind, id, tenant, sender, is_worker), (ts, seq, session_seq), (corr, ack, flags))| Envelope {
            kind,
            id,
            ts: jiff::Timestamp::from_microsecond(ts).unwrap(),
            tenant,
            sender: Sender { role: if is_worker { Role::Worker } else { Role::Scheduler }, id: sender },
            payload,
            corr,
            seq,
            session_seq,
            ack: ack.map(|(of, request)| AckMark { of, request }),
            flags,
        },
    )
}

fn try_all(bytes: &[u8]) {
    if let Ok(envelope) = decode(bytes, MAX) {
        let _ = Control::read(&envelope);
        let again = decode(encode(&envelope, usize::MAX).unwrap().as_bytes(), usize::MAX).unwrap();
        assert_eq!(again.id, envelope.id);
    }
    let _ = Greeting::read(bytes, &gateway_config().link);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_written_is_read(envelope in envelope()) {
        let text = encode(&envelope, usize::MAX).unwrap();
        let read = decode(text.as_bytes(), usize::MAX).unwrap();
        prop_assert!(read == envelope, "{text}");
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        try_all(&bytes);
    }

    #[test]
    fn damaged_frames_never_panic(at in 0..GOOD.len(), byte in any::<u8>(), cut in 0..GOOD.len(), more in ".{0,12}") {
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes[at] = byte;
        try_all(&bytes);
        try_all(&bytes[..cut]);
        let text = format!("{}{more}{}", &GOOD[..at], &GOOD[at..]);
        try_all(text.as_bytes());
    }

    #[test]
    fn control_frames_with_any_payload_never_panic(kind in prop_oneof![
        Just("control.handshake"), Just("control.register"), Just("control.resume"), Just("control.session.accept"), Just("control.ack"),
        Just("control.heartbeat"), Just("control.reset"), Just("control.drain"), Just("control.other"),
    ], envelope in envelope()) {
        let _ = Control::read(&Envelope { kind: kind.to_owned(), ..envelope });
    }
}

#[test]
fn pythons_odd_numbers_are_read_as_null_and_words_in_strings_stay() {
    let text = GOOD.replace(r#"[1,"NaN"]"#, r#"[NaN,-Infinity,Infinity,"NaN \" Infinity",-1]"#);
    let envelope = decode(text.as_bytes(), MAX).unwrap();
    assert_eq!(envelope.payload["a"], json!([null, null, null, "NaN \" Infinity", -1]));
    for bad in ["NaNa", "-NaN", "Infinit", "--Infinity", "nan"] {
        assert!(decode(GOOD.replace(r#""NaN""#, bad).as_bytes(), MAX).is_err(), "{bad}");
    }
}

#[test]
fn size_and_depth_are_bounded_both_ways() {
    assert!(matches!(decode(GOOD.as_bytes(), GOOD.len() - 1), Err(DecodeError::TooLarge { .. })));
    let envelope = decode(GOOD.as_bytes(), GOOD.len()).unwrap();
    let text = encode(&envelope, MAX).unwrap();
    assert!(encode(&envelope, text.len()).is_ok());
    assert!(matches!(encode(&envelope, text.len() - 1), Err(EncodeError::TooLarge { .. })));
    let nested = |depth: usize| GOOD.replace(r#"[1,"NaN"]"#, &format!("{}{}", "[".repeat(depth), "]".repeat(depth)));
    let deepest = decode(nested(PAYLOAD_DEPTH_MAX - 1).as_bytes(), MAX).unwrap();
    assert!(encode(&deepest, MAX).is_ok());
    assert!(matches!(decode(nested(PAYLOAD_DEPTH_MAX).as_bytes(), MAX), Err(DecodeError::TooDeep)));
    assert!(decode(nested(100_000).as_bytes(), MAX).is_err());
    let deeper = Envelope { payload: Payload::from_iter([("a".to_owned(), Value::Object(deepest.payload))]), ..envelope };
    assert!(matches!(encode(&deeper, MAX), Err(EncodeError::TooDeep)));
}

#[test]
fn what_takes_far_more_memory_than_its_text_is_refused_both_ways() {
    const FRAME_MAX: usize = 16 << 20;
    let frame = |piece: &str, n_pieces: usize| GOOD.replace(r#"[1,"NaN"]"#, &format!("[{}0]", piece.repeat(n_pieces)));
    // Each stands for three hundred mebibytes of memory.
    for (piece, n_pieces) in [(r#"{"":0},"#, 450_000), ("[0],", 1_600_000)] {
        let bomb = frame(piece, n_pieces);
        assert!(bomb.len() < FRAME_MAX / 2 && matches!(decode(bomb.as_bytes(), FRAME_MAX), Err(DecodeError::TooHeavy { .. })), "{piece}");
        assert!(decode(frame(piece, n_pieces / 50).as_bytes(), FRAME_MAX).is_ok(), "{piece}");
        // The same in a string is a text.
        let text = GOOD.replace("NaN", &piece.repeat(n_pieces).replace('"', "\\\""));
        assert!(decode(text.as_bytes(), FRAME_MAX).is_ok(), "{piece}");
    }
    let rows = Value::Array(vec![json!({"": 0}); 450_000]);
    let envelope = decode(GOOD.as_bytes(), MAX).unwrap();
    let heavy = Envelope { payload: Payload::from_iter([("rows".to_owned(), rows)]), ..envelope };
    assert!(matches!(encode(&heavy, FRAME_MAX), Err(EncodeError::TooHeavy { .. })));
}

#[test]
fn a_list_is_never_taken_for_an_object() {
    let list = r#"["biz.x","1","2025-12-24T10:00:00Z","t",{"role":"worker","id":"w"},{}]"#;
    assert!(matches!(decode(list.as_bytes(), MAX), Err(DecodeError::NoObject)));
    let sender = GOOD.replace(r#"{"role":"worker","id":"w"}"#, r#"["worker","w"]"#);
    assert!(decode(sender.as_bytes(), MAX).is_err());
    let ack = GOOD.replace(r#""tenant""#, r#""ack":["d-1",true],"tenant""#);
    assert!(decode(ack.as_bytes(), MAX).is_err());
    assert!(decode(ack.replace(r#"["d-1",true]"#, r#"{"for":"d-1"}"#).as_bytes(), MAX).is_ok());
    let control = |kind: &str, payload: Value| {
        let envelope = decode(GOOD.as_bytes(), MAX).unwrap();
        let payload = payload.as_object().unwrap().clone();
        Control::read(&Envelope { kind: kind.to_owned(), payload, ..envelope })
    };
    let (auth, worker) = (json!({"mode": "token", "token": "t"}), json!({"worker_name": "w", "version": "1", "hostname": "h"}));
    assert!(control("control.handshake", json!({"protocol": 1, "auth": auth, "worker": worker})).is_ok());
    assert!(control("control.handshake", json!({"protocol": 1, "auth": ["token", "t", null], "worker": worker})).is_err());
    assert!(control("control.handshake", json!({"protocol": 1, "auth": auth, "worker": ["w", null, "1", "h"]})).is_err());
    let register = |concurrency: Value, packages: Value| json!({"capabilities": {"concurrency": concurrency, "runtimes": ["python"], "features": []}, "packages": packages});
    let package = json!([{"name": "p", "version": "1", "status": "installed"}]);
    assert!(control("control.register", register(json!({"max_parallel": 1}), package.clone())).is_ok());
    assert!(control("control.register", register(json!([1, null]), package)).is_err());
    assert!(control("control.register", register(json!({"max_parallel": 1}), json!([["p", "1", "installed"]]))).is_err());
    assert!(control("control.heartbeat", json!({"healthy": true, "metrics": {"inflight": 0}, "packages": [true]})).is_err());
}

#[test]
fn names_are_bounded_apart_from_the_frame() {
    let envelope = decode(GOOD.as_bytes(), MAX).unwrap();
    let name = |n_bytes: usize| "x".repeat(n_bytes);
    let with = |field: &str, n_bytes: usize| {
        let mut envelope = envelope.clone();
        match field {
            "type" => envelope.kind = name(n_bytes),
            "id" => envelope.id = name(n_bytes),
            "tenant" => envelope.tenant = name(n_bytes),
            "sender.id" => envelope.sender.id = name(n_bytes),
            "corr" => envelope.corr = Some(name(n_bytes)),
            "ack.for" => envelope.ack = Some(AckMark { of: Some(name(n_bytes)), request: None }),
            _ => envelope.flags = Some(vec![name(n_bytes)]),
        }
        envelope
    };
    for field in ["type", "id", "tenant", "sender.id", "corr", "ack.for", "flags"] {
        let text = encode(&with(field, NAME_BYTES_MAX), MAX).unwrap();
        assert!(decode(text.as_bytes(), MAX).is_ok(), "{field}");
        let large = with(field, NAME_BYTES_MAX + 1);
        assert!(matches!(encode(&large, MAX), Err(EncodeError::TooLong(named)) if named == field), "{field}");
        let text = serde_json::to_string(&large).unwrap();
        assert!(matches!(decode(text.as_bytes(), MAX), Err(DecodeError::TooLong(named)) if named == field), "{field}");
    }
    let many = Envelope { flags: Some(vec!["x".to_owned(); 65]), ..envelope };
    assert!(matches!(encode(&many, MAX), Err(EncodeError::TooLong("flags"))));
}
