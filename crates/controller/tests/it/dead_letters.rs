//! Dead letters: found whoever was away, shown, submitted again once, and discarded.

use std::time::Duration;

use jiff::Timestamp;
use longshore_client::DeadLetterFilter;
use longshore_controller::token::{self, Grant};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Answer, Event, EventKind, Failure, Outcome, SCHEMA};
use longshore_model::wire::rest::{DeadLetterCondition, DeadLetterList, DeadLetterView, JobView};
use longshore_model::{JobId, JobStatus};
use longshore_store::{Store, jetstream, memory};
use longshore_testkit::NatsServer;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Agent, House, Task, problem};

const LETTERS: &str = "/api/v1/dead-letters";

/// Two attempts and no wait between them.
fn twice() -> Value {
    json!({"retry": {"max_attempts": 2, "backoff": ["0s"]}})
}

async fn start_twice(store: &Store, agent: &Agent, task: &Task) {
    let error = Failure { code: ErrorCode::HostFault, message: "no disk".to_owned() };
    let now = Timestamp::now();
    let kinds = [
        EventKind::Started { attempt: 1, agent: agent.id, hostname: agent.hostname.clone(), delivery: None },
        EventKind::Retrying { attempt: 1, error, not_before: now },
        EventKind::Started { attempt: 2, agent: agent.id, hostname: agent.hostname.clone(), delivery: None },
    ];
    for kind in kinds {
        append(store, task, kind).await;
    }
}

async fn append(store: &Store, task: &Task, kind: EventKind) {
    let after = store.ledger.load_execution(task.job, task.execution).await.unwrap().unwrap().revision;
    store.ledger.append(task.job, task.execution, after, &Event { schema: SCHEMA, at: Timestamp::now(), kind }).await.unwrap();
}

fn answer(agent: &Agent, task: &Task, outcome: Outcome, error: Option<Failure>) -> Answer {
    Answer {
        agent: Some(agent.id),
        hostname: Some(agent.hostname.clone()),
        error,
        duration_ms: Some(1),
        ..Answer::new(task.job, task.execution, outcome, 2, Timestamp::now())
    }
}

/// Uses both attempts up, as an agent does.
pub(crate) async fn die(store: &Store, agent: &Agent, task: &Task) {
    start_twice(store, agent, task).await;
    let error = Failure { code: ErrorCode::DeadLetter, message: "all 2 attempts are used up; the last: no disk".to_owned() };
    store.ledger.answer(&answer(agent, task, Outcome::Failed, Some(error))).await.unwrap();
    task.delivery.lease.done().await.unwrap();
}

/// Uses both attempts up, and is never heard again.
async fn vanish(store: &Store, agent: &Agent, task: &Task) {
    start_twice(store, agent, task).await;
    append(store, task, EventKind::Lost { attempt: 2 }).await;
    task.delivery.lease.done().await.unwrap();
}

async fn dead_job(house: &House, agent: &Agent) -> JobId {
    let job = house.submit(twice()).await.id;
    let task = agent.take().await;
    assert_eq!(task.job, job);
    die(&house.store, agent, &task).await;
    job
}

async fn list(house: &House, query: &str) -> DeadLetterList {
    serde_json::from_value(house.get(&format!("{LETTERS}{query}")).await).unwrap()
}

async fn ids(house: &House, query: &str) -> Vec<JobId> {
    list(house, query).await.items.into_iter().map(|letter| letter.id).collect()
}

async fn letter(house: &House, job: JobId) -> DeadLetterView {
    serde_json::from_value(house.get(&format!("{LETTERS}/{job}")).await).unwrap()
}

async fn redrive(house: &House, job: JobId) -> (StatusCode, JobView) {
    let response = house.request(Method::POST, &format!("{LETTERS}/{job}/redrive")).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

#[tokio::test]
async fn jobs_whose_attempts_are_used_up_are_listed_with_last_error_attempts_and_agent() {
    let (house, agent) = House::with_agent().await;
    let failed = dead_job(&house, &agent).await;
    let lost = house.submit(twice()).await.id;
    vanish(&house.store, &agent, &agent.take().await).await;
    // What was meant to be tried once, failed for good at once, or was done, is no dead letter.
    for (policy, outcome) in [(twice(), Outcome::Failed), (twice(), Outcome::Completed), (json!({}), Outcome::Failed)] {
        house.submit(policy).await;
        let task = agent.take().await;
        task.start().await;
        task.answer(outcome, json!(null)).await;
    }
    let other = house.submit(json!({"retry": {"max_attempts": 1}})).await.id;
    let task = agent.take().await;
    task.start().await;
    append(&house.store, &task, EventKind::Lost { attempt: 1 }).await;
    house.until("the last is known to be lost", async || house.job(other).await.status == JobStatus::Failed).await;

    house.until("they are listed", async || ids(&house, "").await == [lost, failed]).await;
    let items = list(&house, "").await.items;
    let shown = |letter: &DeadLetterView| (letter.last.attempts, letter.last.agent, letter.last.hostname.clone(), letter.last.error.code);
    assert_eq!(shown(&items[0]), (2, Some(agent.id), Some("web-01".to_owned()), ErrorCode::Lost));
    assert_eq!(shown(&items[1]), (2, Some(agent.id), Some("web-01".to_owned()), ErrorCode::DeadLetter));
    assert_eq!(items[1].last.error.message, "all 2 attempts are used up; the last: no disk");
    assert_eq!(
        (items[1].operation.as_str(), items[1].target.as_str(), items[1].submitted_by.as_str()),
        ("node.hostname.get", "_any", "ada")
    );
    assert_eq!((items[1].state, items[1].dead, items[1].executions.len()), (DeadLetterCondition::Open, 1, 0));
    let one = letter(&house, failed).await;
    assert_eq!((one.executions.as_slice(), &one.last), (&[items[1].last.clone()][..], &items[1].last));
}

#[tokio::test]
async fn a_redrive_is_one_job_for_what_died_linked_both_ways() {
    let house = House::start().await;
    let (one, two) = (house.agent(1, "web-01").await, house.agent(2, "web-02").await);
    let mut body = twice();
    body.as_object_mut().unwrap().extend([("target".to_owned(), json!("_all")), ("annotations".to_owned(), json!({"ticket": "7"}))]);
    let job = house.submit(body).await;
    one.inbox().await[0].complete().await;
    die(&house.store, &two, &two.inbox().await[0]).await;

    let (status, again) = redrive(&house, job.id).await;
    assert_eq!((status, again.retry_of, again.executions.len()), (StatusCode::CREATED, Some(job.id), 1));
    assert_eq!((again.executions[0].id, &again.target, &again.annotations), (two.id.into(), &job.target, &job.annotations));
    assert_eq!(again.max_attempts, 2);
    let (status, repeated) = redrive(&house, job.id).await;
    assert_eq!((status, repeated.id), (StatusCode::OK, again.id));
    assert_eq!(house.client().redrive(job.id).await.unwrap().id, again.id);
    assert_eq!(two.inbox().await.iter().map(|task| task.job).collect::<Vec<_>>(), [again.id]);
    assert!(one.inbox().await.is_empty(), "who did it is not asked again");

    assert_eq!(house.job(job.id).await.retried_by, [again.id]);
    let closed = letter(&house, job.id).await;
    assert_eq!(
        (closed.state, closed.redriven_as, closed.closed_by.as_deref()),
        (DeadLetterCondition::Redriven, Some(again.id), Some("ada"))
    );
    assert_eq!(ids(&house, "").await, []);
    assert_eq!(ids(&house, "?state=redriven").await, [job.id]);
    let refused = problem(house.request(Method::DELETE, &format!("{LETTERS}/{}", job.id)).send().await.unwrap()).await;
    assert_eq!((refused.status, refused.code), (409, ErrorCode::DeadLetterClosed));
    assert!(refused.detail.contains(&again.id.to_string()), "{}", refused.detail);

    // The repeat may die as well, and is another letter; its deletion does not make another job.
    die(&house.store, &two, &two.inbox().await[0]).await;
    house.until("it is listed", async || ids(&house, "").await == [again.id]).await;
    assert_eq!(house.request(Method::DELETE, &format!("/api/v1/jobs/{}", again.id)).send().await.unwrap().status(), 204);
    let gone = problem(house.request(Method::POST, &format!("{LETTERS}/{}/redrive", job.id)).send().await.unwrap()).await;
    assert_eq!((gone.status, gone.code), (409, ErrorCode::JobDeleted));
}

#[tokio::test]
async fn dead_letters_need_their_permissions_and_a_redrive_that_of_the_operation_itself() {
    let (house, agent) = House::with_agent().await;
    let mut body = json!({"operation": "command.exec", "args": {"command": ["true"]}});
    body.as_object_mut().unwrap().extend(twice().as_object().unwrap().clone());
    let job: JobView = house.post("/api/v1/jobs", &body).await.json().await.unwrap();
    die(&house.store, &agent, &agent.take().await).await;
    let (one, redrive) = (format!("{LETTERS}/{}", job.id), format!("{LETTERS}/{}/redrive", job.id));
    for (method, path) in [(Method::GET, LETTERS), (Method::GET, &one), (Method::POST, &redrive), (Method::DELETE, &one)] {
        assert_eq!(problem(house.bare(method, path).send().await.unwrap()).await.code, ErrorCode::Unauthenticated, "{path}");
    }
    let as_who = async |method: Method, path: &str, permissions: &[&str]| {
        let only = permissions.iter().map(|permission| (*permission).to_owned()).collect();
        let token = token::issue(&house.key, &Grant { permissions: Some(only), ..Grant::new("bob", &["admin"]) }, Timestamp::now());
        house.bare(method, path).bearer_auth(token).send().await.unwrap()
    };
    for (method, path, permissions) in [
        (Method::GET, LETTERS, &["job:write"][..]),
        (Method::GET, &one, &["job:write"]),
        (Method::DELETE, &one, &["job:read"]),
        (Method::POST, &redrive, &["job:write", "job:read"]),
        (Method::POST, &redrive, &["command:execute", "job:read"]),
    ] {
        assert_eq!(problem(as_who(method, path, permissions).await).await.code, ErrorCode::Forbidden, "{path} {permissions:?}");
    }
    assert_eq!(letter(&house, job.id).await.state, DeadLetterCondition::Open, "nothing of that had an effect");
    assert_eq!(as_who(Method::GET, LETTERS, &["job:read"]).await.status(), StatusCode::OK);
    // Who may not read jobs is not told what it was given; nor is the repeat open to who may not do it.
    let made = as_who(Method::POST, &redrive, &["job:write", "command:execute"]).await;
    assert_eq!(made.status(), StatusCode::CREATED);
    assert_eq!(made.json::<JobView>().await.unwrap().args, json!({}));
    assert_eq!(as_who(Method::POST, &redrive, &["job:write"]).await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_token_for_other_targets_neither_redrives_nor_discards() {
    let house = House::start().await;
    let (one, two) = (house.agent(1, "web-01").await, house.agent(2, "web-02").await);
    let mut body = twice();
    body.as_object_mut().unwrap().extend([("target".to_owned(), json!("_all"))]);
    let job = house.submit(body).await.id;
    one.inbox().await[0].complete().await;
    die(&house.store, &two, &two.inbox().await[0]).await;
    let as_who = async |method: Method, path: &str, target: &str| {
        let grant = Grant { targets: Some(vec![target.to_owned()]), ..Grant::new("bob", &["admin"]) };
        let token = token::issue(&house.key, &grant, Timestamp::now());
        house.bare(method, path).bearer_auth(token).send().await.unwrap().status().as_u16()
    };
    let (one, redrive) = (format!("{LETTERS}/{job}"), format!("{LETTERS}/{job}/redrive"));
    assert_eq!(as_who(Method::POST, &redrive, "web-01").await, 403);
    assert_eq!(as_who(Method::DELETE, &one, "web-02").await, 403, "the letter is of the whole job");
    assert_eq!(as_who(Method::POST, &redrive, "web-02").await, 201, "what died is on that host alone");
    assert_eq!(as_who(Method::POST, &redrive, "web-01").await, 403, "nor is it told what was made");
    assert_eq!(as_who(Method::POST, &redrive, "web-02").await, 200);
}

#[tokio::test]
async fn a_discarded_letter_stays_so_and_is_not_redriven() {
    let (house, agent) = House::with_agent().await;
    let job = dead_job(&house, &agent).await;
    let client = house.client();
    client.discard(job).await.unwrap();
    let first = client.dead_letter(job).await.unwrap();
    assert_eq!((first.state, first.closed_by.as_deref(), first.redriven_as), (DeadLetterCondition::Discarded, Some("ada"), None));
    client.discard(job).await.unwrap();
    assert_eq!(client.dead_letter(job).await.unwrap(), first, "who was first stays on record");
    let refused = problem(house.request(Method::POST, &format!("{LETTERS}/{job}/redrive")).send().await.unwrap()).await;
    assert_eq!((refused.status, refused.code), (409, ErrorCode::DeadLetterClosed));
    assert!(refused.hint.unwrap().contains("job retry"));
    assert_eq!(client.dead_letters(&DeadLetterFilter::default()).await.unwrap().items, []);
    let all = DeadLetterFilter { state: Some("open,discarded".to_owned()), ..DeadLetterFilter::default() };
    assert_eq!(client.dead_letters(&all).await.unwrap().items[0].id, job);
    // Passes of the reconciler leave it alone, and a controller that comes later knows it.
    let later = House::on(house.store.clone(), |_| {}).await;
    let another = dead_job(&house, &agent).await;
    later.until("a pass was made", async || ids(&later, "").await == [another]).await;
    assert_eq!(letter(&later, job).await, first);
    assert_eq!(house.job(job).await.status, JobStatus::Failed, "the job stays");
}

#[tokio::test]
async fn what_has_not_ended_is_shown_as_it_dies_and_waits_for_the_rest() {
    let house = House::start().await;
    let (one, two) = (house.agent(1, "web-01").await, house.agent(2, "web-02").await);
    let mut body = twice();
    body.as_object_mut().unwrap().extend([("target".to_owned(), json!("_all"))]);
    let job = house.submit(body).await.id;
    die(&house.store, &one, &one.inbox().await[0]).await;
    house.until("it is listed", async || list(&house, "").await.items.iter().map(|letter| letter.dead).collect::<Vec<_>>() == [1]).await;
    for (method, path) in [(Method::POST, format!("{LETTERS}/{job}/redrive")), (Method::DELETE, format!("{LETTERS}/{job}"))] {
        assert_eq!(problem(house.request(method, &path).send().await.unwrap()).await.code, ErrorCode::JobNotFinal);
    }
    die(&house.store, &two, &two.inbox().await[0]).await;
    house.until("the other is there too", async || list(&house, "").await.items[0].dead == 2).await;
    assert_eq!(list(&house, "").await.items[0].last.agent, Some(two.id));
    let (status, again) = redrive(&house, job).await;
    assert_eq!((status, again.executions.len()), (StatusCode::CREATED, 2));
}

#[tokio::test]
async fn a_late_answer_takes_the_letter_away() {
    let (house, agent) = House::with_agent().await;
    let job = house.submit(twice()).await.id;
    let task = agent.take().await;
    vanish(&house.store, &agent, &task).await;
    house.until("it is listed", async || ids(&house, "").await == [job]).await;
    house.store.ledger.answer(&answer(&agent, &task, Outcome::Completed, None)).await.unwrap();
    house.until("it is not any more", async || ids(&house, "").await.is_empty()).await;
    assert_eq!(house.store.dead_letters.load(job).await.unwrap(), None);
    let gone = problem(house.request(Method::POST, &format!("{LETTERS}/{job}/redrive")).send().await.unwrap()).await;
    assert_eq!(gone.code, ErrorCode::NotFound);
}

#[tokio::test]
async fn a_deleted_job_takes_its_letter_along() {
    let (house, agent) = House::with_agent().await;
    let other = House::on(house.store.clone(), |_| {}).await;
    let jobs = [dead_job(&house, &agent).await, dead_job(&house, &agent).await];
    for house in [&house, &other] {
        house.until("both are listed", async || ids(house, "").await == [jobs[1], jobs[0]]).await;
    }
    assert_eq!(house.request(Method::DELETE, &format!("/api/v1/jobs/{}", jobs[0])).send().await.unwrap().status(), 204);
    assert_eq!(house.store.dead_letters.load(jobs[0]).await.unwrap(), None);
    for house in [&house, &other] {
        house.until("one is listed", async || ids(house, "").await == [jobs[1]]).await;
        for (method, path) in [(Method::GET, ""), (Method::POST, "/redrive"), (Method::DELETE, "")] {
            let gone = house.request(method, &format!("{LETTERS}/{}{path}", jobs[0])).send().await.unwrap();
            assert_eq!(problem(gone).await.code, ErrorCode::NotFound);
        }
    }
    // A letter that was left behind, by a delete that broke off or a writer that was late, goes as well.
    let left = house.store.dead_letters.load(jobs[1]).await.unwrap().unwrap().letter;
    house.store.ledger.delete(jobs[1]).await.unwrap();
    house.store.dead_letters.delete(jobs[1]).await.unwrap();
    house.store.dead_letters.put(&left, 0).await.unwrap();
    house.until("it is removed", async || house.store.dead_letters.load(jobs[1]).await.unwrap().is_none()).await;
}

#[tokio::test]
async fn a_controller_that_starts_later_finds_them_all() {
    let store = memory::open(memory::MemoryOptions::default());
    let slow = |config: &mut longshore_controller::Config| config.reconcile_every = Duration::from_secs(3600);
    // This one's reconcilers do not run, and so nobody but the ledger knows what died.
    let first = House::on(store.clone(), slow).await;
    let agent = first.agent(1, "web-01").await;
    let mut jobs = Vec::new();
    for _ in 0..30 {
        jobs.push(dead_job(&first, &agent).await);
    }
    first.drain.cancel();
    first.ended().await;
    jobs.reverse();
    let later = House::on(store.clone(), |_| {}).await;
    later.until("all are listed", async || ids(&later, "").await == jobs).await;
    // Also when the stream was lost: what people did is found again where the ledger knows it.
    let agent = later.agent(1, "web-01").await;
    let (_, again) = redrive(&later, jobs[0]).await;
    agent.take().await.complete().await;
    later.drain.cancel();
    later.ended().await;
    for job in &jobs {
        store.dead_letters.delete(*job).await.unwrap();
    }
    let last = House::on(store, |_| {}).await;
    last.until("all are listed", async || ids(&last, "").await == jobs[1..]).await;
    last.until("one is redriven", async || ids(&last, "?state=redriven").await == jobs[..1]).await;
    assert_eq!(letter(&last, jobs[0]).await.redriven_as, Some(again.id));
}

#[tokio::test]
async fn two_controllers_write_each_letter_once_and_redrive_it_once() {
    let (one, agent) = House::with_agent().await;
    let two = House::on(one.store.clone(), |_| {}).await;
    two.agent(1, "web-01").await;
    let mut jobs = Vec::new();
    for _ in 0..10 {
        jobs.push(dead_job(&one, &agent).await);
    }
    for house in [&one, &two] {
        house.until("all are listed", async || ids(house, "").await.len() == jobs.len()).await;
    }
    let redrives = jobs.iter().flat_map(|job| [redrive(&one, *job), redrive(&two, *job)]);
    let made = futures::future::join_all(redrives).await;
    for (job, both) in jobs.iter().zip(made.chunks(2)) {
        assert_eq!(both[0].1.id, both[1].1.id, "{job}");
        let mut statuses = [both[0].0.as_u16(), both[1].0.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 201], "{job}");
        let redriven = letter(&two, *job).await;
        assert_eq!(redriven.redriven_as, Some(both[0].1.id));
    }
    for house in [&one, &two] {
        house.until("none is open", async || ids(house, "").await.is_empty()).await;
        assert_eq!(ids(house, "?state=redriven").await.len(), jobs.len());
    }
    assert_eq!(one.get("/api/v1/jobs?limit=1000").await["items"].as_array().unwrap().len(), 2 * jobs.len());
}

#[tokio::test]
async fn pages_of_dead_letters_follow_each_other_and_bad_queries_are_refused() {
    let (house, agent) = House::with_agent().await;
    let mut jobs = Vec::new();
    for _ in 0..5 {
        jobs.insert(0, dead_job(&house, &agent).await);
    }
    house.until("all are listed", async || ids(&house, "").await == jobs).await;
    let first = list(&house, "?limit=2").await;
    let cursor = first.next_cursor.unwrap();
    house.client().discard(jobs[2]).await.unwrap();
    let second = list(&house, &format!("?limit=2&cursor={cursor}")).await;
    assert_eq!(first.items.iter().chain(&second.items).map(|letter| letter.id).collect::<Vec<_>>(), [jobs[0], jobs[1], jobs[3], jobs[4]]);
    assert_eq!(second.next_cursor, None);
    for (query, field) in
        [("state=odd", "?state"), ("state=", "?state"), ("limit=0", "?limit"), ("limit=1001", "?limit"), ("colour=red", "?colour")]
    {
        let found = problem(house.request(Method::GET, &format!("{LETTERS}?{query}")).send().await.unwrap()).await;
        assert_eq!((found.code, found.errors[0].pointer.as_str()), (ErrorCode::BadRequest, field), "{query}");
    }
    for query in ["cursor=x".to_owned(), format!("state=redriven&cursor={cursor}")] {
        let found = problem(house.request(Method::GET, &format!("{LETTERS}?{query}")).send().await.unwrap()).await;
        assert_eq!(found.code, ErrorCode::BadRequest, "{query}");
    }
    let alive = house.submit(json!({})).await.id.to_string();
    for id in ["..%2fx", "j-%00", "%3E", "*", &JobId::from_bits(7).to_string(), &alive] {
        for (method, tail) in [(Method::GET, ""), (Method::DELETE, ""), (Method::POST, "/redrive")] {
            let found = problem(house.request(method.clone(), &format!("{LETTERS}/{id}{tail}")).send().await.unwrap()).await;
            assert_eq!(found.code, ErrorCode::NotFound, "{method} {id}{tail}");
        }
    }
}

#[tokio::test]
async fn a_redrive_asks_whether_the_agent_is_there_and_is_made_when_it_is() {
    let (house, agent) = House::with_agent().await;
    let mut body = twice();
    body.as_object_mut().unwrap().extend([("target".to_owned(), json!("web-01"))]);
    let job = house.submit(body).await.id;
    die(&house.store, &agent, &agent.inbox().await[0]).await;
    agent.leave().await;
    house.until("it is gone", async || house.get("/api/v1/agents").await["items"][0]["state"] == "stopped").await;
    let path = format!("{LETTERS}/{job}/redrive");
    let refused = problem(house.request(Method::POST, &path).send().await.unwrap()).await;
    assert_eq!((refused.code, refused.retryable), (ErrorCode::AgentOffline, true));
    assert_eq!(letter(&house, job).await.state, DeadLetterCondition::Open);
    house.agent(1, "web-01").await;
    let (status, again) = redrive(&house, job).await;
    assert_eq!(status, StatusCode::CREATED);
    agent.leave().await;
    house.until("it is gone", async || house.get("/api/v1/agents").await["items"][0]["state"] == "stopped").await;
    let (status, repeated) = redrive(&house, job).await;
    assert_eq!((status, repeated.id), (StatusCode::OK, again.id), "what is made needs nobody");
}

#[tokio::test]
async fn dead_letters_outlive_the_broker_and_the_controller_and_leave_nothing() {
    let mut server = NatsServer::start().await;
    let config = jetstream::Config { url: server.url(), ..jetstream::Config::default() };
    let store = jetstream::connect(&config).await.unwrap();
    let adjust = |config: &mut longshore_controller::Config| config.reconcile_every = Duration::from_millis(200);
    let house = House::on(store.clone(), adjust).await;
    let agent = house.agent(1, "web-01").await;
    let jobs = [dead_job(&house, &agent).await, dead_job(&house, &agent).await];
    house.until("both are listed", async || ids(&house, "").await == [jobs[1], jobs[0]]).await;
    house.drain.cancel();
    house.ended().await;
    server.kill();
    server.restart().await;

    let house = House::on(jetstream::connect(&config).await.unwrap(), adjust).await;
    let agent = house.agent(1, "web-01").await;
    house.until("both are listed", async || ids(&house, "").await == [jobs[1], jobs[0]]).await;
    let (status, again) = redrive(&house, jobs[0]).await;
    assert_eq!((status, redrive(&house, jobs[0]).await.1.id), (StatusCode::CREATED, again.id));
    house.client().discard(jobs[1]).await.unwrap();
    agent.take().await.complete().await;
    for job in [jobs[0], jobs[1], again.id] {
        house
            .until("it is deleted", async || {
                house.request(Method::DELETE, &format!("/api/v1/jobs/{job}")).send().await.unwrap().status() == StatusCode::NO_CONTENT
            })
            .await;
    }
    assert_eq!(ids(&house, "?state=open,redriven,discarded").await, []);
    for job in jobs {
        assert_eq!(house.store.dead_letters.load(job).await.unwrap(), None);
    }
}
