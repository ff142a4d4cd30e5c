//! Brokers that ask who comes: each way to log in, given by flag, by environment and by file to the roles, and kept secret by all of them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use longshore_client::{Client, ClientConfig};
use longshore_model::JobStatus;
use longshore_model::wire::rest::JobRequest;
use longshore_testkit::credentials::{Authority, Nkey, Operator};
use longshore_testkit::{NatsOptions, NatsServer, Process, eventually};
use serde_json::Value;

use crate::fleet::{PATIENCE, free_address, longshore, shell};
use crate::settings::command_line;

/// A way to log in.
struct Login {
    /// What the broker knows.
    broker: String,
    /// The right credentials, each way they can be said.
    flags: Vec<String>,
    variables: Vec<(&'static str, String)>,
    yaml: String,
    /// Credentials that it does not know, and what a user is told of them.
    wrong: Vec<String>,
    /// What nobody may read anywhere.
    secrets: Vec<String>,
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.path().join(name);
        std::fs::write(&path, content).unwrap();
        text(&path)
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// A command that tells its log all it can.
fn command(dir: &Dir, first: &[&str], more: &[String]) -> Command {
    let mut command = longshore(dir.path(), first);
    command.args(more).env("LONGSHORE_LOG", "trace");
    command
}

async fn role(mut command: Command, dir: &Dir, name: &str) -> (Process, Value) {
    command.args(["-o", "json", "--data", &text(&dir.path().join(name))]);
    let process = Process::spawn(command);
    let line = process.wait_for_line(|line| line.starts_with('{'), PATIENCE).await;
    (process, serde_json::from_str(&line).unwrap())
}

/// The roles get in and do their work; nobody else does, and no secret shows.
async fn lets_roles_in_and_keeps_secrets(dir: &Dir, login: Login) {
    let options = NatsOptions { is_monitored: true, extra_config: login.broker.clone(), ..NatsOptions::default() };
    let server = NatsServer::start_with(options).await;
    let at = vec!["--nats-url".to_owned(), server.url()];
    let yaml = dir.file("longshore.yaml", &login.yaml);

    let listen = vec!["--listen".to_owned(), free_address()];
    let (controller, said) =
        role(command(dir, &["controller", "start"], &[&at[..], &listen, &login.flags].concat()), dir, "controller").await;
    let mut by_variables = command(dir, &["agent", "start", "--agent-hostname", "by-variables"], &at);
    by_variables.envs(login.variables.iter().map(|(name, value)| (*name, value)));
    let (agent, _) = role(by_variables, dir, "agent").await;
    let first = ["job", "worker", "start", "--worker-hostname", "by-file", "--config", &yaml];
    let (worker, _) = role(command(dir, &first, &at), dir, "worker").await;
    let first = ["agent", "start", "--agent-hostname", "by-flags"];
    let (other, _) = role(command(dir, &first, &[&at[..], &login.flags].concat()), dir, "other").await;

    let token = std::fs::read_to_string(said["token_file"].as_str().unwrap()).unwrap().trim().to_owned();
    let client = Client::new(ClientConfig { url: said["url"].as_str().unwrap().to_owned(), token: Some(token) }).unwrap();
    for target in ["by-variables", "by-file", "by-flags"] {
        let request = JobRequest { target: target.to_owned(), ..shell("true") };
        let view = eventually("the agent to be known", PATIENCE, async || client.submit(&request, Some(PATIENCE)).await.ok()).await;
        assert_eq!(view.status, JobStatus::Completed, "{view:?}");
    }

    let mut shown = Vec::new();
    for process in [&controller, &agent, &worker, &other] {
        shown.extend([process.output(), command_line(process)]);
    }
    for form in ["table", "json", "yaml"] {
        let mut show = command(dir, &["config", "show", "--config", &yaml, "-o", form], &[]);
        shown.push(said_in(&show.envs(login.variables.iter().map(|(name, value)| (*name, value))).output().unwrap()));
    }
    for more in [&login.wrong, &Vec::new()] {
        let refused =
            command(dir, &["agent", "start", "--data", &text(&dir.path().join("refused"))], &[&at[..], more].concat()).output().unwrap();
        let said = said_in(&refused);
        assert!(matches!(refused.status.code(), Some(4 | 5)), "{more:?}: {said}");
        let (what, fix) = match refused.status.code() {
            Some(4) if more.is_empty() => ("wants to know who we are", "--creds FILE"),
            Some(4) => ("does not let us in", "config show --origin"),
            _ => ("no secure connection to the broker", "--tls-c"),
        };
        assert!(said.contains(what) && said.contains(fix) && said.contains(&server.url()), "{more:?}: {said}");
        shown.push(said);
    }
    for secret in &login.secrets {
        let told = shown.iter().find(|text| text.contains(secret.as_str()));
        assert!(told.is_none(), "{secret} is told: {}", told.unwrap());
    }
}

fn said_in(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn roles_log_in_with_user_and_password() {
    let dir = Dir::new();
    let (right, wrong) = (dir.file("password", "s3cret-word\n"), dir.file("wrong", "hunter2\n"));
    let login = Login {
        broker: "authorization { users: [{user: ann, password: s3cret-word}] }".to_owned(),
        flags: words(["--user", "ann", "--password", &right]),
        variables: vec![
            ("LONGSHORE_NATS__AUTH__TYPE", "user_pass".to_owned()),
            ("LONGSHORE_NATS__AUTH__USER", "ann".to_owned()),
            ("LONGSHORE_NATS__AUTH__PASSWORD__ENV", "MY_PASSWORD".to_owned()),
            ("MY_PASSWORD", "s3cret-word".to_owned()),
        ],
        yaml: format!("nats: {{auth: {{type: user_pass, user: ann, password: {{file: {right}}}}}}}"),
        wrong: words(["--user", "ann", "--password", &wrong]),
        secrets: words(["s3cret-word", "hunter2"]),
    };
    lets_roles_in_and_keeps_secrets(&dir, login).await;
}

#[tokio::test]
async fn roles_log_in_with_a_token() {
    let dir = Dir::new();
    let (right, wrong) = (dir.file("token", "s3cret-word\n"), dir.file("wrong", "hunter2\n"));
    let login = Login {
        broker: "authorization { token: s3cret-word }".to_owned(),
        flags: words(["--nats-token-file", &right]),
        variables: vec![("LONGSHORE_NATS__AUTH__TYPE", "token".to_owned()), ("LONGSHORE_NATS__AUTH__TOKEN__FILE", right.clone())],
        yaml: format!("nats: {{auth: {{type: token, token: {{file: {right}}}}}}}"),
        wrong: words(["--nats-token-file", &wrong]),
        secrets: words(["s3cret-word", "hunter2"]),
    };
    lets_roles_in_and_keeps_secrets(&dir, login).await;
}

#[tokio::test]
async fn roles_log_in_with_an_nkey() {
    let dir = Dir::new();
    let (ours, strange) = (Nkey::generate(), Nkey::generate());
    let (right, wrong) = (dir.file("seed", &ours.seed), dir.file("wrong", &strange.seed));
    let login = Login {
        broker: format!("authorization {{ users: [{{nkey: {}}}] }}", ours.public),
        flags: words(["--nkey", &right]),
        variables: vec![
            ("LONGSHORE_NATS__AUTH__TYPE", "nkey".to_owned()),
            ("LONGSHORE_NATS__AUTH__NKEY", "{env: SEED}".to_owned()),
            ("SEED", ours.seed.clone()),
        ],
        yaml: format!("nats: {{auth: {{type: nkey, nkey: {{file: {right}}}}}}}"),
        wrong: words(["--nkey", &wrong]),
        secrets: vec![ours.seed, strange.seed],
    };
    lets_roles_in_and_keeps_secrets(&dir, login).await;
}

#[tokio::test]
async fn roles_log_in_with_a_credentials_file() {
    let dir = Dir::new();
    let (ours, strange) = (Operator::generate(), Operator::generate());
    let (ours_file, strange_file) = (ours.credentials(), strange.credentials());
    let (right, wrong) = (dir.file("right.creds", &ours_file), dir.file("wrong.creds", &strange_file));
    let seeds = [&ours_file, &strange_file].map(|file| file.lines().find(|line| line.starts_with("SU")).unwrap().to_owned());
    let login = Login {
        broker: ours.config(),
        flags: words(["--creds", &right]),
        variables: vec![("LONGSHORE_NATS__AUTH__TYPE", "creds".to_owned()), ("LONGSHORE_NATS__AUTH__CREDS", right.clone())],
        yaml: format!("nats: {{auth: {{type: creds, creds: {right}}}}}"),
        wrong: words(["--creds", &wrong]),
        secrets: seeds.to_vec(),
    };
    lets_roles_in_and_keeps_secrets(&dir, login).await;
}

#[tokio::test]
async fn roles_and_broker_show_each_other_their_certificates() {
    let dir = Dir::new();
    let (ours, strange) = (Authority::new_in(dir.path(), "ours"), Authority::new_in(dir.path(), "strange"));
    let (server, agent, other) = (ours.certify("127.0.0.1"), ours.certify("agent"), strange.certify("agent"));
    let secrets = [&agent.key, &other.key].map(|key| std::fs::read_to_string(key).unwrap().lines().nth(1).unwrap().to_owned());
    let flags = |ca: PathBuf, cert: &Path, key: &Path| words(["--tls-ca", &text(&ca), "--tls-cert", &text(cert), "--tls-key", &text(key)]);
    let login = Login {
        broker: ours.config(&server, true),
        flags: flags(ours.ca(), &agent.cert, &agent.key),
        variables: vec![
            ("LONGSHORE_NATS__TLS__CA", text(&ours.ca())),
            ("LONGSHORE_NATS__TLS__CERT", text(&agent.cert)),
            ("LONGSHORE_NATS__TLS__KEY", text(&agent.key)),
        ],
        yaml: format!("nats: {{tls: {{ca: {}, cert: {}, key: {}}}}}", text(&ours.ca()), text(&agent.cert), text(&agent.key)),
        wrong: flags(ours.ca(), &other.cert, &other.key),
        secrets: secrets.to_vec(),
    };
    lets_roles_in_and_keeps_secrets(&dir, login).await;

    // What can be wrong with the broker's own, and what the user is told to do.
    let server =
        NatsServer::start_with(NatsOptions { is_monitored: true, extra_config: ours.config(&server, false), ..NatsOptions::default() })
            .await;
    let by_name = server.url().replace("127.0.0.1", "localhost");
    for (url, ca, code, why, fix) in [
        (server.url(), strange.ca(), 5, "an authority that is not trusted here", "--tls-ca FILE"),
        (by_name, ours.ca(), 5, "not for the name it was called by", "--nats-url"),
        (server.url(), dir.path().join("none.pem"), 10, "none.pem cannot be read", "take PEM"),
        (server.url(), agent.key, 10, "holds no certificate in PEM form", "take PEM"),
    ] {
        let refused = longshore(dir.path(), &["agent", "start", "--nats-url", &url, "--tls-ca", &text(&ca)]).output().unwrap();
        let said = said_in(&refused);
        assert_eq!(refused.status.code(), Some(code), "{said}");
        assert!(said.contains(why) && said.contains(fix) && said.contains("broker_tls"), "{said}");
    }
}

#[tokio::test]
async fn what_is_said_of_a_broker_elsewhere_is_refused_where_longshore_runs_its_own() {
    let dir = Dir::new();
    let token = dir.file("token", "hunter2");
    for words in [["--nats-token-file", &token], ["--tls-ca", &token]] {
        let refused = longshore(dir.path(), &[&["start"][..], &words].concat()).output().unwrap();
        let said = said_in(&refused);
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(said.contains("is for a broker that runs elsewhere") && said.contains("--nats-url") && !said.contains("hunter2"), "{said}");
    }
}

#[tokio::test]
async fn an_agent_whose_user_may_do_no_more_than_the_document_says_runs_every_kind_of_work() {
    let dir = Dir::new();
    let id = "a-00000000000000000000000007";
    let document = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/broker-users.md")).unwrap();
    let block = |kind: &str| document.split(&format!("```{kind}\n")).nth(1).unwrap().split("```").next().unwrap().replace("AGENT", id);
    let password = dir.file("password", "s3cret");
    let yaml = dir.file("agent.yaml", &block("yaml").replace("/etc/longshore/password", &password));
    let server = NatsServer::start_with(NatsOptions {
        is_monitored: true,
        extra_config: format!(
            "authorization {{ users: [{{user: controller, password: s3cret}}, {}] }}",
            block("text").replace("PASSWORD", "s3cret")
        ),
        ..NatsOptions::default()
    })
    .await;
    let at = vec!["--nats-url".to_owned(), server.url()];
    let login = words(["--user", "controller", "--password", &password, "--listen", &free_address()]);
    let (_controller, said) = role(command(&dir, &["controller", "start"], &[&at[..], &login].concat()), &dir, "controller").await;
    std::fs::create_dir(dir.path().join("agent")).unwrap();
    std::fs::write(dir.path().join("agent/agent.id"), id).unwrap();
    let first = ["agent", "start", "--agent-hostname", "harbor", "--label", "group:web", "--config", &yaml];
    let (_agent, started) = role(command(&dir, &first, &at), &dir, "agent").await;
    assert_eq!(started["agent"], id);

    let (url, token) = (said["url"].as_str().unwrap(), said["token_file"].as_str().unwrap());
    let types = async |line: &[&str]| {
        let mut command = longshore(dir.path(), &[&["--url", url, "--token-file", token], line].concat());
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        (output.status.code(), said_in(&output))
    };
    eventually("the agent to be known", PATIENCE, async || types(&["agent", "list"]).await.1.contains("harbor").then_some(())).await;
    for target in ["_any", "_any@group:web", "harbor", "group:web"] {
        let (code, said) = types(&["run", "--yes", "--target", target, "--", "echo", "hello"]).await;
        assert!(code == Some(0) && said.contains("hello"), "{target}: {said}\n{}", server.log());
    }
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("in"), "content").unwrap();
    let (source, results) = (text(&source), text(&dir.path().join("results")));
    let (code, said) = types(&["run", "--out", &results, &source, "--", "cp in out"]).await;
    assert!(code == Some(0) && Path::new(&results).join("out").exists(), "{said}\n{}", server.log());
    for words in [&["agent", "drain", "harbor"][..], &["agent", "undrain", "harbor"], &["run", "--", "true"]] {
        let (code, said) = types(words).await;
        assert_eq!(code, Some(0), "{words:?}: {said}\n{}", server.log());
    }
    let log = server.log();
    assert!(!log.contains("Violation"), "{log}");
}
