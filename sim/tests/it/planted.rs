//! Every planted bug is found.

use longshore_sim::{Bug, Options, run};

/// Seeds that are tried for one bug.
const SEEDS: u64 = 1000;

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        let found = (0..SEEDS).find_map(|seed| {
            let report = run(Options { seed, bug: Some(bug), is_traced: false });
            let is_its = |promise: &str| bug.breaks().iter().any(|broken| promise.starts_with(broken));
            report.violations.into_iter().find(|violation| is_its(violation.promise)).map(|violation| (seed, violation))
        });
        match found {
            Some((seed, violation)) => println!("{bug:?}: seed {seed}, {violation}"),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
