//! Who may call what: every operation of the description, tried with every kind of token against a real controller and a real broker.
//!
//! What is expected comes from the description alone, so a new endpoint is in here by itself, and one that does not say what it needs
//! fails. So does what each of those calls leaves in the audit trail.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use longshore_controller::SigningKey;
use longshore_controller::token::{self, Grant};
use longshore_model::JobId;
use longshore_model::access::{Caller, Roles};
use longshore_model::operation::Operation;
use longshore_model::wire::audit::AuditRecord;
use longshore_model::wire::problem::ErrorCode;
use longshore_store::jetstream;
use longshore_testkit::NatsServer;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::dead_letters::die;
use crate::support::{Agent, House, problem};

/// Scopes that are no permissions: see the description of the scheme.
const OF_OPERATION: &str = "operation";
const OF_TARGET: &str = "target";
/// What samples have done: a read, so that most roles may.
const SAMPLE: Operation = Operation::NodeHostnameGet;

/// An operation as it is described.
struct Described {
    name: String,
    method: Method,
    path: String,
    /// Nothing for one that takes no token.
    scopes: Option<Vec<String>>,
    has_wait: bool,
    has_body: bool,
    /// The statuses that it may answer with.
    statuses: BTreeSet<u16>,
}

impl Described {
    fn needs(&self, scope: &str) -> bool {
        self.scopes.iter().flatten().any(|known| known == scope)
    }

    /// The permissions that the sample request takes.
    fn permissions(&self) -> BTreeSet<String> {
        let scopes = self.scopes.iter().flatten().filter(|scope| ![OF_OPERATION, OF_TARGET].contains(&scope.as_str())).cloned();
        let of_operation = self.needs(OF_OPERATION).then(|| SAMPLE.spec().permission.to_owned());
        scopes.chain(of_operation).collect()
    }

    fn changes(&self) -> bool {
        !matches!(self.method, Method::GET | Method::HEAD)
    }

    /// Whether a call that was let in is on record: it may change something, or have somebody do something.
    fn is_recorded(&self) -> bool {
        self.scopes.is_some() && (self.changes() || self.needs(OF_TARGET))
    }
}

fn described() -> Vec<Described> {
    let document = serde_json::to_value(longshore_controller::openapi()).unwrap();
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap().to_owned();
            let [requirement] = operation["security"].as_array().unwrap_or_else(|| panic!("{name} does not say what it needs")).as_slice()
            else {
                panic!("{name} needs one thing or another")
            };
            let scopes = requirement.get("bearer").map(|scopes| serde_json::from_value::<Vec<String>>(scopes.clone()).unwrap());
            assert!(scopes.as_ref().is_none_or(|scopes| !scopes.is_empty()), "{name} does not say which permission it needs");
            let has_wait = operation["parameters"].as_array().into_iter().flatten().any(|field| field["name"] == "wait");
            let has_body = operation.get("requestBody").is_some();
            let statuses = operation["responses"].as_object().unwrap().keys().map(|status| status.parse().unwrap()).collect();
            let method = method.to_uppercase().parse().unwrap();
            all.push(Described { name, method, path: path.clone(), scopes, has_wait, has_body, statuses });
        }
    }
    all
}

/// Every permission that anything needs.
fn every_permission() -> BTreeSet<String> {
    described().iter().flat_map(Described::permissions).chain(Operation::ALL.map(|one| one.spec().permission.to_owned())).collect()
}

fn role_of(permission: &str) -> String {
    format!("only-{}", permission.replace(':', "-"))
}

fn roles() -> Roles {
    Roles::with(every_permission().into_iter().map(|permission| (role_of(&permission), BTreeSet::from([permission]))).collect()).unwrap()
}

/// How a call is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    Unauthenticated,
    Forbidden,
    /// Let in; what the request comes to is its own business.
    LetIn,
}

/// A token, or none, and how each call with it is to end.
struct Card {
    what: String,
    token: Option<String>,
    ends: Ends,
}

/// Every kind of token for one operation.
fn cards(house: &House, operation: &Described) -> Vec<Card> {
    let now = Timestamp::now();
    let past = now - SignedDuration::from_secs(120);
    let grant = |roles: &[&str]| Grant::new("ada", roles);
    let signed = |grant: &Grant| Some(token::issue(&house.key, grant, now));
    let nobodys = [
        ("no token".to_owned(), None),
        ("not a token".to_owned(), Some("x.y.z".to_owned())),
        (
            "an expired token".to_owned(),
            Some(token::issue(&house.key, &Grant { lifetime: Some(Duration::from_secs(60)), ..grant(&["admin"]) }, past)),
        ),
        ("a foreign key's token".to_owned(), Some(token::issue(&SigningKey::new(vec![7; 32]), &grant(&["admin"]), now))),
        ("a token with an unknown role".to_owned(), signed(&grant(&["root"]))),
    ];
    let Some(_) = operation.scopes else {
        return nobodys.into_iter().map(|(what, token)| Card { what, token, ends: Ends::LetIn }).collect();
    };
    let mut cards: Vec<Card> = nobodys.into_iter().map(|(what, token)| Card { what, token, ends: Ends::Unauthenticated }).collect();
    let needed = operation.permissions();
    let roles = roles();
    let mut add = |what: String, grant: Grant, also: bool| {
        let caller = Caller::new("ada", &roles, &grant.roles, grant.permissions.as_deref(), None).unwrap();
        let ends = if also && needed.iter().all(|permission| caller.may(permission)) { Ends::LetIn } else { Ends::Forbidden };
        cards.push(Card { what, token: signed(&grant), ends });
    };
    for role in ["read", "write", "admin"] {
        add(format!("the role {role}"), grant(&[role]), true);
    }
    for permission in every_permission() {
        add(format!("a configured role with {permission}"), grant(&[&role_of(&permission)]), true);
    }
    let exactly: Vec<String> = needed.iter().cloned().collect();
    add("exactly what is needed".to_owned(), Grant { permissions: Some(exactly), ..grant(&["admin"]) }, true);
    for missing in &needed {
        let but: Vec<String> = every_permission().into_iter().filter(|permission| permission != missing).collect();
        add(format!("everything but {missing}"), Grant { permissions: Some(but), ..grant(&["admin"]) }, true);
    }
    let elsewhere = Grant { targets: Some(vec!["db-99".to_owned()]), ..grant(&["admin"]) };
    add("a token for another target".to_owned(), elsewhere, !operation.needs(OF_TARGET));
    cards
}

/// A job that has ended for want of attempts: there is a letter of it, it can be repeated, cancelled and deleted.
async fn ended_job(house: &House, agent: &Agent) -> JobId {
    let job = house.submit(json!({"target": "web-01", "retry": {"max_attempts": 2, "backoff": ["0s"]}})).await.id;
    let task = loop {
        if let Some(task) = agent.inbox().await.into_iter().find(|task| task.job == job) {
            break task;
        }
    };
    die(&house.store, agent, &task).await;
    job
}

/// What is sent: for what needs the operation's permission or is for a target, something that can be done.
fn body(operation: &str) -> Value {
    match operation {
        "submit_job" => json!({"operation": SAMPLE.name(), "target": "web-01"}),
        "earlier_submit_job" => json!({"operation": {"type": SAMPLE.name()}, "target_hostname": "web-01"}),
        "set_node_hostname" => json!({"hostname": "web-02"}),
        "set_node_dns" => json!({"servers": ["192.0.2.53"]}),
        "ping_from_node" => json!({"address": "192.0.2.1"}),
        "exec_on_node" => json!({"command": ["true"]}),
        "shell_on_node" => json!({"command": "true"}),
        _ => json!({}),
    }
}

async fn call(house: &House, operation: &Described, job: JobId, token: Option<&str>, id: &str) -> Response {
    let mut path = operation.path.clone();
    for (name, value) in [
        ("{id}", job.to_string()),
        ("{agent}", "web-01".to_owned()),
        ("{target}", "web-01".to_owned()),
        ("{interface}", "eth0".to_owned()),
        ("{execution}", "any".to_owned()),
        ("{sha256}", "0".repeat(64)),
        ("{path}", "x".to_owned()),
        ("{code}", "forbidden".to_owned()),
    ] {
        path = path.replace(name, &value);
    }
    assert!(!path.contains('{'), "{path}: give the new part of a path a sample");
    if operation.has_wait {
        path.push_str("?wait=1ms");
    }
    let mut request = house.bare(operation.method.clone(), &path).header("x-request-id", id);
    if operation.has_body {
        request = request.json(&body(&operation.name));
    }
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn every_operation_lets_in_exactly_those_whom_the_description_says() {
    let server = NatsServer::start().await;
    let store = jetstream::connect(&jetstream::Config { url: server.url(), ..jetstream::Config::default() }).await.unwrap();
    let house = House::on(store, |config| config.roles = roles()).await;
    let agent = house.agent(1, "web-01").await;
    let mut job = ended_job(&house, &agent).await;
    let mut wrong = String::new();
    let mut tries = Vec::new();
    for operation in described() {
        agent.beat().await;
        for Card { what, token, ends } in cards(&house, &operation) {
            let id = format!("try-{}", tries.len());
            let response = call(&house, &operation, job, token.as_deref(), &id).await;
            let line = format!("{} {} with {what}", operation.method, operation.path);
            tries.push(Try { line, ends, is_recorded: ends == Ends::Forbidden || operation.is_recorded() });
            let status = response.status();
            let found = match status {
                StatusCode::UNAUTHORIZED => Ends::Unauthenticated,
                StatusCode::FORBIDDEN => Ends::Forbidden,
                _ => Ends::LetIn,
            };
            if found != ends || status.is_server_error() || status == StatusCode::METHOD_NOT_ALLOWED {
                let _ = writeln!(wrong, "{} {} with {what}: {status}, where {ends:?} is described", operation.method, operation.path);
            }
            if !operation.statuses.contains(&status.as_u16()) {
                let _ = writeln!(wrong, "{} {} with {what}: {status} is not described", operation.method, operation.path);
            }
            if found != Ends::LetIn && operation.method != Method::HEAD {
                let code = if found == Ends::Forbidden { ErrorCode::Forbidden } else { ErrorCode::Unauthenticated };
                assert_eq!(problem(response).await.code, code);
            }
            // Who was let in may have done something with it.
            if found == Ends::LetIn && operation.changes() && operation.path.contains("{id}") {
                job = ended_job(&house, &agent).await;
            }
        }
        if operation.path.contains("{agent}") {
            let undrained = house.request(Method::POST, "/api/v1/agents/web-01/undrain").send().await.unwrap();
            assert_eq!(undrained.status(), StatusCode::OK);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(tries.len() > 600, "{}", tries.len());
    compare_with_trail(&house, &tries).await;
}

/// The least that each operation takes.
fn arguments(operation: Operation) -> Value {
    match operation {
        Operation::CommandExec => json!({"command": ["true"]}),
        Operation::CommandShell => json!({"command": "true"}),
        Operation::NetworkDnsSet => json!({"servers": ["192.0.2.53"]}),
        Operation::NetworkPingRun => json!({"address": "192.0.2.1"}),
        Operation::NodeHostnameSet => json!({"hostname": "web-02"}),
        Operation::PackageInstall => {
            json!({"package": "example.pkg", "version": "1.0.0", "url": "https://packages.example/example.zip", "sha256": "0".repeat(64)})
        }
        Operation::PackageRun => json!({"package": "example.pkg", "node": "echo"}),
        Operation::PackageUninstall => json!({"package": "example.pkg"}),
        Operation::WorkspaceRun => json!({"steps": ["true"]}),
        Operation::NetworkDnsGet
        | Operation::NodeDiskGet
        | Operation::NodeHostnameGet
        | Operation::NodeLoadGet
        | Operation::NodeMemoryGet
        | Operation::NodeOsGet
        | Operation::NodeStatusGet
        | Operation::NodeUptimeGet
        | Operation::PackageList => json!({}),
    }
}

#[tokio::test]
async fn each_operation_takes_its_own_permission_to_be_submitted_and_to_be_repeated() {
    let (house, agent) = House::with_agent().await;
    let send = async |permissions: &[String], path: &str, body: &Value| {
        let grant = Grant { permissions: Some(permissions.to_vec()), ..Grant::new("bob", &["admin"]) };
        let token = token::issue(&house.key, &grant, Timestamp::now());
        house.bare(Method::POST, path).bearer_auth(token).json(body).send().await.unwrap()
    };
    for operation in Operation::ALL {
        agent.beat().await;
        let permission = operation.spec().permission;
        let all_but: Vec<String> = every_permission().into_iter().filter(|known| known != permission).collect();
        let needed = ["job:write", permission].map(str::to_owned);
        let body = json!({"operation": operation.name(), "args": arguments(operation)});
        let refused = problem(send(&all_but, "/api/v1/jobs", &body).await).await;
        assert!(refused.code == ErrorCode::Forbidden && refused.detail.contains(permission), "{operation:?}: {refused:?}");
        let accepted = send(&needed, "/api/v1/jobs", &body).await;
        if operation == Operation::PackageRun {
            assert_eq!(problem(accepted).await.code, ErrorCode::NoAgent, "nobody here has a package");
            continue;
        }
        assert_eq!(accepted.status(), StatusCode::CREATED, "{operation:?}");
        let id = accepted.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
        agent.take().await.complete().await;
        let retry = format!("/api/v1/jobs/{id}/retry");
        let refused = problem(send(&all_but, &retry, &json!({})).await).await;
        assert!(refused.code == ErrorCode::Forbidden && refused.detail.contains(permission), "{operation:?}: {refused:?}");
        assert_eq!(send(&needed, &retry, &json!({})).await.status(), StatusCode::CREATED, "{operation:?}");
        agent.take().await.complete().await;
    }
}

/// One call, and what it is to leave.
struct Try {
    line: String,
    ends: Ends,
    is_recorded: bool,
}

/// Every call of somebody left one record or none, as its description says. Those of nobody are counted together beyond the first few.
async fn compare_with_trail(house: &House, tries: &[Try]) {
    house.request(Method::POST, "/api/v1/agents/web-01/undrain").header("x-request-id", "last").send().await.unwrap();
    let mut found: BTreeMap<String, Vec<AuditRecord>> = BTreeMap::new();
    let mut place = 0;
    house
        .until("everything is told", async || {
            let page = house.store.audit.after(place, 1000).await.unwrap();
            place = page.items.last().map_or(place, |stored| stored.place);
            page.items.into_iter().for_each(|stored| found.entry(stored.record.request_id.clone()).or_default().push(stored.record));
            found.contains_key("last")
        })
        .await;
    let mut wrong = String::new();
    for (n, Try { line, ends, is_recorded }) in tries.iter().enumerate().filter(|(_, one)| one.ends != Ends::Unauthenticated) {
        let records = found.get(&format!("try-{n}")).map_or(&[][..], Vec::as_slice);
        if records.len() != usize::from(*is_recorded) {
            let _ = writeln!(wrong, "{line}: {} records", records.len());
        }
        for record in records {
            let has_status = record.status.is_some_and(|status| (status == 403) == (*ends == Ends::Forbidden));
            let made_job = matches!(record.status, Some(200..=202)) && record.path.contains("/nodes/");
            if record.who.as_deref() != Some("ada") || !has_status || (made_job && (record.job.is_none() || record.operation.is_none())) {
                let _ = writeln!(wrong, "{line}: {record:?}");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_permission_that_is_described_is_one_that_somebody_may_have() {
    let known: BTreeSet<_> = every_permission();
    for operation in described() {
        for scope in operation.scopes.iter().flatten() {
            let is_word = [OF_OPERATION, OF_TARGET].contains(&scope.as_str());
            let is_permission = scope.split_once(':').is_some_and(|(resource, verb)| {
                let is_name = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase());
                is_name(resource) && ["read", "write", "execute"].contains(&verb)
            });
            assert!(is_word || (is_permission && known.contains(scope)), "{}: {scope}", operation.name);
        }
        // What changes something takes more than a right to read; what runs something says for whom.
        let only_reads = operation.scopes.iter().flatten().all(|scope| scope.ends_with(":read"));
        assert!(!operation.changes() || !only_reads, "{} changes something with a right to read", operation.name);
    }
}

/// The table in the documentation.
fn table() -> String {
    let mut text = "# Who may call what\n\n\
        Made from the API's description by `crates/controller/tests/it/access.rs`, which also tries every cell against a controller.\n\
        *operation* is the permission of the operation that the job does; *target*: a token that is limited to targets must be for everybody\n\
        who is told to do something. `\u{2714}` under *operation* rows: for operations that the role may do.\n\n\
        | call | needs | read | write | admin |\n| --- | --- | --- | --- | --- |\n"
        .to_owned();
    for operation in described() {
        let Some(scopes) = &operation.scopes else {
            let _ = writeln!(text, "| `{} {}` | no token | \u{2714} | \u{2714} | \u{2714} |", operation.method, operation.path);
            continue;
        };
        let may = |role: &str| {
            let caller = Caller::new("x", &Roles::default(), &[role.to_owned()], None, None).unwrap();
            if operation.permissions().iter().all(|permission| caller.may(permission)) { "\u{2714}" } else { "" }
        };
        let [read, write, admin] = ["read", "write", "admin"].map(may);
        let _ = writeln!(text, "| `{} {}` | {} | {read} | {write} | {admin} |", operation.method, operation.path, scopes.join(", "));
    }
    text += "\nWorkers attach at `GET /ws/worker`, a WebSocket and no part of the API. The token comes in the first frame and needs `agent:attach`, which only\n\
        `admin` has of these roles (`longshore token generate edge --role admin --permission agent:attach`). One that is limited to targets must be for the\n\
        worker's host, by name or agent id, and lets it belong to the groups among them and to no others. Where `controller.gateway.tls` is set, a certificate\n\
        stands for a token.\n";
    text
}

#[test]
fn the_documented_table_is_the_description() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/access.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, table()).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap_or_default() == table(),
        "{path} is old: run the tests with UPDATE=1 and read the difference"
    );
}
