//! `cargo xtask fuzz`: coverage-guided fuzzing of the session, with libFuzzer and the compiler at hand.
//!
//! What the flags ask for is in the stable compiler; nothing of nightly is needed, and so no address sanitizer: there is no unsafe code to watch.

use anyhow::{Context, Result, bail};

use crate::cargo::{cargo, root, run, target_dir};

/// Runs for a minute unless told otherwise.
const SECONDS: u64 = 60;

const FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// `cargo xtask fuzz [SECONDS] [ARGS]`: ARGS go to libFuzzer. Inputs that reach something new stay in `fuzz/corpus/session`.
pub(crate) fn run_for(args: &[String]) -> Result<()> {
    let (seconds, rest) = match args.split_first() {
        Some((first, rest)) if !first.starts_with('-') => {
            (first.parse().with_context(|| format!("a number of seconds, and not {first:?}"))?, rest)
        }
        Some(_) | None => (SECONDS, args),
    };
    let host = host()?;
    let fuzz = root().join("fuzz");
    // With a target named, programs that run while building have none of the flags.
    let mut build = cargo(&["build", "--locked", "--target", &host, "--manifest-path"]);
    build.arg(fuzz.join("Cargo.toml")).arg("--target-dir").arg(target_dir()).env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    run(build)?;
    let mut program = std::process::Command::new(target_dir().join(&host).join("debug/session"));
    program.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/", fuzz.display())).args(rest);
    program.arg(fuzz.join("corpus/session"));
    run(program)
}

/// What this machine is called among the compiler's targets.
fn host() -> Result<String> {
    let output = std::process::Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match text.lines().find_map(|line| line.strip_prefix("host: ")) {
        Some(host) => Ok(host.to_owned()),
        None => bail!("rustc does not say what this machine is"),
    }
}
