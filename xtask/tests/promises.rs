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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package lies one level below the workspace");
    let table = std::fs::read_to_string(root.join(document)).expect("the table is there");
    let mut functions = BTreeSet::new();
    for dir in ["bench", "chaos", "crates", "sim", "xtask"] {
        collect(&root.join(dir), &mut functions);
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
            assert!(functions.contains(name), "{document} names the test `{name}`, which does not exist: {row}");
            n_rows += 1;
        }
        assert!(tests.contains('`') || tests.contains("later") || tests.trim() == "tests", "neither a test nor `later`: {row}");
    }
    assert!(n_rows > 50, "{document}: only {n_rows} names were read: has the table another form?");
}

/// The names of all functions below a directory.
fn collect(dir: &Path, functions: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).expect("a directory of the workspace can be read") {
        let path = entry.expect("so can its entries").path();
        if path.is_dir() {
            collect(&path, functions);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("sources are text");
            let names = text
                .lines()
                .filter_map(|line| line.trim_start().trim_start_matches("pub ").trim_start_matches("async ").strip_prefix("fn "));
            functions.extend(names.map(|rest| rest.split(['(', '<']).next().unwrap_or_default().to_owned()));
        }
    }
}
