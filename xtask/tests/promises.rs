//! Holds `docs/promises.md`, `docs/settings.md` and `docs/astraflow-worker.md` true: every test they name exists, under a heading of its own.

use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn every_test_that_a_promise_rests_on_exists() {
    check("docs/promises.md");
}

#[test]
fn every_test_that_a_setting_rests_on_exists() {
    check("docs/settings.md");
}

#[test]
fn every_test_that_the_guide_for_workers_rests_on_exists() {
    check("docs/astraflow-worker.md");
}

/// The last cell of each row of its tables names tests.
fn check(document: &str) {
    let root = root();
    let table = std::fs::read_to_string(root.join(document)).expect("the table is there");
    let mut tests_of_ours = BTreeSet::new();
    for dir in ["bench", "chaos", "crates", "sim", "xtask"] {
        collect(&root.join(dir), &mut tests_of_ours);
    }
    let mut n_rows = 0;
    // A table without its head is none for whoever reads it.
    let mut before = "";
    for line in table.lines() {
        assert!(!line.starts_with("| ---") || before.starts_with("| "), "{document}: a table lacks its head");
        assert!(!line.starts_with("## ") || before.is_empty(), "{document}: {line} follows without a gap");
        before = line;
    }
    for row in table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---")) {
        // The last cell names the tests; names in the other cells are the system's.
        let tests = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
        for name in tests.split('`').skip(1).step_by(2) {
            assert!(tests_of_ours.contains(name), "{document} names the test `{name}`, which is none that runs: {row}");
            n_rows += 1;
        }
        assert!(tests.contains('`') || tests.contains("later") || tests.trim() == "tests", "neither a test nor `later`: {row}");
    }
    assert!(n_rows > 50, "{document}: only {n_rows} names were read: has the table another form?");
}

/// The invariants that the job system has to keep, by their numbers in the reliability notes.
#[test]
fn every_invariant_of_the_job_system_has_its_row() {
    let table = std::fs::read_to_string(root().join("docs/promises.md")).expect("the table is there");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    for number in (1..=38).chain([46, 49, 52, 57, 58]) {
        let name = format!("INV-{number:02}");
        assert!(rows.iter().any(|row| row.contains(&name)), "docs/promises.md has no row for {name}");
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package lies one level below the workspace")
}

/// The names of all tests below a directory that run unless they are asked not to: functions, and those of the stores' conformance suite.
fn collect(dir: &Path, tests: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("a directory of the workspace can be read") {
        let path = entry.expect("so can its entries").path();
        if path.is_dir() {
            collect(&path, tests);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("sources are text");
            tests.extend(marked(&text));
            let suites = text.split("conformance!(").skip(1).filter_map(|rest| rest.split_once(')'));
            let names = suites.flat_map(|(names, _)| names.split([',', ':', ' ', '\n']));
            tests.extend(names.filter(|name| !name.is_empty()).map(str::to_owned));
        }
    }
}

/// Functions that are marked as tests, and not as left out.
fn marked(text: &str) -> Vec<String> {
    let (mut is_test, mut names) = (false, Vec::new());
    for line in text.lines().map(str::trim_start) {
        let function = line.trim_start_matches("pub ").trim_start_matches("async ").strip_prefix("fn ");
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if line.starts_with("#[ignore") {
            is_test = false;
        } else if let Some(rest) = function {
            if is_test {
                names.push(rest.split(['(', '<']).next().unwrap_or_default().to_owned());
            }
            is_test = false;
        }
    }
    names
}
