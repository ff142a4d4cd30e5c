//! The guide for authors of packages, as it stands: its files are those of the examples, and its commands do what it says.

use std::path::Path;
use std::process::Command;

use longshore_testkit::Process;

use crate::fleet::{PATIENCE, longshore};
use crate::run::text;

const GUIDE: &str = include_str!("../../../../docs/package-authors.md");

/// The fenced blocks of a language, each with the line of code before it.
fn blocks(language: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut named = String::new();
    let mut lines = GUIDE.lines();
    while let Some(line) = lines.next() {
        if let Some(opened) = line.strip_prefix("```") {
            let content: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            if opened == language {
                found.push((named.clone(), content.join("\n")));
            }
        } else if let Some(name) = line.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) {
            name.clone_into(&mut named);
        }
    }
    found
}

#[test]
fn the_files_of_the_guide_are_those_of_the_examples() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shown: Vec<_> = ["json", "python", "perl"].into_iter().flat_map(blocks).collect();
    assert_eq!(shown.len(), 4);
    for (name, content) in shown {
        assert_eq!(std::fs::read_to_string(root.join(&name)).unwrap().trim_end(), content, "{name}");
    }
}

#[tokio::test]
async fn the_commands_of_the_guide_do_what_it_says() {
    let home = tempfile::tempdir().unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let copied = Command::new("cp").arg("-r").arg(examples).arg(home.path().join("examples")).status().unwrap();
    assert!(copied.success());
    let server = Process::spawn(longshore(home.path(), &["start", "-o", "json", "--listen", "127.0.0.1:0"]));
    server.wait_for_line(|line| line.starts_with('{'), PATIENCE).await;
    let mut n_run = 0;
    for (_, block) in blocks("console") {
        for typed in block.split("$ ").filter(|typed| !typed.is_empty()) {
            let (command, expected) = typed.split_once('\n').unwrap_or((typed, ""));
            let words = words(command);
            let mut said = String::new();
            // What was just installed is announced within seconds; who types waits for that without noticing.
            longshore_testkit::eventually(command, PATIENCE, async || {
                let mut command = longshore(home.path(), &words[1..]);
                command.current_dir(home.path());
                let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
                said = text(&output.stdout) + &text(&output.stderr);
                (!said.contains("that is ready has the node")).then_some(())
            })
            .await;
            for line in expected.lines() {
                assert!(said.contains(line), "{command}: {line:?} is not in {said}");
            }
            n_run += 1;
        }
    }
    assert_eq!(n_run, 10, "every command of the guide");
}

/// The words of a command, as a shell has them: divided by blanks, but not within single quotes.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for c in command.chars() {
        match c {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words
}
