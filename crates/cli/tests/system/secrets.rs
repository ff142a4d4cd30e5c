//! Secrets of jobs, and who vouches for a job: from the command line to the program, with everything on the way searched.

use std::path::{Path, PathBuf};
use std::process::Output;

use longshore_client::Client;
use longshore_model::JobStatus;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::rest::{JobRequest, JobView, RetryRequest};
use longshore_testkit::witness::Witness;
use longshore_testkit::{Process, Signal, eventually};
use serde_json::{Value, json};

use crate::fleet::{Fleet, PATIENCE, longshore, shell};
use crate::run::text;

const SECRET: &str = "hunter2-\u{e9}-hunter2";
/// What stands beside it and may be seen: found wherever a search would find the secret.
const PLAIN: &str = "canary-may-be-seen";

/// Every file below these that has this text in it, in clear or in base64.
fn with(needle: &str, roots: &[&Path]) -> Vec<PathBuf> {
    let encoded =
        std::process::Command::new("base64").arg("-w0").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn();
    let mut encoded = encoded.unwrap();
    std::io::Write::write_all(&mut encoded.stdin.take().unwrap(), needle.as_bytes()).unwrap();
    let encoded = encoded.wait_with_output().unwrap().stdout;
    // What comes before it shifts the last characters.
    let encoded = &encoded[..encoded.len() / 4 * 4 - 4];
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = roots.iter().map(|root| (*root).to_owned()).collect();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.is_file() {
            let content = std::fs::read(&path).unwrap();
            let has = |part: &[u8]| content.windows(part.len()).any(|window| window == part);
            if has(needle.as_bytes()) || has(encoded) {
                found.push(path);
            }
        }
    }
    found
}

/// What a program says of a secret that it may not show.
fn digest_of(secret: &str) -> String {
    let script = "printf %s \"$T\" | sha256sum | cut -c1-12";
    let output = std::process::Command::new("sh").args(["-c", script]).env("T", secret).output().unwrap();
    text(&output.stdout).trim().to_owned()
}

/// A script that fails unless `$TOKEN` is that.
fn has_token(secret: &str) -> String {
    format!("test \"$(printf %s \"$TOKEN\" | sha256sum | cut -c1-12)\" = {}", digest_of(secret))
}

/// A package whose handlers show their secret wherever they can.
pub(crate) fn telling_package(packages: &Path) {
    let handlers = r#"
import hashlib

def token_of(context):
    return context.params.get("__resourceBindings", {}).get("DEPLOY_TOKEN", {}).get("value", "nothing")

async def show(context):
    token = token_of(context)
    print("printed", token, context.params.get("plain"))
    for n in range(context.params.get("lines", 0)):
        print("line", n, "x" * 500)
    await context.feedback.send(message="told " + token, chunks=[{"channel": "stderr", "text": "a chunk " + token + "\n"}])
    return {"outputs": {"digest": hashlib.sha256(token.encode()).hexdigest()[:12], "echo": [token]}}

def fail(context):
    raise ValueError(token_of(context))

def odd(context):
    return {"status": token_of(context)}
"#;
    let package = packages.join("telling.pkg/1.0.0");
    std::fs::create_dir_all(&package).unwrap();
    std::fs::write(package.join("handlers.py"), handlers).unwrap();
    std::fs::write(package.join("manifest.json"), crate::worker::manifest("telling.pkg", "1.0.0", &["show", "fail", "odd"]).to_string())
        .unwrap();
}

#[tokio::test]
async fn a_secret_is_nowhere_but_in_the_program_it_is_for() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    telling_package(&data.join("packages"));
    let mut start = longshore(home.path(), &["start", "-o", "json", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()]);
    start.env("LONGSHORE_LOG", "trace");
    let mut process = Process::spawn(start);
    process.wait_for_line(|line| line.starts_with('{'), PATIENCE).await;
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("secret.txt");
    std::fs::write(&file, format!("{SECRET}\n")).unwrap();
    let source = work.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let mut said = Vec::new();
    let mut types = async |words: &[&str]| -> Output {
        let mut command = longshore(home.path(), words);
        command.env("DEPLOY_TOKEN", SECRET).current_dir(work.path());
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        said.push(format!("{words:?}: {}{}", text(&output.stdout), text(&output.stderr)));
        output
    };

    let script =
        format!("printf %s \"$DEPLOY_TOKEN\" | sha256sum | cut -c1-12; echo \"[$DEPLOY_TOKEN] {PLAIN}\"; echo \"$DEPLOY_TOKEN\" >&2");
    let run = types(&["run", "--secret", "DEPLOY_TOKEN", "--", "sh", "-c", &script]).await;
    let digest = digest_of(SECRET);
    assert_eq!(text(&run.stdout), format!("{digest}\n[***] {PLAIN}\n"), "{}", text(&run.stderr));

    let from_file = format!("T=@{}", file.display());
    let node = types(&["node", "shell", "printf %s \"$T\" | sha256sum; exit 3", "--secret", &from_file, "-o", "json"]).await;
    assert!(text(&node.stdout).contains(&digest), "without the file's line end: {}", text(&node.stdout));
    let steps = ["run", "--secret", "DEPLOY_TOKEN", source.to_str().unwrap(), "--", "echo \"$DEPLOY_TOKEN\"", "test -n \"$DEPLOY_TOKEN\""];
    assert_eq!(types(&steps).await.status.code(), Some(0));
    assert_eq!(std::fs::read_to_string(work.path().join("results/step_0.log")).unwrap(), "***\n");
    let env = format!(r#"env={{"PLAIN": "{PLAIN}"}}"#);
    let submit =
        ["job", "submit", "command.shell", "--arg", "command=echo $DEPLOY_TOKEN $PLAIN", "--arg", &env, "--secret", "DEPLOY_TOKEN"];
    let keyed = [&submit[..], &["--idempotency-key", "once", "--wait", "-o", "name"]].concat();
    let id = text(&types(&keyed).await.stdout).trim().to_owned();
    assert_eq!(text(&types(&keyed).await.stdout).trim(), id, "the same body, sealed anew, is the same job");
    let again: Value = serde_json::from_slice(&types(&["job", "retry", &id, "-o", "json"]).await.stdout).unwrap();
    let again = again["id"].as_str().or_else(|| again["items"][0]["id"].as_str()).unwrap_or_else(|| panic!("{again}")).to_owned();
    types(&["job", "wait", &again]).await;
    assert_eq!(text(&types(&["job", "logs", &again]).await.stdout), format!("*** {PLAIN}\n"), "a repeat has the secret, too");
    let shown: Value = serde_json::from_slice(&types(&["job", "show", &id, "-o", "json"]).await.stdout).unwrap();
    assert_eq!(shown["args"]["secrets"], json!({"DEPLOY_TOKEN": "***"}));
    for words in [&["job", "show", &id][..], &["job", "list", "-o", "json"], &["job", "list"], &["config", "show"]] {
        assert_eq!(types(words).await.status.code(), Some(0), "{words:?}");
    }

    // A handler of a package has it among what it is bound to.
    eventually("the package to be announced", PATIENCE, async || {
        text(&types(&["agent", "list", "-o", "json"]).await.stdout).contains("telling.pkg").then_some(())
    })
    .await;
    let parameters = format!(r#"parameters={{"plain": "{PLAIN}"}}"#);
    let handler =
        ["job", "submit", "package.run", "--arg", "package=telling.pkg", "--arg", &parameters, "--secret", "DEPLOY_TOKEN", "--wait"];
    let shown: Value =
        serde_json::from_slice(&types(&[&handler[..], &["--arg", "node=show", "-o", "json"]].concat()).await.stdout).unwrap();
    assert_eq!(shown["args"]["secrets"], json!({"DEPLOY_TOKEN": "***"}), "{shown}");
    assert_eq!(shown["executions"][0]["result"]["output"], json!({"digest": digest, "echo": ["***"]}), "{shown}");
    let logs = types(&["job", "logs", shown["id"].as_str().unwrap()]).await;
    let heard = text(&logs.stdout) + &text(&logs.stderr);
    for expected in [format!("printed *** {PLAIN}"), "told ***".to_owned(), "a chunk ***".to_owned()] {
        assert!(heard.contains(&expected), "{expected:?} in {heard}");
    }
    let failed = types(&[&handler[..], &["--arg", "node=fail"]].concat()).await;
    assert!((text(&failed.stdout) + &text(&failed.stderr)).contains("ValueError: ***"), "{}", text(&failed.stderr));
    types(&[&handler[..], &["--arg", "node=odd"]].concat()).await;

    process.signal(Signal::TERM);
    assert!(process.wait(PATIENCE).await.success(), "{}", process.output());
    let config = home.path().join("config");
    let results = work.path().join("results");
    assert_eq!(with(SECRET, &[&data, &config, &results]), Vec::<PathBuf>::new(), "in no store, journal, log or result");
    assert!(with(PLAIN, &[&data]).iter().any(|path| path.starts_with(data.join("nats"))), "where a search would have found it");
    for told in said.iter().chain([&process.output()]) {
        assert!(!told.contains(SECRET), "{told}");
    }
    assert!(process.output().len() > 1000, "the log was searched");
}

#[tokio::test]
async fn a_value_on_the_command_line_is_refused_and_not_repeated() {
    let home = tempfile::tempdir().unwrap();
    let inline = format!(r#"{{"command": "x", "secrets": {{"A": "{SECRET}"}}}}"#);
    let (pair, arg) = (format!("A={SECRET}"), format!(r#"secrets={{"A": "{SECRET}"}}"#));
    for words in [
        &["run", "--secret", &pair, "--", "true"][..],
        &["node", "exec", "--secret", &pair, "--", "true"],
        &["job", "submit", "command.shell", "--secret", &pair],
        &["job", "submit", "command.shell", "--args", &inline],
        &["job", "submit", "command.shell", "--arg", "command=x", "--arg", &arg],
    ] {
        let output = longshore(home.path(), words).output().unwrap();
        let told = text(&output.stderr);
        assert!(matches!(output.status.code(), Some(2 | 125)), "{told}");
        assert!(told.contains("command line") && told.contains("--secret") && !told.contains("hunter2"), "{told}");
    }
}

/// A fleet whose controller and agents have keys, as `longshore key` made and told.
struct Keyed {
    fleet: Fleet,
    witness: Witness,
}

impl Keyed {
    async fn start(n_agents: usize) -> Self {
        let fleet = Fleet::start(n_agents).await;
        let witness = Witness::new_in(fleet.dir.path());
        let mut keyed = Self { fleet, witness };
        keyed.says(&["key", "generate", "--out", "keys"]);
        keyed.distribute().await;
        keyed
    }

    fn at(&self, name: &str) -> PathBuf {
        self.fleet.dir.path().join(name)
    }

    fn says(&self, words: &[&str]) -> String {
        let output = longshore(self.fleet.dir.path(), words).current_dir(self.fleet.dir.path()).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn give(&self, file: &str, to: &str) {
        std::fs::copy(self.at("keys").join(file), self.at(to).join(file)).unwrap();
    }

    /// The agents first, then the controller.
    async fn distribute(&mut self) {
        for n in 0..self.fleet.agents.len() {
            self.give("secrets.key", &format!("agent-{n}"));
            self.give("jobs.pub", &format!("agent-{n}"));
            self.fleet.agents[n].kill_and_restart().await;
        }
        self.give("secrets.pub", "controller");
        self.give("jobs.key", "controller");
        self.fleet.controller.kill_and_restart().await;
    }

    /// A job that says whether it got the secret.
    fn with_secret(&self, label: &str) -> JobRequest {
        let script = self.witness.script(label, &has_token("hunter2-hunter2"));
        Client::request("command.shell", json!({"command": script, "secrets": {"TOKEN": "hunter2-hunter2"}}))
    }

    /// The stored definition, as whoever reads the broker has it.
    async fn stored(&self, job: &JobView) -> (String, Value) {
        let subjects = self.fleet.nats.stored_subjects().await;
        let id = job.id.to_string();
        let (_, subject) = subjects
            .iter()
            .find(|(stream, subject)| stream == "KV_job-queue" && subject.contains(&id) && subject.contains(".def."))
            .unwrap();
        let message = self.fleet.nats.ask("$JS.API.STREAM.MSG.GET.KV_job-queue", &json!({"last_by_subj": subject})).await;
        let encoded = message["message"]["data"].as_str().unwrap().to_owned();
        let mut decode = std::process::Command::new("base64");
        decode.args(["-d"]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut decode = decode.spawn().unwrap();
        std::io::Write::write_all(&mut decode.stdin.take().unwrap(), encoded.as_bytes()).unwrap();
        let definition = serde_json::from_slice(&decode.wait_with_output().unwrap().stdout).unwrap();
        (subject.clone(), definition)
    }

    /// Writes a definition into the bucket as a client that is no controller, under another id, and gives how its job ended.
    async fn smuggle(&self, like: &str, mut definition: Value, id: &str) -> JobView {
        let was = definition["id"].as_str().unwrap().to_owned();
        definition["id"] = id.into();
        let subject = like.replace(&was, id);
        let stored = self.fleet.nats.ask(&subject, &definition).await;
        assert!(stored["seq"].is_u64(), "{stored}");
        let id = id.parse().unwrap();
        eventually("the smuggled job to end", PATIENCE, async || {
            let job = self.fleet.client.job(id, None).await.ok()?;
            job.status.is_final().then_some(job)
        })
        .await
    }
}

fn refused(job: &JobView, code: ErrorCode) -> String {
    let execution = &job.executions[0];
    let error = execution.error.clone().unwrap_or_else(|| panic!("{job:?}"));
    assert_eq!((job.status, error.code, execution.attempts), (JobStatus::Failed, code, 0), "{error:?}");
    error.message
}

const OTHER: &str = "j-00000000000000000000000007";

#[tokio::test]
async fn jobs_that_no_trusted_controller_signed_are_refused_by_agents() {
    let keyed = Keyed::start(3).await;
    let all = JobRequest { target: "_all".into(), ..keyed.with_secret("all") };
    let done = keyed.fleet.perform(&all).await;
    assert_eq!(done.status, JobStatus::Completed, "every share is signed, and opens: {done:?}");
    let done = keyed.fleet.perform(&keyed.with_secret("good")).await;
    assert_eq!(done.status, JobStatus::Completed, "{done:?}");
    let (subject, definition) = keyed.stored(&done).await;
    assert!(definition["signature"]["value"].is_string() && !definition.to_string().contains("hunter2"), "{definition}");

    let evil = keyed.witness.script("evil", "true");
    let mut altered = definition.clone();
    altered["args"]["command"] = evil.clone().into();
    assert!(refused(&keyed.smuggle(&subject, altered.clone(), OTHER).await, ErrorCode::Untrusted).contains("altered"));
    altered.as_object_mut().unwrap().remove("signature");
    let unsigned = keyed.smuggle(&subject, altered, "j-00000000000000000000000008").await;
    assert!(refused(&unsigned, ErrorCode::Untrusted).contains("not signed"));
    let replayed = keyed.smuggle(&subject, definition, "j-00000000000000000000000009").await;
    assert!(refused(&replayed, ErrorCode::Untrusted).contains("altered"), "also the very same under another id");
    let account = keyed.witness.read();
    assert_eq!((account.starts_of("evil"), account.starts_of("good"), account.starts_of("all")), (0, 1, 3));
}

#[tokio::test]
async fn a_sealed_value_that_is_moved_to_other_work_does_not_open() {
    let mut keyed = Keyed::start(1).await;
    // Without trusted keys the agent takes any job, so that only the sealing stands in the way.
    std::fs::remove_file(keyed.at("agent-0/jobs.pub")).unwrap();
    keyed.fleet.agents[0].kill_and_restart().await;
    let done = keyed.fleet.perform(&keyed.with_secret("good")).await;
    assert_eq!(done.status, JobStatus::Completed, "{done:?}");
    let (subject, mut definition) = keyed.stored(&done).await;
    definition["args"]["command"] = keyed.witness.script("thief", "printenv TOKEN").into();
    definition["sealed_for"] = done.id.to_string().into();
    let thief = keyed.smuggle(&subject, definition, OTHER).await;
    assert!(refused(&thief, ErrorCode::SecretsSealed).contains("does not open"));
    assert_eq!(keyed.witness.read().starts_of("thief"), 0);
}

#[tokio::test]
async fn keys_are_changed_while_a_job_waits_and_a_wrong_key_is_told() {
    let mut keyed = Keyed::start(1).await;
    // Sealed with the old key, it waits for its agent.
    keyed.fleet.agents[0].process().kill9();
    let waiting = JobRequest { target: "host-0".into(), wait_for_agents: Some("5m".into()), ..keyed.with_secret("waiting") };
    let waiting = keyed.fleet.client.submit(&waiting, None).await.unwrap();
    let told = keyed.says(&["key", "rotate", "--out", "keys"]);
    assert!(told.contains("First the agents"), "{told}");
    keyed.distribute().await;
    let waited = eventually("the job to be done", PATIENCE, async || {
        let job = keyed.fleet.client.job(waiting.id, Some(PATIENCE)).await.ok()?;
        job.status.is_final().then_some(job)
    })
    .await;
    assert_eq!(waited.status, JobStatus::Completed, "{waited:?}");
    let new = keyed.fleet.perform(&keyed.with_secret("new")).await;
    assert_eq!(new.status, JobStatus::Completed, "{new:?}");

    // Another fleet's keys: the agent cannot open, says so, and nothing is tried again.
    keyed.says(&["key", "generate", "--out", "other"]);
    std::fs::copy(keyed.at("other/secrets.key"), keyed.at("agent-0/secrets.key")).unwrap();
    keyed.fleet.agents[0].kill_and_restart().await;
    let retry = Some(RetryRequest { max_attempts: 5, backoff: Some(vec!["100ms".into()]) });
    let wrong = eventually("a refusal", PATIENCE, async || {
        let job =
            keyed.fleet.client.submit(&JobRequest { retry: retry.clone(), ..keyed.with_secret("wrong") }, Some(PATIENCE)).await.ok()?;
        job.status.is_final().then_some(job)
    })
    .await;
    assert!(refused(&wrong, ErrorCode::SecretsSealed).contains("sealed for the key"));
    let account = keyed.witness.read();
    assert_eq!((account.starts_of("waiting"), account.starts_of("new"), account.starts_of("wrong")), (1, 1, 0));
}

#[tokio::test]
async fn a_dead_job_with_a_secret_is_done_again_with_it() {
    let mut keyed = Keyed::start(1).await;
    let flag = keyed.at("mended");
    let script = format!("[ -e '{}' ] || exec sleep 600; {}", flag.display(), has_token("hunter2-hunter2"));
    let request = Client::request("command.shell", json!({"command": script, "secrets": {"TOKEN": "hunter2-hunter2"}}));
    let request = JobRequest { retry: Some(RetryRequest { max_attempts: 2, backoff: Some(vec!["100ms".into()]) }), ..request };
    let id = keyed.fleet.client.submit(&request, None).await.unwrap().id;
    for attempt in 1..=2 {
        eventually("an attempt to run", PATIENCE, async || {
            let execution = keyed.fleet.client.job(id, None).await.ok()?.executions.pop()?;
            (execution.attempts == attempt && execution.state.as_str() == "running").then_some(())
        })
        .await;
        keyed.fleet.agents[0].kill_and_restart().await;
    }
    assert!(keyed.fleet.client.job(id, Some(PATIENCE)).await.unwrap().status.is_final());
    std::fs::write(&flag, "").unwrap();
    let letter = eventually("the dead letter", PATIENCE, async || keyed.fleet.client.dead_letter(id).await.ok()).await;
    assert!(!serde_json::to_string(&letter).unwrap().contains("hunter2"));
    let again = eventually("a redrive", PATIENCE, async || keyed.fleet.client.redrive(id).await.ok()).await;
    let done = keyed.fleet.client.job(again.id, Some(PATIENCE)).await.unwrap();
    assert_eq!(done.status, JobStatus::Completed, "{done:?}");
    let journals: Vec<PathBuf> = ["agent-0", "controller"].iter().map(|name| keyed.at(name)).collect();
    assert_eq!(with("hunter2-hunter2", &[&journals[0], &journals[1], &keyed.fleet.nats.store_dir()]), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn without_keys_a_job_with_secrets_is_refused_with_what_to_do() {
    let fleet = Fleet::start(1).await;
    let request = Client::request("command.shell", json!({"command": "true", "secrets": {"A": SECRET}}));
    let refused = fleet.client.submit(&request, None).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::NoSealingKey), "{refused:?}");
    assert!(!format!("{refused:?} {request:?}").contains(SECRET));
    assert_eq!(fleet.perform(&shell("true")).await.status, JobStatus::Completed, "one without secrets is none the worse");
}
