//! Two ends over a hostile link: everything arrives, once and in order, whatever the link does (INV-51).

use std::time::Duration;

use longshore_session::Overflow;

use crate::world::{Faults, World, gateway_config, worker_config};

const HOUR: Duration = Duration::from_secs(3600);

/// `PAIR_SEEDS` tries more; a failure names its seed.
fn seeds(usual: u64) -> u64 {
    std::env::var("PAIR_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

fn check(name: &str, n_seeds: u64, faults: Faults) {
    for seed in 0..seeds(n_seeds) {
        let mut world = World::new(seed, faults, worker_config(), gateway_config());
        world.say(12, 12);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run(HOUR)));
        assert!(result.is_ok(), "{name}, seed {seed}: {world:?}");
        assert_eq!(world.acknowledged, [12, 12], "{name}, seed {seed}");
    }
}

#[test]
fn a_good_link_delivers_everything_over_one_session() {
    let mut world = World::new(1, Faults::default(), worker_config(), gateway_config());
    world.say(300, 300);
    world.run(HOUR);
    assert_eq!(world.n_opened, [1, 1]);
}

#[test]
fn frames_that_are_lost_are_sent_again() {
    check("loss", 400, Faults { lose: 100, ..Faults::default() });
}

#[test]
fn frames_that_come_twice_or_out_of_order_are_passed_on_once_and_in_order() {
    check("repeat and reorder", 400, Faults { repeat: 300, reorder: 300, ..Faults::default() });
}

#[test]
fn truncated_frames_cost_a_connection_at_most() {
    check("truncation", 300, Faults { truncate: 50, ..Faults::default() });
}

#[test]
fn cuts_lose_nothing_and_double_nothing() {
    check("cuts", 400, Faults { cut: 50, ..Faults::default() });
}

#[test]
fn new_sessions_lose_nothing_and_double_nothing() {
    check("new sessions", 400, Faults { cut: 30, forget: 50, ..Faults::default() });
}

#[test]
fn everything_at_once_loses_nothing_and_doubles_nothing() {
    let faults = Faults { lose: 50, repeat: 50, reorder: 100, truncate: 10, cut: 15, forget: 15 };
    check("everything", 600, faults);
}

#[test]
fn small_windows_and_queues_only_make_it_slower() {
    let faults = Faults { lose: 30, repeat: 50, reorder: 100, cut: 10, forget: 10, ..Faults::default() };
    for seed in 0..seeds(200) {
        let (mut worker, mut gateway) = (worker_config(), gateway_config());
        for link in [&mut worker.link, &mut gateway.link] {
            link.window_frames = 1 + seed % 5;
            link.app_frames_max = 1 + usize::try_from(seed % 3).unwrap();
            link.app_overflow = Overflow::Block;
            link.outbox_frames_max = 4;
        }
        let mut world = World::new(seed, faults, worker, gateway);
        world.say(10, 10);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.run(HOUR)));
        assert!(result.is_ok(), "seed {seed}: {world:?}");
    }
}

#[test]
fn one_seed_gives_one_history() {
    let faults = Faults { lose: 50, repeat: 50, reorder: 100, truncate: 10, cut: 15, forget: 15 };
    let history = |seed| {
        let mut world = World::new(seed, faults, worker_config(), gateway_config());
        world.keep_transcript();
        world.say(12, 12);
        world.run(HOUR);
        world.transcript
    };
    for seed in 0..5 {
        assert_eq!(history(seed), history(seed), "seed {seed}");
    }
}
