//! Holds the walls of ARCHITECTURE.md: who may use whom, and what nobody may use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Crates of others that must stay on one side of a wall.
const MUST_NOT_USE: &[(&str, &[&str])] = &[
    ("longshore-model", &["tokio", "tokio-util", "axum", "reqwest", "rustix", "tempfile", "uuid", "rand", "getrandom"]),
    ("longshore-session", &["tokio", "tokio-util", "axum", "reqwest", "rustix"]),
    ("longshore-seal", &["tokio", "tokio-util", "axum", "reqwest"]),
    ("longshore-store", &["axum"]),
    ("longshore-exec", &["axum", "reqwest"]),
    ("longshore-agent", &["axum"]),
    ("longshore-client", &["axum"]),
];

/// Who may say `async_nats`. For everybody else that holds in tests too.
const MAY_USE_ASYNC_NATS: &[&str] = &["longshore-store", "longshore-bench"];

struct Package {
    name: String,
    /// Dependencies with their kind: `normal`, `dev` or `build`.
    dependencies: Vec<(String, String)>,
}

impl Package {
    fn uses(&self, kinds: &[&str]) -> BTreeSet<&str> {
        self.dependencies.iter().filter(|(_, kind)| kinds.contains(&kind.as_str())).map(|(name, _)| name.as_str()).collect()
    }
}

/// The table of ARCHITECTURE.md: a crate, and what it may use of ours.
fn may_use() -> BTreeMap<String, BTreeSet<String>> {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the map is there");
    let rows = map.lines().skip_while(|line| !line.starts_with("| crate |")).skip(2).take_while(|line| line.starts_with("| "));
    let row = |row: &str| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, name, _, used, _, _] = cells[..] else { panic!("not four cells: {row}") };
        let used = used.split(", ").filter(|used| *used != "-").map(str::to_owned).collect();
        (name.trim_matches('`').to_owned(), used)
    };
    rows.map(row).collect()
}

/// As the map names it.
fn short(package: &str) -> &str {
    package.strip_prefix("longshore-").unwrap_or(package)
}

#[test]
fn our_crates_use_only_what_the_table_allows() {
    let (table, packages) = (may_use(), packages());
    let names: BTreeSet<&str> = packages.iter().map(|package| short(&package.name)).collect();
    assert_eq!(table.keys().map(String::as_str).collect::<BTreeSet<_>>(), names, "ARCHITECTURE.md has a row for every crate");
    for package in &packages {
        let allowed = &table[short(&package.name)];
        assert!(allowed.iter().all(|name| names.contains(name.as_str())), "{}: {allowed:?}", package.name);
        for used in package.uses(&["normal", "build"]).into_iter().filter(|used| used.starts_with("longshore-")) {
            assert!(allowed.contains(short(used)), "{} must not use {used}: see the table in ARCHITECTURE.md", package.name);
        }
    }
}

#[test]
fn foreign_crates_stay_on_their_side() {
    let table: BTreeMap<_, _> = MUST_NOT_USE.iter().copied().collect();
    for package in packages() {
        for used in package.uses(&["normal", "build"]) {
            let forbidden = table.get(package.name.as_str()).copied().unwrap_or_default();
            assert!(!forbidden.contains(&used), "{} must not use {used}: see the table in ARCHITECTURE.md", package.name);
        }
    }
}

#[test]
fn only_the_store_and_the_bench_talk_to_nats() {
    for package in packages() {
        let uses_it = package.uses(&["normal", "build", "dev"]).contains("async-nats");
        assert!(!uses_it || MAY_USE_ASYNC_NATS.contains(&package.name.as_str()), "{} must not use async-nats", package.name);
    }
}

#[test]
fn no_crate_is_a_drawer() {
    for package in packages() {
        for word in ["common", "util", "utils", "helpers", "shared", "misc"] {
            assert!(!package.name.split('-').any(|part| part == word), "{} names no one thing", package.name);
        }
    }
}

#[test]
fn every_crate_is_held_to_the_workspace_lints() {
    for package in packages() {
        let short = short(&package.name);
        let dir = [Path::new("crates").join(short), short.into()].into_iter().find(|dir| root().join(dir).is_dir());
        let manifest = root().join(dir.unwrap_or_else(|| panic!("{short} lies neither in crates/ nor at the top"))).join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest).unwrap();
        assert!(text.contains("[lints]\nworkspace = true"), "{} does not take the workspace's lints", manifest.display());
    }
}

#[test]
fn banned_crates_are_not_linked() {
    let tree =
        cargo(&["tree", "--workspace", "--edges", "normal,build,dev", "--prefix", "none", "--format", "{p}", "--offline", "--locked"]);
    let linked: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(linked.contains("async-nats"), "the tree is not what it should be:\n{tree}");
    let rules = std::fs::read_to_string(root().join("deny.toml")).expect("the rules are there");
    let banned: Vec<&str> = rules.lines().filter_map(|line| line.trim_start().strip_prefix("{ crate = \"")?.split('"').next()).collect();
    assert!(banned.contains(&"ring"), "the rules are not what they should be: {banned:?}");
    for banned in banned {
        assert!(!linked.contains(banned), "{banned} is linked: `cargo tree --workspace --invert {banned}` tells by whom");
    }
}

fn packages() -> Vec<Package> {
    let metadata: Value =
        serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--no-deps", "--offline"])).expect("it is JSON");
    let text = |value: &Value| value.as_str().expect("it is a string").to_owned();
    let dependency = |value: &Value| (text(&value["name"]), value["kind"].as_str().unwrap_or("normal").to_owned());
    let list = |value: &Value| value.as_array().expect("it is a list").clone();
    let package =
        |value: &Value| Package { name: text(&value["name"]), dependencies: list(&value["dependencies"]).iter().map(dependency).collect() };
    list(&metadata["packages"]).iter().map(package).collect()
}

fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).current_dir(root()).args(args).output().expect("cargo starts");
    assert!(output.status.success(), "cargo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package lies one level below the workspace")
}
