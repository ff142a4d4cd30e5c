//! The harness against the real program: a few cells, short, so that it cannot rot. The rest is run by `cargo xtask chaos`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use longshore_testkit::{Process, Stream, eventually};
use serde_json::Value;

/// For a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(300);
const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn short_cells_hold_and_their_figures_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    // Rates of a second or two on a busy machine say nothing.
    let words = ["--cell", "none", "--cell", "kill-agent", "--cell", "two-controllers", "--seconds", "6"];
    let mut run = chaos(dir.path(), &[&words[..], &["--rate-min", "1", "--recovery-min", "0", "--in-flight", "16", "--json"]].concat());
    let status = run.wait(PATIENCE).await;
    let said = run.lines(Stream::Stdout).join("\n");
    assert_eq!(status.code(), Some(0), "{}", run.output());
    let report: Value = serde_json::from_str(&said).unwrap();
    let cells = report["cells"].as_array().unwrap();
    assert_eq!(cells.iter().map(|cell| cell["cell"].as_str().unwrap()).collect::<Vec<_>>(), ["none", "kill-agent", "two-controllers"]);
    for cell in cells {
        let figures = &cell["figures"];
        assert_eq!(cell["outcome"], "held", "{cell}");
        for zero in ["lost", "hidden_executions", "changed_terminals", "other_findings"] {
            assert_eq!(figures[zero], 0, "{cell}");
        }
        assert!(figures["jobs"].as_u64().unwrap() > 20 && figures["accepted"] == figures["jobs"], "{cell}");
        assert!(figures["cancels"].as_u64().unwrap() > 0 && figures["worst_delay_s"].as_f64().unwrap() > 0.0, "{cell}");
    }
    assert_eq!(cells[0]["figures"]["blows"], 0);
    assert!(cells[1..].iter().all(|cell| cell["figures"]["blows"].as_u64().unwrap() > 0), "{said}");
    nothing_is_left(dir.path()).await;
}

#[tokio::test]
async fn nothing_is_left_of_a_run_that_is_killed() {
    // With namespaces and mounts, where this user may have them: else those cells are not run.
    for (who, cell) in [("the keeper", "cut"), ("the inside", "power-cut")] {
        let dir = tempfile::tempdir().unwrap();
        let mut run = chaos(dir.path(), &["--cell", cell, "--cell", "none", "--seconds", "600"]);
        eventually("jobs to run", PATIENCE, async || {
            assert!(run.is_running(), "{}", run.output());
            witness(dir.path()).filter(|path| path.metadata().is_ok_and(|meta| meta.len() > 0))
        })
        .await;
        if who == "the keeper" {
            run.kill9();
        } else {
            let inside = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", run.pid())).unwrap();
            let is_inside = |pid: &&str| std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with(b"longshore-chaos"));
            let inside = inside.split_whitespace().find(is_inside).expect("the keeper waits for the inside");
            assert!(Command::new("kill").args(["-9", inside]).status().unwrap().success());
            assert_eq!(run.wait(SOON).await.code(), Some(1), "{}", run.output());
        }
        nothing_is_left(dir.path()).await;
    }
}

#[tokio::test]
async fn wrong_words_are_refused_with_what_there_is() {
    for words in [&["--cell", "earthquake"][..], &["--seconds", "1"], &["--seconds"], &["--cells"]] {
        let dir = tempfile::tempdir().unwrap();
        let mut run = chaos(dir.path(), words);
        assert_eq!(run.wait(SOON).await.code(), Some(2), "{words:?}");
        assert!(run.output().contains("kill-agent"), "{}", run.output());
    }
}

/// The harness, with all its temporary files in `dir`.
fn chaos(dir: &Path, words: &[&str]) -> Process {
    let program = Path::new(env!("CARGO_BIN_EXE_longshore-chaos"));
    let longshore = program.with_file_name("longshore");
    assert!(longshore.is_file(), "{} is not there: `cargo build -p longshore-cli`", longshore.display());
    let mut command = Command::new(program);
    command.args(words).env("TMPDIR", dir);
    Process::spawn(command)
}

/// No file below `dir`, no process that was told of it, no mount there, no loop device of a file there.
async fn nothing_is_left(dir: &Path) {
    eventually("everything to be gone", SOON, async || {
        let is_empty = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
        (is_empty && told_of(dir).is_empty() && !names(Path::new("/proc/self/mounts"), dir) && !has_loop_device(dir)).then_some(())
    })
    .await;
}

fn has_loop_device(dir: &Path) -> bool {
    let devices = std::fs::read_dir("/sys/block").into_iter().flatten().filter_map(Result::ok);
    devices.into_iter().any(|device| names(&device.path().join("loop/backing_file"), dir))
}

/// Whether the file speaks of the directory. One that is not there does not.
fn names(file: &Path, dir: &Path) -> bool {
    let (text, name) = (std::fs::read(file).unwrap_or_default(), dir.as_os_str().as_encoded_bytes());
    text.windows(name.len()).any(|part| part == name)
}

/// Processes that have the directory in their command line or in their environment.
fn told_of(dir: &Path) -> Vec<u32> {
    let is_told = |pid: &u32| ["cmdline", "environ"].iter().any(|file| names(Path::new(&format!("/proc/{pid}/{file}")), dir));
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(is_told).collect()
}

/// The witness file of the cell that runs.
fn witness(dir: &Path) -> Option<PathBuf> {
    let below = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    below(dir).flat_map(|scratch| below(&scratch).collect::<Vec<_>>()).map(|fleet| fleet.join("witness.log")).find(|path| path.is_file())
}
