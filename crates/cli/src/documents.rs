//! What the documents tell people to type is what the program takes, and what it takes stands in the README.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use clap::error::ErrorKind;
use clap::{Command, CommandFactory, Parser};

use crate::args::Cli;

/// Each document that is for users, with its name.
fn documents() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let files = docs.chain(["README.md", "CONTRIBUTING.md"].map(|name| root.join(name)));
    let texts = files.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    texts.map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap())).collect()
}

/// A document's fenced blocks, and the text between them.
fn parts(text: &str) -> (Vec<&str>, Vec<&str>) {
    let parts: Vec<&str> = text.split("```").collect();
    (parts.iter().skip(1).step_by(2).copied().collect(), parts.iter().step_by(2).copied().collect())
}

/// The words of a command, as a shell has them, up to a comment or to where its output goes.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in command.chars().chain([' ']) {
        match (quote, c) {
            (Some(open), _) if open == c => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (None, '#' | '>' | '|') if word.is_none() => break,
            (Some(_) | None, _) => word.get_or_insert_default().push(c),
        }
    }
    words
}

/// Whether it can be the name of a command, and stands for nothing.
fn is_plain(word: &str) -> bool {
    !word.starts_with('-') && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
}

#[test]
fn every_command_in_a_block_of_a_document_is_one_that_the_program_takes() {
    let mut n_typed = 0;
    for (name, text) in documents() {
        for block in parts(&text).0 {
            let lines = block.replace("\\\n", " ");
            let typed = lines.lines().map(|line| line.strip_prefix("$ ").unwrap_or(line)).filter(|line| line.starts_with("longshore "));
            for line in typed {
                if let Err(error) = Cli::try_parse_from(words(line)) {
                    assert!(matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion), "{name}: {line}: {error}");
                }
                n_typed += 1;
            }
        }
    }
    assert!(n_typed > 30, "{n_typed}");
}

#[test]
fn every_command_that_a_document_names_exists() {
    let mut n_named = 0;
    for (name, text) in documents() {
        let spans = parts(&text).1.into_iter().flat_map(|between| between.split('`').skip(1).step_by(2));
        for span in spans.filter(|span| span.starts_with("longshore ")) {
            let mut at = Cli::command();
            for word in span.split([' ', '\n']).skip(1) {
                if !at.has_subcommands() || !is_plain(word) {
                    break;
                }
                at = at.find_subcommand(word).unwrap_or_else(|| panic!("{name}: there is no `{word}` in `{span}`")).clone();
            }
            n_named += 1;
        }
    }
    assert!(n_named > 30, "{n_named}");
}

/// Every command that is not hidden, as it is typed, and whether it stands by itself.
fn commands(at: &Command, typed: &str, all: &mut BTreeMap<String, bool>) {
    for command in at.get_subcommands().filter(|command| !command.is_hide_set()) {
        let typed = format!("{typed} {}", command.get_name());
        commands(command, &typed, all);
        all.insert(typed, !command.is_subcommand_required_set() || !command.has_subcommands());
    }
}

#[test]
fn every_command_has_its_place_in_the_table_of_the_readme() {
    let (_, readme) = documents().into_iter().find(|(name, _)| name.ends_with("README.md")).unwrap();
    let mut all = BTreeMap::new();
    commands(&Cli::command(), "longshore", &mut all);
    let mut listed = BTreeSet::new();
    for row in readme.lines().filter(|line| line.starts_with("| `longshore ")) {
        let (cell, mut first) = (row.split(" | ").next().unwrap(), Vec::new());
        for span in cell.split('`').skip(1).step_by(2) {
            let plain: Vec<&str> = span.split(' ').take_while(|word| is_plain(word)).collect();
            if first.is_empty() {
                first.clone_from(&plain);
            }
            // `retry ID` after `longshore job cancel ID` stands for `longshore job retry`.
            let meant = (0..first.len()).rev().map(|n| [&first[..n], &plain[..]].concat().join(" "));
            let typed = meant.into_iter().find(|typed| all.contains_key(typed));
            listed.insert(typed.unwrap_or_else(|| panic!("there is no `{span}` in {row}")));
        }
    }
    let missing: Vec<&String> = all.iter().filter(|(typed, stands)| **stands && !listed.contains(*typed)).map(|(typed, _)| typed).collect();
    assert!(missing.is_empty(), "README.md does not list {missing:?}");
}
