//! Mutations of known frames, by the thousand with every run of the tests and by the million on request, and what the fuzzer has found its way with:
//!
//! ```text
//! MUTATIONS=100000000 SEED=7 cargo test -p longshore-session --test it -- --ignored mutations_by_the_million
//! cargo xtask fuzz 600
//! ```
//!
//! Frames that are to be read go into `tests/corpus`, from where every run begins; the fuzzer keeps its own in `fuzz/corpus/session`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use longshore_session::Greeting;
use longshore_session::codec::{decode, encode};
use longshore_session::control::Control;

use crate::ends::{default_worker, drain, open_gateway};
use crate::world::{Rng, gateway_config, ms, now};

const MAX: usize = 1 << 20;

/// Pieces that mean something to the codec.
const PIECES: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    ",",
    ":",
    "null",
    "true",
    "NaN",
    "-Infinity",
    "1e999",
    "-1",
    "18446744073709551616",
    "0",
    "\\u0000",
    "\u{fffd}",
    "\"ack\":",
    "\"session_seq\":1",
    "\"type\":\"control.ack\"",
    "\"payload\":{}",
    "[[[[[[[[[[",
    "\\ud800",
];

fn corpus() -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn mutated(rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let pick = |rng: &mut Rng, n: usize| usize::try_from(rng.below(n.max(1) as u64)).unwrap();
    let mut bytes = corpus[pick(rng, corpus.len())].clone();
    for _ in 0..=rng.below(4) {
        let (from, to) = (pick(rng, bytes.len()), pick(rng, bytes.len()));
        let (from, to) = (from.min(to), from.max(to));
        match rng.below(7) {
            0 if !bytes.is_empty() => bytes[from] = rng.next().to_le_bytes()[0],
            1 if !bytes.is_empty() => bytes[from] ^= 1 << rng.below(8),
            2 => drop(bytes.drain(from..to)),
            3 => bytes.truncate(from),
            4 => {
                let piece = PIECES[pick(rng, PIECES.len())].as_bytes();
                bytes.splice(from..from, piece.iter().copied());
            }
            5 => {
                let copy = bytes[from..to].to_vec();
                bytes.splice(from..from, copy);
            }
            _ => {
                let other = &corpus[pick(rng, corpus.len())];
                let cut = pick(rng, other.len());
                bytes.splice(from.., other[cut..].iter().copied());
            }
        }
    }
    bytes
}

/// The codec, both greetings and both ends: none panics, and what is read is written and read alike.
fn try_one(bytes: &[u8]) {
    if let Ok(envelope) = decode(bytes, MAX) {
        let _ = Control::read(&envelope);
        let text = encode(&envelope, usize::MAX).unwrap();
        let again = decode(text.as_bytes(), usize::MAX).unwrap();
        // The JSON library may read the shortest form of a float one bit beside it; once it was written, it stays.
        assert_eq!(
            encode(&again, usize::MAX).unwrap(),
            encode(&decode(encode(&again, usize::MAX).unwrap().as_bytes(), usize::MAX).unwrap(), usize::MAX).unwrap()
        );
        assert_eq!(
            (again.id, again.corr, again.seq, again.session_seq, again.ack),
            (envelope.id, envelope.corr, envelope.seq, envelope.session_seq, envelope.ack)
        );
    }
    let _ = Greeting::read(bytes, &gateway_config().link);
}

fn run(seed: u64, n: u64) {
    let corpus = corpus();
    assert!(corpus.len() >= 10);
    for bytes in &corpus {
        assert!(decode(bytes, MAX).is_ok(), "{}", String::from_utf8_lossy(bytes));
    }
    let mut rng = Rng(seed);
    let ((mut worker, at_worker), (mut gateway, mut at_gateway)) = (default_worker(), open_gateway());
    for round in 0..n {
        let bytes = mutated(&mut rng, &corpus);
        let time = now(ms(round / 100));
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            try_one(&bytes);
            let _ = worker.receive(at_worker, &bytes, time);
            let _ = gateway.receive(at_gateway, &bytes, time);
            drain(|| worker.next_output());
            drain(|| gateway.next_output());
        }));
        assert!(outcome.is_ok(), "seed {seed}, mutation {round}: {}", String::from_utf8_lossy(&bytes));
        if round % 50 == 0 {
            // Nonsense ends connections; the next ones meet open sessions again.
            (worker, gateway) = (default_worker().0, open_gateway().0);
            at_gateway = open_gateway().1;
        }
    }
}

#[test]
fn nothing_that_the_fuzzer_has_kept_does_harm() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/session");
    let mut n_inputs = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let ((mut worker, at_worker), (mut gateway, at_gateway)) = (default_worker(), open_gateway());
        for (line, n) in bytes.split(|byte| *byte == b'\n').zip(1..) {
            try_one(line);
            let _ = worker.receive(at_worker, line, now(ms(n)));
            let _ = gateway.receive(at_gateway, line, now(ms(n)));
            drain(|| worker.next_output());
            drain(|| gateway.next_output());
        }
        n_inputs += 1;
    }
    assert!(n_inputs >= 10, "{n_inputs}");
}

#[test]
fn mutations_of_known_frames_never_panic_and_what_is_read_is_written_alike() {
    run(1, 20_000);
}

#[test]
#[ignore = "as long as it is asked to: MUTATIONS and SEED say so"]
fn mutations_by_the_million() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    run(number("SEED", 1), number("MUTATIONS", 5_000_000));
}
