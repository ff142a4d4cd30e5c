//! A connection that breaks at any byte (A113).
//!
//! A WebSocket hands out whole frames only, so a cut at any byte of one frame has one effect: the frames before it arrive and it does not. What is left to show is
//! that no beginning of a frame is a frame, byte by byte, and that a cut at each frame loses nothing.

use std::time::Duration;

use longshore_session::codec::decode;

use crate::world::{Faults, World, gateway_config, worker_config};

const HOUR: Duration = Duration::from_secs(3600);

fn exchange(seed: u64, cut_at: Option<usize>, faults: Faults) -> World {
    let mut world = World::new(seed, faults, worker_config(), gateway_config());
    world.cut_at = cut_at;
    world.say(100, 100);
    world
}

#[test]
fn no_beginning_of_a_frame_is_a_frame() {
    let mut world = exchange(1, None, Faults::default());
    world.keep_transcript();
    world.run(HOUR);
    assert!(world.transcript.len() > 200);
    let mut n_bytes = 0;
    for frame in &world.transcript {
        assert!(decode(frame, frame.len()).is_ok());
        for end in 0..frame.len() {
            assert!(decode(&frame[..end], frame.len()).is_err(), "{}", String::from_utf8_lossy(&frame[..end]));
        }
        n_bytes += frame.len();
    }
    assert!(n_bytes > 50_000, "{n_bytes}");
}

#[test]
fn a_cut_at_each_frame_of_an_exchange_of_200_loses_nothing() {
    let mut world = exchange(1, None, Faults::default());
    world.run(HOUR);
    for cut_at in 0..world.n_frames {
        let mut world = exchange(1, Some(cut_at), Faults::default());
        world.run(HOUR);
        assert_eq!(world.acknowledged, [100, 100], "cut at {cut_at}");
    }
}

#[test]
fn a_cut_on_a_link_that_misbehaves_besides_loses_nothing() {
    let none = Faults::default();
    let kinds = [
        Faults { lose: 50, ..none },
        Faults { repeat: 100, ..none },
        Faults { reorder: 100, ..none },
        Faults { truncate: 5, ..none },
        Faults { cut: 5, ..none },
        Faults { forget: 10, ..none },
    ];
    for (seed, faults) in (1..).zip(kinds) {
        for cut_at in (0..400).step_by(13) {
            let mut world = exchange(seed, Some(cut_at), faults);
            world.run(HOUR);
            assert_eq!(world.acknowledged, [100, 100], "{faults:?}, cut at {cut_at}");
        }
    }
}
