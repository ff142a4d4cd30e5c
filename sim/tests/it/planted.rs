//! Every planted bug is found. `SIM_BUG=GroupIgnored` looks for one only.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use longshore_sim::{Bug, Options, Violation, compare_clocks, run};

/// Seeds that are tried for one bug.
const SEEDS: u64 = 1000;

#[test]
fn every_planted_bug_is_found() {
    let wanted = std::env::var("SIM_BUG").ok();
    let bugs: Vec<Bug> = Bug::ALL.into_iter().filter(|bug| wanted.as_ref().is_none_or(|name| *name == format!("{bug:?}"))).collect();
    let (next, outcome) = (AtomicUsize::new(0), Mutex::new((Vec::new(), Vec::new())));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match found(*bug) {
                        Some((seed, violation)) => outcome.lock().unwrap().0.push(format!("{bug:?}: seed {seed}, {violation}")),
                        None => outcome.lock().unwrap().1.push(*bug),
                    }
                }
            });
        }
    });
    let (found, missed) = outcome.into_inner().unwrap();
    found.iter().for_each(|line| println!("{line}"));
    assert!(missed.is_empty(), "not found: {missed:?}");
}

fn found(bug: Bug) -> Option<(u64, Violation)> {
    let is_its = |promise: &str| bug.breaks().iter().any(|broken| promise.starts_with(broken));
    let is_of_clocks = is_its("INV-57 wrong clocks of hosts change nothing");
    (0..SEEDS).find_map(|seed| {
        let options = Options { seed, bug: Some(bug), is_traced: false };
        let violations = if is_of_clocks { compare_clocks(options).into_iter().collect() } else { run(options).violations };
        violations.into_iter().find(|violation| is_its(violation.promise)).map(|violation| (seed, violation))
    })
}
