//! 200 jobs, and SIGKILL for agent and broker in the middle. Each job writes to a file by itself that it ran; what the file says and what
//! the API says must agree.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::http::Api;
use super::{Longshore, READY_WITHIN};
use crate::process::{Role, Scratch, is_alive, kill_stranger, until};

const N_JOBS: usize = 200;
/// Submitted while all is well; the others while broker and agent are down.
const N_BEFORE: usize = 120;
/// Starts after which things are killed.
const N_STARTS_BEFORE: usize = 30;
const FINAL: [&str; 6] = ["completed", "skipped", "partial_failure", "failed", "cancelled", "expired"];

struct Ended {
    id: String,
    status: String,
    attempts: u64,
}

pub(super) fn run(longshore: &Longshore, scratch: &Scratch) -> Result<()> {
    let witness = scratch.dir("proof")?.join("witness.log");
    fs::write(&witness, "")?;

    let (broker, nats_url, server_pid) = start_broker(longshore, scratch, None)?;
    let (controller, api) = start_controller(longshore, scratch, &nats_url)?;
    let agent = start_agent(longshore, scratch, &nats_url)?;
    println!("  broker {nats_url}, a controller and an agent run as processes of their own");

    let mut ids = submit(&api, &witness, 0..N_BEFORE)?;
    println!("  {N_BEFORE} jobs submitted, each appends a line to a file and works for a moment");
    until("the first jobs have run", Duration::from_secs(60), || Ok((starts(&witness)?.len() >= N_STARTS_BEFORE).then_some(())))?;

    let others = {
        let (api, witness) = (api.clone(), witness.clone());
        std::thread::spawn(move || submit(&api, &witness, N_BEFORE..N_JOBS))
    };
    agent.kill9();
    broker.kill9();
    kill_stranger(server_pid)?;
    println!("  killed with SIGKILL: the agent and the broker, after {} starts", starts(&witness)?.values().sum::<u64>());

    let port = nats_url.rsplit_once(':').map(|(_, port)| port.to_owned()).context("the broker's address has no port")?;
    let (broker, _, server_pid) = start_broker(longshore, scratch, Some(&port))?;
    let agent = start_agent(longshore, scratch, &nats_url)?;
    println!("  both started again");
    let Ok(others) = others.join() else { bail!("the submitting thread panicked") };
    ids.extend(others?);
    println!("  the other {} jobs were submitted meanwhile, repeated with their idempotency keys until accepted", N_JOBS - N_BEFORE);

    let ended = ids.iter().map(|id| wait_for(&api, id)).collect::<Result<Vec<_>>>()?;
    judge(&ended, &starts(&witness)?)?;
    for role in [agent, controller, broker] {
        role.stop()?;
    }
    ensure!(!is_alive(server_pid), "nats-server (pid {server_pid}) outlived `longshore nats start`");
    Ok(())
}

/// Gives the process, the broker's address and the server's process id.
fn start_broker(longshore: &Longshore, scratch: &Scratch, port: Option<&str>) -> Result<(Role, String, u64)> {
    let mut command = longshore.command(&["nats", "start", "-o", "json", "--data"]);
    command.arg(scratch.dir("broker")?);
    if let Some(port) = port {
        command.args(["--port", port]);
    }
    let mut role = scratch.spawn("broker", command)?;
    let ready = role.ready(READY_WITHIN)?;
    let url = text(&ready, "nats_url")?;
    let pid = ready["pid"].as_u64().context("`nats start` did not say the server's pid")?;
    Ok((role, url, pid))
}

fn start_controller(longshore: &Longshore, scratch: &Scratch, nats_url: &str) -> Result<(Role, Api)> {
    let mut command =
        longshore.command(&["controller", "start", "--nats-url", nats_url, "--listen", "127.0.0.1:0", "-o", "json", "--data"]);
    command.arg(scratch.dir("controller")?);
    let mut role = scratch.spawn("controller", command)?;
    let ready = role.ready(READY_WITHIN)?;
    let api = Api::new(&text(&ready, "url")?, Path::new(&text(&ready, "token_file")?))?;
    Ok((role, api))
}

fn start_agent(longshore: &Longshore, scratch: &Scratch, nats_url: &str) -> Result<Role> {
    let mut command = longshore.command(&["agent", "start", "--nats-url", nats_url, "-o", "json", "--data"]);
    command.arg(scratch.dir("agent")?);
    let mut role = scratch.spawn("agent", command)?;
    role.ready(READY_WITHIN)?;
    Ok(role)
}

fn text(document: &Value, key: &str) -> Result<String> {
    Ok(document[key].as_str().with_context(|| format!("the ready line has no `{key}`: {document}"))?.to_owned())
}

/// Submits jobs and gives their ids. What is not accepted is sent again under the same key: that is how a client loses nothing.
fn submit(api: &Api, witness: &Path, range: std::ops::Range<usize>) -> Result<Vec<String>> {
    let witness = witness.to_string_lossy().replace('\'', r"'\''");
    range
        .map(|n| {
            let body = json!({
                "operation": "command.shell",
                "args": {"command": format!("echo job-{n} $$ >> '{witness}'; sleep 0.1")},
                "retry": {"max_attempts": 5, "backoff": ["1s"]},
                "idempotency_key": format!("demo-{n}"),
            });
            let mut last = String::new();
            until("it is accepted", Duration::from_secs(90), || match api.post("/api/v1/jobs", &body) {
                Ok((200 | 201, job)) => Ok(Some(text(&job, "id")?)),
                // Such as a broker that is away, or an agent that has not been heard yet: sent again.
                Ok((status, problem)) if problem["retryable"] == json!(true) => remember(&mut last, format!("status {status}: {problem}")),
                Ok((status, problem)) if status < 500 => bail!("status {status}: {problem}"),
                Ok((status, problem)) => remember(&mut last, format!("status {status}: {problem}")),
                Err(error) => remember(&mut last, format!("{error:#}")),
            })
            .with_context(|| format!("job-{n} was not accepted; the last answer: {last}"))
        })
        .collect()
}

fn wait_for(api: &Api, id: &str) -> Result<Ended> {
    let mut last = String::new();
    until("it has ended", Duration::from_secs(180), || match api.get(&format!("/api/v1/jobs/{id}?wait=30s")) {
        Ok((200, job)) => {
            let status = text(&job, "status")?;
            if !FINAL.contains(&status.as_str()) {
                return remember(&mut last, job.to_string());
            }
            let attempts = job["executions"].as_array().into_iter().flatten().filter_map(|execution| execution["attempts"].as_u64()).sum();
            Ok(Some(Ended { id: id.to_owned(), status, attempts }))
        }
        Ok((404, _)) => Ok(Some(Ended { id: id.to_owned(), status: "gone".to_owned(), attempts: 0 })),
        Ok((status, problem)) => remember(&mut last, format!("status {status}: {problem}")),
        Err(error) => remember(&mut last, format!("{error:#}")),
    })
    .with_context(|| format!("{id} has not ended; the last answer: {last}"))
}

/// Not yet; what came instead is kept for the error.
fn remember<T>(last: &mut String, answer: String) -> Result<Option<T>> {
    *last = answer;
    Ok(None)
}

/// Starts of each job, from the lines `job-N PID` that the jobs wrote.
fn starts(witness: &Path) -> Result<BTreeMap<String, u64>> {
    let mut starts = BTreeMap::new();
    for line in fs::read_to_string(witness)?.lines() {
        let (label, _) = line.split_once(' ').with_context(|| format!("the witness file has a line that no job writes: {line:?}"))?;
        *starts.entry(label.to_owned()).or_default() += 1;
    }
    Ok(starts)
}

/// `ended` is in the order of submission.
fn judge(ended: &[Ended], starts: &BTreeMap<String, u64>) -> Result<()> {
    let ran = |n: usize| starts.get(&format!("job-{n}")).copied().unwrap_or(0);
    let (mut n_answered, mut again_said, mut again_seen) = (0, 0, 0);
    for (n, job) in ended.iter().enumerate() {
        let (said, seen) = (job.attempts, ran(n));
        if job.status == "completed" && seen > 0 {
            n_answered += 1;
        } else {
            println!("  {} (job-{n}) is {}: {said} attempts by its record, {seen} by the file", job.id, job.status);
        }
        ensure!(seen <= said, "{} (job-{n}) ran {seen} times by the file, but its record has {said} attempts", job.id);
        again_said += said.saturating_sub(1);
        again_seen += seen.saturating_sub(1);
    }
    let n_lost = N_JOBS - n_answered;
    println!("\n{N_JOBS} submitted, {n_answered} answered, {n_lost} lost");
    println!(
        "{again_said} second attempts, each of a job that the killed agent held; {again_seen} of them had begun to run before, by the file"
    );
    ensure!(n_lost == 0, "{n_lost} of {N_JOBS} jobs were lost");
    ensure!(starts.len() == N_JOBS, "the file names {} jobs, not {N_JOBS}", starts.len());
    Ok(())
}
