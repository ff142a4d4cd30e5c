//! `cargo xtask schemathesis`: requests made from the API's description, valid and not, against a real controller and a real broker.
//!
//! It judges that nothing is an error of ours, that every status and every answer is as described, and that what is malformed is refused.
//!
//! Made-up requests that may do everything would do it to the host they run on. So there are two runs: one with an agent and a token that
//! can have it read the host and no more, and one with every permission and nobody who could do anything.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cargo::{build_longshore, root};
use crate::demo::{Longshore, READY_WITHIN};
use crate::process::{Role, Scratch};
use crate::setup::{self, checked};

const VERSION: &str = "4.32.5";

/// What the run with an agent may do: nothing that changes the host, runs a command or sends packets to strangers.
const HARMLESS: [&str; 6] = ["agent:read", "agent:write", "audit:read", "job:read", "job:write", "node:read"];

/// Tried by themselves: a stream without an end is read for seconds only, and a body that is no text is not made up, but all around it is.
const APART: [(&str, [&str; 2]); 2] = [("follow_jobs", ["--request-timeout", "3"]), ("put_bundle", ["--phases", "coverage"])];

/// Runs both.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let tool = install()?;
    let nats_server = setup::nats_server()?;
    let binary = build_longshore()?;
    let scratch = Scratch::new()?;
    let longshore = Longshore { binary, nats_server, home: scratch.dir("home")? };

    println!("\n1. With an agent, and a token that can have it read the host\n");
    let (start, url, token) = everything(&longshore, &scratch)?;
    let others = APART.map(|(name, _)| ["--exclude-operation-id", name]).concat();
    let mut n_cases = fuzz(&tool, &scratch, (&url, &token), &others, args)?;
    still_serves(start)?;

    println!("\n2. With every permission, and no agent\n");
    let (broker, controller, url, token) = without_agent(&longshore, &scratch)?;
    // What is submitted here waits for ever, and so would who follows it.
    n_cases += fuzz(&tool, &scratch, (&url, &token), &[&others[..], &["--phases", "examples,coverage,fuzzing"]].concat(), args)?;
    for (name, flags) in APART {
        println!("\n   {name} by itself\n");
        n_cases += fuzz(&tool, &scratch, (&url, &token), &[&["--include-operation-id", name], &flags[..]].concat(), args)?;
    }
    still_serves(controller)?;
    broker.stop()?;
    println!("\n{n_cases} requests, each answered as described");
    Ok(())
}

/// Broker, controller and agent in one process; its address, and a token.
fn everything(longshore: &Longshore, scratch: &Scratch) -> Result<(Role, String, String)> {
    let data = scratch.dir("all-in-one")?;
    let mut command = longshore.command(&["start", "-o", "json", "--listen", "127.0.0.1:0", "--data"]);
    command.arg(&data);
    let mut role = scratch.spawn("start", command)?;
    let url = text(&role.ready(READY_WITHIN)?, "url")?;
    let mut generate = longshore.command(&["token", "generate", "schemathesis", "--role", "admin"]);
    generate.args(HARMLESS.iter().flat_map(|permission| ["--permission", permission])).arg("--data").arg(&data);
    let token = checked(generate, "no token could be signed")?;
    Ok((role, url, token.trim().to_owned()))
}

/// A broker and a controller; its address, and its administrator's token.
fn without_agent(longshore: &Longshore, scratch: &Scratch) -> Result<(Role, Role, String, String)> {
    let mut command = longshore.command(&["nats", "start", "-o", "json", "--data"]);
    command.arg(scratch.dir("broker")?);
    let mut broker = scratch.spawn("broker", command)?;
    let nats_url = text(&broker.ready(READY_WITHIN)?, "nats_url")?;
    let mut command =
        longshore.command(&["controller", "start", "-o", "json", "--listen", "127.0.0.1:0", "--nats-url", &nats_url, "--data"]);
    command.arg(scratch.dir("controller")?);
    let mut controller = scratch.spawn("controller", command)?;
    let ready = controller.ready(READY_WITHIN)?;
    let token = std::fs::read_to_string(text(&ready, "token_file")?)?;
    Ok((broker, controller, text(&ready, "url")?, token.trim().to_owned()))
}

/// Gives how many requests were made.
fn fuzz(tool: &Path, scratch: &Scratch, (url, token): (&str, &str), more: &[&str], args: &[String]) -> Result<u64> {
    let report = scratch.dir("")?.join("report.json");
    let mut command = Command::new(tool);
    command.current_dir(scratch.dir("schemathesis")?).arg("run").arg(format!("{url}/api/openapi.json"));
    command.args(["--header", &format!("Authorization: Bearer {token}"), "--request-timeout", "30", "--continue-on-failure"]);
    command.args(["--suppress-health-check", "all", "--max-examples", "25", "--report", "json", "--report-json-path"]).arg(&report);
    // A schema cannot say all that makes a value valid, such as that a host of this name exists.
    command.args(["--exclude-checks", "positive_data_acceptance"]);
    command.args(more).args(args);
    // The command is not shown: it has the token in it.
    let status = command.status().context("schemathesis could not be started")?;
    let report: Value = serde_json::from_slice(&std::fs::read(&report).context("schemathesis wrote no report")?)?;
    ensure!(status.success(), "schemathesis found something ({status}); the seed it names makes the same requests again");
    report["test_cases"]["generated"].as_u64().context("the report does not say how many requests there were")
}

/// The controller has outlived it, and ends when it is asked to.
fn still_serves(role: Role) -> Result<()> {
    let status = role.stop()?;
    ensure!(status.success(), "the controller ended badly ({status})");
    Ok(())
}

fn text(ready: &Value, field: &str) -> Result<String> {
    ready[field].as_str().map(str::to_owned).with_context(|| format!("it did not say its {field}"))
}

/// The pinned version, in a virtual environment of its own below `target`.
fn install() -> Result<PathBuf> {
    let dir = root().join(format!("target/tools/schemathesis-{VERSION}"));
    let tool = dir.join("bin/schemathesis");
    let installed = |tool: &Path| {
        let mut ask = Command::new(tool);
        ask.arg("--version");
        checked(ask, "it does not start").is_ok_and(|version| version.contains(VERSION))
    };
    if installed(&tool) {
        return Ok(tool);
    }
    println!("setup: getting schemathesis {VERSION} ...");
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(&dir);
    checked(make, "python3 is missing, or has no venv (Debian and Ubuntu: `apt-get install python3-venv`)")?;
    let mut install = Command::new(dir.join("bin/python"));
    install.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "install", "--only-binary", ":all:"]);
    install.arg(format!("schemathesis=={VERSION}"));
    checked(install, "schemathesis could not be installed")?;
    ensure!(installed(&tool), "{} does not start", tool.display());
    Ok(tool)
}
