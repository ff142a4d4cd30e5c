//! `docs/astraflow-worker.md`: its tables of settings are what the program reads.

use std::collections::BTreeSet;

use longshore_agent::worker::settings::{Loaded, names};

use super::*;

const GUIDE: &str = include_str!("../../../../../docs/astraflow-worker.md");

/// The cells of the rows below a heading, without their marks.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let after = GUIDE.split_once(&format!("\n## {heading}\n")).expect("the guide has the heading").1;
    let section = after.split_once("\n## ").map_or(after, |(section, _)| section);
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| line.split('|').skip(1).map(|cell| cell.trim().trim_matches('`')).collect()).collect()
}

fn loaded(pairs: &[(&str, &str)]) -> Option<Loaded> {
    let variable = |(name, value): &(&str, &str)| (format!("ASTRA_WORKER_{}", name.to_uppercase()), (*value).to_owned());
    Settings::load(&Sources { environment: pairs.iter().map(variable).collect(), ..Sources::default() }).ok()
}

/// A word that changes the setting, and what it is changed to.
fn changed(name: &str) -> (&'static str, Settings) {
    let of = |word| loaded(&[(name, word)]).map(|loaded| (word, loaded.settings));
    ["7", "thread", "drop_new"].into_iter().find_map(of).unwrap_or_else(|| panic!("no word changes {name}"))
}

#[test]
fn the_guide_has_every_setting_with_its_default_and_both_spellings() {
    let (same, new) = (rows("Settings"), rows("Settings that are new"));
    let defaults = same.iter().map(|row| (row[0], row[2])).chain(new.iter().map(|row| (row[0], row[1])));
    let debug = format!("{:?}", Settings::default());
    let mut found = BTreeSet::new();
    for (name, default) in defaults {
        assert!(found.insert(name), "{name} has two rows");
        match default {
            "none" => assert!(debug.contains(&format!(" {name}: None")), "{name} has a default"),
            "the nine" => assert_eq!(Settings::default().payload_types.len(), 9),
            default => assert_eq!(loaded(&[(name, default)]).expect(name).settings, Settings::default(), "{name}"),
        }
    }
    assert_eq!(found, names().collect());
    let mut renamed = 0;
    for row in same {
        let (name, earlier) = (row[0], row[1]);
        if earlier.is_empty() {
            assert_eq!(loaded(&[(&format!("handler_{name}"), "7")]).expect("it is passed over").warnings.len(), 1, "{name}");
            continue;
        }
        let (word, expected) = changed(name);
        assert_ne!(expected, Settings::default(), "{name}");
        // In the same source the earlier one goes first.
        for pairs in [&[(earlier, word)][..], &[(earlier, word), (name, row[2])], &[(name, row[2]), (earlier, word)]] {
            assert_eq!(loaded(pairs).expect(name).settings, expected, "{pairs:?}");
        }
        renamed += 1;
    }
    assert_eq!(renamed, 8);
}
