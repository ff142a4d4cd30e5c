//! Settings and flags as the broker sees them: what was set is read back from its streams, its consumers, its connections and what is
//! stored in it, or seen in what the program does.

use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use longshore_client::{Client, ClientConfig};
use longshore_model::JobStatus;
use longshore_model::wire::rest::{JobRequest, JobView, RetryRequest};
use longshore_testkit::{NatsOptions, NatsServer, Process, eventually};
use serde_json::{Value, json};

use crate::fleet::{PATIENCE, free_address, longshore, shell};

/// Every setting of what is kept on a broker, none of them as it is by default.
const EVERYTHING: &str = "
nats:
  server: {namespace: blue}
  stream: {name: WORK, subjects: acme.jobs.>, max_age: 26h, max_bytes: 17MiB, storage: memory}
  kv: {bucket: defs, response_bucket: outs, ttl: 27h, max_bytes: 18MiB}
  dlq: {stream: DEAD, max_age: 28h, max_bytes: 19MiB}
  logs: {stream: OUTPUT, max_age: 29h, max_bytes: 20MiB}
  audit: {stream: TRAIL, max_age: 30h, max_bytes: 21MiB}
  registry: {bucket: alive, ttl: 33s}
  state: {bucket: wanted}
  facts: {bucket: known, ttl: 32h, max_bytes: 23MiB}
  objects: {bucket: things, max_age: 31h, max_bytes: 22MiB}
agent:
  queue_group: crew
  client_name: crew-member
  hostname: harbor
  max_jobs: 3
  labels: {group: web.dev}
  consumer: {max_deliver: 7, ack_wait: 41s, max_ack_pending: 43, replay_policy: original, back_off: [200ms, 900ms]}
";

const HOUR_NS: u64 = 3_600_000_000_000;

/// A key, where the broker shows it, and as what.
type Row = (&'static str, String, &'static str, Value);

fn rows() -> Vec<Row> {
    let stream = |name: &str| format!("$JS.API.STREAM.INFO.blue-{name}");
    let bucket = |name: &str| format!("$JS.API.STREAM.INFO.KV_blue-{name}");
    let objects = || "$JS.API.STREAM.INFO.OBJ_blue-things".to_owned();
    let consumer = || "$JS.API.CONSUMER.INFO.blue-WORK.crew".to_owned();
    let (age, bytes) = ("/config/max_age", "/config/max_bytes");
    let hours = |n: u64| json!(n * HOUR_NS);
    let mib = |n: u64| json!(n << 20);
    vec![
        ("nats.server.namespace", stream("WORK"), "/config/name", json!("blue-WORK")),
        ("nats.stream.name", stream("WORK"), "/config/name", json!("blue-WORK")),
        ("nats.stream.subjects", stream("WORK"), "/config/subjects", json!(["blue.acme.jobs.query.>", "blue.acme.jobs.modify.>"])),
        ("nats.stream.max_age", stream("WORK"), age, hours(26)),
        ("nats.stream.max_bytes", stream("WORK"), bytes, mib(17)),
        ("nats.stream.storage", stream("WORK"), "/config/storage", json!("memory")),
        ("nats.stream.storage", bucket("defs"), "/config/storage", json!("memory")),
        ("nats.kv.bucket", bucket("defs"), "/config/name", json!("KV_blue-defs")),
        ("nats.kv.ttl", bucket("defs"), age, hours(27)),
        ("nats.kv.max_bytes", bucket("defs"), bytes, mib(18)),
        ("nats.kv.response_bucket", bucket("outs"), "/config/name", json!("KV_blue-outs")),
        ("nats.kv.ttl", bucket("outs"), age, hours(27)),
        ("nats.kv.max_bytes", bucket("outs"), bytes, mib(18)),
        ("nats.dlq.stream", stream("DEAD"), "/config/name", json!("blue-DEAD")),
        ("nats.dlq.max_age", stream("DEAD"), age, hours(28)),
        ("nats.dlq.max_bytes", stream("DEAD"), bytes, mib(19)),
        ("nats.logs.stream", stream("OUTPUT"), "/config/name", json!("blue-OUTPUT")),
        ("nats.logs.max_age", stream("OUTPUT"), age, hours(29)),
        ("nats.logs.max_bytes", stream("OUTPUT"), bytes, mib(20)),
        ("nats.audit.stream", stream("TRAIL"), "/config/name", json!("blue-TRAIL")),
        ("nats.audit.max_age", stream("TRAIL"), age, hours(30)),
        ("nats.audit.max_bytes", stream("TRAIL"), bytes, mib(21)),
        ("nats.registry.bucket", bucket("alive"), "/config/name", json!("KV_blue-alive")),
        ("nats.state.bucket", bucket("wanted"), "/config/name", json!("KV_blue-wanted")),
        ("nats.facts.bucket", bucket("known"), "/config/name", json!("KV_blue-known")),
        ("nats.facts.ttl", bucket("known"), age, hours(32)),
        ("nats.facts.max_bytes", bucket("known"), bytes, mib(23)),
        ("nats.objects.bucket", objects(), "/config/name", json!("OBJ_blue-things")),
        ("nats.objects.max_age", objects(), age, hours(31)),
        ("nats.objects.max_bytes", objects(), bytes, mib(22)),
        ("agent.queue_group", consumer(), "/config/durable_name", json!("crew")),
        ("agent.consumer.max_deliver", consumer(), "/config/max_deliver", json!(7)),
        ("agent.consumer.ack_wait", consumer(), "/config/ack_wait", json!(41_000_000_000_u64)),
        ("agent.consumer.max_ack_pending", consumer(), "/config/max_ack_pending", json!(43)),
        ("agent.consumer.replay_policy", consumer(), "/config/replay_policy", json!("original")),
        // A list of the broker's own would let its first step take the place of the ack wait.
        ("agent.consumer.back_off", consumer(), "/config/backoff", Value::Null),
    ]
}

/// A controller and an agent of one configuration, with nothing of a fleet's usual settings.
struct Site {
    nats: NatsServer,
    dir: tempfile::TempDir,
    client: Client,
    processes: Vec<Process>,
}

impl Site {
    async fn start(yaml: &str) -> Self {
        let nats = NatsServer::start_with(NatsOptions { is_monitored: true, ..NatsOptions::default() }).await;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("longshore.yaml"), yaml).unwrap();
        let mut site =
            Self { nats, dir, client: Client::new(ClientConfig { url: "http://x".into(), token: None }).unwrap(), processes: vec![] };
        let address = free_address();
        let said = site.role(&["controller", "start", "--listen", &address]).await;
        let token = std::fs::read_to_string(said["token_file"].as_str().unwrap()).unwrap().trim().to_owned();
        let url = said["url"].as_str().unwrap().to_owned();
        site.client = Client::new(ClientConfig { url, token: Some(token) }).unwrap().with_retry_budget(PATIENCE);
        site
    }

    fn command(&self, words: &[&str]) -> Command {
        let config = self.dir.path().join("longshore.yaml");
        let mut command = longshore(self.dir.path(), words);
        command.env_remove(crate::fleet::LEASE).arg("--config").arg(config).args(["-o", "json"]);
        command
    }

    /// Starts a role on this site's broker, with a data directory of its own, and gives what it says when it is ready.
    async fn role(&mut self, words: &[&str]) -> Value {
        let data = self.dir.path().join(format!("data-{}", self.processes.len()));
        let mut command = self.command(words);
        command.arg("--data").arg(data);
        if !words.iter().any(|word| word.ends_with("-host")) {
            command.args(["--nats-url", &self.nats.url()]);
        }
        let process = Process::spawn(command);
        let line = process.wait_for_line(|line| line.starts_with('{'), PATIENCE).await;
        self.processes.push(process);
        serde_json::from_str(&line).unwrap()
    }

    /// The heartbeat of an agent as the broker keeps it: its headers, and what it says.
    async fn heartbeat(&self, bucket: &str, agent: &str) -> (String, Value) {
        let subject = format!("$JS.API.STREAM.MSG.GET.KV_{bucket}");
        let message = self.nats.ask(&subject, &json!({ "last_by_subj": format!("$KV.{bucket}.{agent}") })).await;
        let decoded = |key: &str| BASE64_STANDARD.decode(message["message"][key].as_str().unwrap_or_default()).unwrap();
        (String::from_utf8(decoded("hdrs")).unwrap(), serde_json::from_slice(&decoded("data")).unwrap())
    }

    /// The names of all connections, as the broker lists them.
    async fn connections(&self) -> Vec<String> {
        let list = self.nats.monitor("/connz").await;
        list["connections"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap_or_default().to_owned()).collect()
    }

    async fn perform(&self, request: &JobRequest) -> JobView {
        eventually("an agent to be known", PATIENCE, async || self.client.submit(request, Some(PATIENCE)).await.ok()).await
    }

    /// Runs a job whose host fails it in passing three times, and gives the milliseconds between its starts.
    async fn waits_between_attempts(&self, target: &str) -> Vec<i128> {
        // Without its supervisor nobody knows how a program ended.
        let retry = Some(RetryRequest { max_attempts: 3, backoff: None });
        let view = self.perform(&JobRequest { retry, target: target.to_owned(), ..shell("kill -9 $PPID; sleep 60") }).await;
        let whole = self.client.job(view.id, Some(PATIENCE)).await.unwrap();
        assert_eq!(whole.executions[0].attempts, 3, "{whole:?}");
        let starts: Vec<_> = whole.timeline.iter().filter(|entry| entry.event == "started").map(|entry| entry.at).collect();
        starts.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_millis()).collect()
    }
}

#[tokio::test]
async fn every_setting_of_streams_and_consumers_is_what_the_broker_says_of_them() {
    let mut site = Site::start(EVERYTHING).await;
    let agent = site.role(&["agent", "start"]).await["agent"].as_str().unwrap().to_owned();
    // The names fit together: work for anybody, for a group and for one host arrives and is answered.
    for target in ["_any", "_any@group:web", "harbor"] {
        let view = site.perform(&JobRequest { target: target.into(), ..shell("echo hello") }).await;
        assert_eq!((view.status, view.executions[0].hostname.as_deref()), (JobStatus::Completed, Some("harbor")), "{view:?}");
    }
    for (key, question, pointer, expected) in rows() {
        let answer = site.nats.ask(&question, &Value::Null).await;
        let found = answer.pointer(pointer).cloned().unwrap_or_default();
        assert_eq!(found, expected, "{key}: {question} says {answer}");
    }
    let names = site.nats.ask("$JS.API.STREAM.NAMES", &Value::Null).await;
    let strange: Vec<_> = names["streams"].as_array().unwrap().iter().filter(|name| !name.to_string().contains("blue-")).collect();
    assert!(strange.is_empty(), "outside of the namespace: {strange:?}");

    let (headers, heartbeat) = site.heartbeat("blue-alive", &agent).await;
    assert!(headers.contains("Nats-TTL: 33s"), "nats.registry.ttl: {headers:?}");
    assert_eq!((&heartbeat["hostname"], &heartbeat["max_jobs"]), (&json!("harbor"), &json!(3)), "agent.hostname, agent.max_jobs");
    assert_eq!(heartbeat["labels"], json!(["group:web.dev"]), "agent.labels");
    let connections = site.connections().await;
    assert!(connections.iter().any(|name| name == "crew-member"), "agent.client_name: {connections:?}");
    assert_eq!(site.client.status().await.unwrap().broker.durability, "relaxed", "nats.stream.storage");

    let waits = site.waits_between_attempts("_any").await;
    assert!(waits[0] >= 200 && waits[1] >= 900 && waits.iter().all(|wait| *wait < 20_000), "agent.consumer.back_off: {waits:?}");
}

#[tokio::test]
async fn every_flag_of_an_agent_is_seen_at_the_broker_or_in_what_it_does() {
    // A file says otherwise, and a flag wins over it.
    let mut site = Site::start(
        "job: {worker: {max_jobs: 9, hostname: nobody, queue_group: older, labels: {rack: b2}}}\n\
         agent: {client_name: nobody, consumer: {ack_wait: 9s}}",
    )
    .await;
    let port = site.nats.port().to_string();
    for (prefix, start) in [("agent", &["agent", "start"][..]), ("worker", &["job", "worker", "start"])] {
        let flag = |name: &str| format!("--{prefix}-{name}");
        let (host, at, name) = (flag("host"), flag("port"), flag("client-name"));
        let (group, hostname, max_jobs) = (flag("queue-group"), flag("hostname"), flag("max-jobs"));
        let (client, crew, harbor) = (format!("{prefix}-client"), format!("{prefix}-crew"), format!("{prefix}-harbor"));
        let own = [&host, "127.0.0.1", &at, &port, &name, &client, &group, &crew, &hostname, &harbor, &max_jobs, "4"];
        let consumer = [
            ["--consumer-max-deliver", "9"],
            ["--consumer-ack-wait", "51s"],
            ["--consumer-max-ack-pending", "53"],
            ["--consumer-replay-policy", "original"],
            ["--consumer-back-off", "300ms,800ms"],
        ];
        let said = site.role(&[start, &own, consumer.as_flattened()].concat()).await;
        let agent = said["agent"].as_str().unwrap_or_else(|| panic!("{said}")).to_owned();

        let waits = site.waits_between_attempts(&harbor).await;
        assert!(waits[0] >= 300 && waits[1] >= 800 && waits.iter().all(|wait| *wait < 20_000), "--consumer-back-off: {waits:?}");
        let question = format!("$JS.API.CONSUMER.INFO.JOBS.{crew}");
        let found = eventually("the consumer", PATIENCE, async || {
            let answer = site.nats.ask(&question, &Value::Null).await;
            answer.get("config").cloned()
        })
        .await;
        assert_eq!(found["max_deliver"], 9, "{found}");
        assert_eq!(found["ack_wait"], 51_000_000_000_u64, "no back-off overrides it: {found}");
        assert_eq!(found["max_ack_pending"], 53, "{found}");
        assert_eq!(found["replay_policy"], "original", "{found}");
        assert_eq!(found.get("backoff"), None, "{found}");
        let (_, heartbeat) = site.heartbeat("agent-registry", &agent).await;
        assert_eq!((&heartbeat["hostname"], &heartbeat["max_jobs"]), (&json!(harbor), &json!(4)));
        let connections = site.connections().await;
        assert!(connections.contains(&client), "{connections:?}");

        // The work for anybody goes to one group, and agents of another are told so.
        let data = site.dir.path().join("refused").display().to_string();
        let mut other = site.command(&["agent", "start", "--nats-url", &site.nats.url(), "--data", &data]);
        let refused = other.output().unwrap();
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && text.contains(&crew) && text.contains("agent.queue_group"), "{text}");
        site.processes.pop().unwrap().kill9();
    }
    // The earlier spelling of keys, where no flag says otherwise.
    let older = site.role(&["agent", "start", "--consumer-ack-wait", "2m"]).await;
    let (_, heartbeat) = site.heartbeat("agent-registry", older["agent"].as_str().unwrap()).await;
    assert_eq!((&heartbeat["hostname"], &heartbeat["max_jobs"], &heartbeat["labels"]), (&json!("nobody"), &json!(9), &json!(["rack:b2"])));
    let consumer = site.nats.ask("$JS.API.CONSUMER.INFO.JOBS.older", &Value::Null).await;
    assert_eq!(consumer["config"]["durable_name"], "older", "job.worker.queue_group: {consumer}");

    let labelled = site
        .role(&["agent", "start", "--label", "rack:a1", "--max-jobs", "6", "--agent-hostname", "third", "--consumer-ack-wait", "2m"])
        .await;
    let (_, heartbeat) = site.heartbeat("agent-registry", labelled["agent"].as_str().unwrap()).await;
    assert_eq!((&heartbeat["labels"], &heartbeat["max_jobs"]), (&json!(["rack:a1"]), &json!(6)));
}

#[tokio::test]
async fn copies_that_a_single_server_cannot_keep_are_refused_by_name() {
    let nats = NatsServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut command = longshore(dir.path(), &["agent", "start", "--nats-url", &nats.url()]);
    let output = command.env("LONGSHORE_NATS__STREAM__REPLICAS", "3").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("nats.stream.replicas"), "{text}");
}

/// What stands on a running process's command line, for everybody on the host to read.
pub(crate) fn command_line(process: &Process) -> String {
    let bytes = std::fs::read(Path::new("/proc").join(process.pid().to_string()).join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}
