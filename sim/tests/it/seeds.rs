//! Many seeds without a broken promise; the same seed twice with the same trace; one seed, to look at.
//!
//! `SIM_SEED=7` plays one seed and prints its trace; `SIM_FIRST` and `SIM_SEEDS` play others than the usual ones.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use longshore_sim::{Counts, Options, compare_clocks, run};

/// How many seeds are played, unless `SIM_SEEDS` says otherwise.
const SEEDS: u64 = 2000;
/// Seeds that are played twice.
const TWICE: u64 = 50;
/// Seeds that are played with right and with wrong clocks.
const COMPARED: u64 = 20;
/// Broken promises that are shown of one seed.
const SHOWN: usize = 5;

#[test]
fn no_seed_breaks_a_promise() {
    if let Some(seed) = number("SIM_SEED") {
        let report = run(Options { seed, bug: None, is_traced: true });
        println!("{}", report.trace);
        report.violations.iter().for_each(|violation| println!("{violation}"));
        println!("{:?}", report.counts);
        assert!(report.violations.is_empty(), "seed {seed} broke {} promises", report.violations.len());
        return;
    }
    let first = number("SIM_FIRST").unwrap_or(0);
    let last = first + number("SIM_SEEDS").unwrap_or(SEEDS);
    let (next, failed, total) = (AtomicU64::new(first), Mutex::new(Vec::new()), Mutex::new(Counts::default()));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < last) {
                    let report = run(Options { seed, bug: None, is_traced: false });
                    let mut total = total.lock().unwrap();
                    *total = sum(*total, report.counts);
                    if !report.violations.is_empty() {
                        failed.lock().unwrap().push((seed, report.violations));
                    }
                }
            });
        }
    });
    println!("seeds {first} to {}, in {:.1?}: {:?}", last - 1, began.elapsed(), total.into_inner().unwrap());
    let mut failed = failed.into_inner().unwrap();
    failed.sort_by_key(|(seed, _)| *seed);
    for (seed, violations) in &failed {
        println!("seed {seed} broke {} promises: SIM_SEED={seed} cargo test -p longshore-sim no_seed -- --nocapture", violations.len());
        violations.iter().take(SHOWN).for_each(|violation| println!("    {violation}"));
    }
    if let Some((seed, _)) = failed.first() {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("seed-{seed}.trace"));
        std::fs::write(&path, run(Options { seed: *seed, bug: None, is_traced: true }).trace).unwrap();
        println!("the trace of seed {seed} is in {}", path.display());
    }
    assert!(failed.is_empty(), "{} seeds broke promises", failed.len());
}

#[test]
fn the_same_seed_twice_is_the_same_to_the_last_letter() {
    for seed in 0..TWICE {
        let [one, other] = [(); 2].map(|()| run(Options { seed, bug: None, is_traced: true }));
        let differing = one.trace.lines().zip(other.trace.lines()).find(|(one, other)| one != other);
        assert_eq!(differing, None, "seed {seed}");
        assert_eq!((one.trace.len(), one.counts), (other.trace.len(), other.counts), "seed {seed}");
        assert!(one.trace.lines().count() > 50, "seed {seed} hardly did anything:\n{}", one.trace);
    }
}

#[test]
fn wrong_clocks_of_hosts_change_nothing_for_jobs_that_ask_for_no_time() {
    for seed in 0..COMPARED {
        let differing = compare_clocks(Options { seed, bug: None, is_traced: true });
        assert_eq!(differing, None, "seed {seed}");
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("it is a number"))
}

fn sum(one: Counts, other: Counts) -> Counts {
    Counts {
        jobs: one.jobs + other.jobs,
        runs: one.runs + other.runs,
        killed_runs: one.killed_runs + other.killed_runs,
        lost: one.lost + other.lost,
        dead_letters: one.dead_letters + other.dead_letters,
        slowest: one.slowest.max(other.slowest),
        turns: one.turns + other.turns,
        late_shares: one.late_shares + other.late_shares,
        told: one.told + other.told,
        simulated: one.simulated + other.simulated,
    }
}
