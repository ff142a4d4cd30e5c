//! A controller on a free port, a client, and an agent in the test's hands.

use std::sync::Once;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use jiff::Timestamp;
use longshore_client::{Client, ClientConfig};
use longshore_controller::{
    Config, Controller, SigningKey,
    token::{self, Grant},
};
use longshore_model::wire::agent::Heartbeat;
use longshore_model::wire::log::{LogRecord, LogStream};
use longshore_model::wire::problem::Problem;
use longshore_model::wire::record::{Answer, Event, EventKind, Outcome, ResultObject, SCHEMA};
use longshore_model::wire::rest::JobView;
use longshore_model::{AgentId, ExecutionId, JobId, Label};
use longshore_store::{Appended, Delivery, Store, Wake, memory};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What a test waits for at most.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct House {
    pub(crate) store: Store,
    pub(crate) key: SigningKey,
    pub(crate) drain: CancellationToken,
    /// Where it listens with TLS, if it does.
    pub(crate) secured: Option<std::net::SocketAddr>,
    base: String,
    client: reqwest::Client,
    tasks: JoinSet<()>,
}

impl House {
    /// A controller with empty stores and the ready agent `web-01`.
    pub(crate) async fn with_agent() -> (Self, Agent) {
        let house = Self::start().await;
        let agent = house.agent(1, "web-01").await;
        (house, agent)
    }

    pub(crate) async fn start() -> Self {
        Self::on(memory::open(memory::MemoryOptions::default()), |_| {}).await
    }

    pub(crate) async fn on(store: Store, adjust: impl FnOnce(&mut Config)) -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| drop(rustls::crypto::aws_lc_rs::default_provider().install_default()));
        let key = SigningKey::new(b"a secret of the tests, 32 bytes.".to_vec());
        let mut config = Config::new(key.clone());
        config.reconcile_every = Duration::from_millis(20);
        adjust(&mut config);
        let controller = Controller::bind(config, store.clone()).await.unwrap();
        let base = format!("http://{}", controller.local_addr());
        let secured = controller.secured_addr();
        let drain = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let ending = drain.clone();
        tasks.spawn(async move { controller.run(ending).await.unwrap() });
        let house = Self { store, key, drain, secured, base, client: reqwest::Client::new(), tasks };
        house.until("ready", async || house.client.get(format!("{}/readyz", house.base)).send().await.unwrap().status() == 200).await;
        house
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        self.base.strip_prefix("http://").unwrap()
    }

    /// Ends it at once, as a kill does.
    pub(crate) fn kill(mut self) -> Store {
        self.tasks.abort_all();
        self.store.clone()
    }

    /// Waits until the controller has ended.
    pub(crate) async fn ended(mut self) {
        tokio::time::timeout(PATIENCE, self.tasks.join_next()).await.expect("the controller ends").unwrap().unwrap();
    }

    pub(crate) async fn agent(&self, bits: u128, hostname: &str) -> Agent {
        self.member(bits, hostname, &[]).await
    }

    pub(crate) async fn member(&self, bits: u128, hostname: &str, labels: &[&str]) -> Agent {
        let labels = labels.iter().map(|label| label.parse().unwrap()).collect();
        let agent = Agent { id: AgentId::from_bits(bits), hostname: hostname.to_owned(), labels, store: self.store.clone() };
        agent.beat().await;
        let id = agent.id.to_string();
        self.until("the agent is known", async || {
            let agents = self.get("/api/v1/agents").await;
            agents["items"].as_array().unwrap().iter().any(|item| item["id"] == id && item["state"] == "ready")
        })
        .await;
        agent
    }

    pub(crate) async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let wait = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
    }

    pub(crate) fn token(&self, roles: &[&str]) -> String {
        token::issue(&self.key, &Grant::new("ada", roles), Timestamp::now())
    }

    /// The typed client of an administrator.
    pub(crate) fn client(&self) -> Client {
        Client::new(ClientConfig { url: self.base.clone(), token: Some(self.token(&["admin"])) }).unwrap()
    }

    /// A request without a token.
    pub(crate) fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    /// A request of an administrator.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path).bearer_auth(self.token(&["admin"]))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let response = self.request(Method::GET, path).send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        self.request(Method::POST, path).json(body).send().await.unwrap()
    }

    pub(crate) async fn job(&self, id: JobId) -> JobView {
        serde_json::from_value(self.get(&format!("/api/v1/jobs/{id}")).await).unwrap()
    }

    /// Submits `node.hostname.get` for `_any` with additions.
    pub(crate) async fn submit(&self, more: Value) -> JobView {
        let mut body = json!({"operation": "node.hostname.get"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let response = self.post("/api/v1/jobs", &body).await;
        assert_eq!(response.status(), StatusCode::CREATED);
        response.json().await.unwrap()
    }
}

/// Reads a problem, checking its form.
pub(crate) async fn problem(response: Response) -> Problem {
    let status = response.status();
    assert_eq!(response.headers()["content-type"], "application/problem+json", "{status}");
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let problem: Problem = response.json().await.unwrap();
    assert_eq!(problem.status, status.as_u16());
    assert_eq!(problem.request_id, Some(id));
    assert_eq!(problem.kind, format!("/problems/{}", problem.code));
    problem
}

pub(crate) struct Agent {
    pub(crate) id: AgentId,
    pub(crate) hostname: String,
    labels: Vec<Label>,
    store: Store,
}

impl Agent {
    pub(crate) async fn leave(&self) {
        self.store.registry.leave(self.id).await.unwrap();
    }

    /// Takes one piece of a group's work.
    pub(crate) async fn take_of(&self, group: &str) -> Task {
        self.task(self.store.work.take(&group.parse().unwrap(), 1).await.unwrap().remove(0))
    }

    pub(crate) async fn beat(&self) {
        self.beat_as(|_| {}).await;
    }

    pub(crate) async fn beat_as(&self, adjust: impl FnOnce(&mut Heartbeat)) {
        let mut heartbeat = Heartbeat {
            refused_writes: 0,
            schema: SCHEMA,
            agent: self.id,
            hostname: self.hostname.clone(),
            version: "0".to_owned(),
            max_jobs: 10,
            running: 0,
            drained: false,
            labels: self.labels.clone(),
            conditions: Vec::new(),
            process: None,
            worker: None,
            packages: Vec::new(),
            started_at: Timestamp::UNIX_EPOCH,
        };
        adjust(&mut heartbeat);
        self.store.registry.beat(&heartbeat).await.unwrap();
    }

    /// Takes one piece of `_any` work.
    pub(crate) async fn take(&self) -> Task {
        let take = async {
            loop {
                if let Some(delivery) = self.store.work.pull(1).await.unwrap().next().await {
                    return self.task(delivery);
                }
            }
        };
        tokio::time::timeout(PATIENCE, take).await.expect("there is work")
    }

    /// Takes the one job there is, starts it, and stops it once its end was asked for `times` times.
    pub(crate) async fn obey(&self, job: JobId, times: usize) -> impl Future<Output = ()> {
        let task = self.take().await;
        assert_eq!(task.job, job);
        task.start().await;
        let mut wakes = self.store.work.wakes(self.id, &[]).await.unwrap();
        async move {
            for _ in 0..times {
                while wakes.next().await != Some(Wake::Cancel(job)) {}
            }
            task.answer(Outcome::Cancelled, json!(null)).await;
        }
    }

    /// Everything in the inbox.
    pub(crate) async fn inbox(&self) -> Vec<Task> {
        self.store.work.inbox(self.id, 0).await.unwrap().deliveries.into_iter().map(|delivery| self.task(delivery)).collect()
    }

    fn task(&self, delivery: Delivery) -> Task {
        let job = delivery.definition.id;
        let execution = delivery.definition.executions[0];
        Task { job, execution, delivery, agent: self.id, hostname: self.hostname.clone(), store: self.store.clone() }
    }
}

pub(crate) struct Task {
    pub(crate) job: JobId,
    pub(crate) execution: ExecutionId,
    pub(crate) delivery: Delivery,
    agent: AgentId,
    hostname: String,
    store: Store,
}

impl Task {
    pub(crate) async fn start(&self) -> Appended {
        let kind = EventKind::Started { attempt: 1, agent: self.agent, hostname: self.hostname.clone(), delivery: None };
        let event = Event { schema: SCHEMA, at: Timestamp::now(), kind };
        self.store.ledger.append(self.job, self.execution, self.delivery.revision, &event).await.unwrap()
    }

    pub(crate) async fn log(&self, seq: u64, bytes: &[u8]) {
        let record = LogRecord {
            job: self.job,
            execution: self.execution,
            agent: self.agent,
            attempt: 1,
            step: 0,
            seq,
            time: Timestamp::now(),
            stream: LogStream::Stdout,
            gap: None,
            bytes: bytes.to_vec(),
        };
        self.store.logs.append(&[record]).await.unwrap();
    }

    pub(crate) async fn answer(&self, outcome: Outcome, result: Value) {
        self.answer_with(outcome, Some(result), None).await;
    }

    pub(crate) async fn answer_with(&self, outcome: Outcome, result: Option<Value>, result_object: Option<ResultObject>) {
        let answer = Answer {
            agent: Some(self.agent),
            hostname: Some(self.hostname.clone()),
            changed: Some(false),
            result,
            result_object,
            cancel_verified: (outcome == Outcome::Cancelled).then_some(true),
            duration_ms: Some(1),
            ..Answer::new(self.job, self.execution, outcome, 1, Timestamp::now())
        };
        self.store.ledger.answer(&answer).await.unwrap();
        self.delivery.lease.done().await.unwrap();
    }

    /// Starts and completes.
    pub(crate) async fn complete(&self) {
        assert!(matches!(self.start().await, Appended::Stored(_)));
        self.answer(Outcome::Completed, json!({"hostname": self.hostname})).await;
    }
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sent {
    pub(crate) id: Option<String>,
    pub(crate) event: Option<String>,
    pub(crate) data: Value,
}

/// Reads server-sent events as they come.
pub(crate) struct Reader {
    response: Response,
    buffer: Vec<u8>,
}

impl Reader {
    pub(crate) fn new(response: Response) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, buffer: Vec::new() }
    }

    /// The next event; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                match parse(std::str::from_utf8(&block).unwrap()) {
                    Some(sent) => return Some(sent),
                    None => continue,
                }
            }
            let chunk: Option<Bytes> = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("the stream goes on").unwrap();
            self.buffer.extend_from_slice(&chunk?);
        }
    }

    /// Everything up to the end of the stream.
    pub(crate) async fn rest(mut self) -> Vec<Sent> {
        let mut all = Vec::new();
        while let Some(sent) = self.next().await {
            all.push(sent);
        }
        all
    }
}

fn parse(block: &str) -> Option<Sent> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim_start().to_owned());
    let data = field("data:")?;
    Some(Sent { id: field("id:"), event: field("event:"), data: serde_json::from_str(&data).unwrap() })
}
