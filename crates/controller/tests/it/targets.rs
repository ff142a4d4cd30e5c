//! Jobs for many: who is meant, what each did, and what is done about those who did not.

use longshore_controller::token::{self, Grant};
use longshore_model::wire::agent::FleetRevision;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Outcome;
use longshore_model::wire::rest::JobView;
use longshore_model::{ExecutionState, JobStatus};
use longshore_store::{Appended, jetstream};
use longshore_testkit::NatsServer;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Agent, House, problem};

/// Three agents: two of the group `web`, one of the group `db`.
async fn fleet() -> (House, [Agent; 3]) {
    let house = House::start().await;
    let one = house.member(1, "web-01", &["group:web.dev"]).await;
    let two = house.member(2, "web-02", &["group:web.prod", "tier:front"]).await;
    let three = house.member(3, "db-01", &["group:db"]).await;
    (house, [one, two, three])
}

async fn submit(house: &House, target: &str) -> JobView {
    house.submit(json!({ "target": target })).await
}

fn states(job: &JobView) -> Vec<ExecutionState> {
    job.executions.iter().map(|execution| execution.state).collect()
}

#[tokio::test]
async fn each_of_a_frozen_set_answers_for_itself() {
    let (house, [one, two, three]) = fleet().await;
    let all = submit(&house, "_all").await;
    assert_eq!(
        all.executions.iter().map(|execution| execution.id.agent()).collect::<Vec<_>>(),
        [Some(one.id), Some(two.id), Some(three.id)]
    );
    let web = submit(&house, "group:web").await;
    let later = house.member(4, "web-03", &["group:web"]).await;
    assert!(later.inbox().await.is_empty(), "the sets were frozen before it came");
    assert_eq!((one.inbox().await.len(), two.inbox().await.len(), three.inbox().await.len()), (2, 2, 1));

    for (agent, outcome) in [(&one, Outcome::Completed), (&two, Outcome::Failed)] {
        for task in agent.inbox().await {
            assert!(matches!(task.start().await, Appended::Stored(_)));
            task.answer(outcome, Value::Null).await;
        }
    }
    assert_eq!(house.job(web.id).await.status, JobStatus::PartialFailure);
    let running = house.job(all.id).await;
    assert_eq!((running.status, states(&running)[2]), (JobStatus::Running, ExecutionState::Pending));
    three.inbox().await[0].complete().await;
    assert_eq!(house.job(all.id).await.status, JobStatus::PartialFailure);
}

#[tokio::test]
async fn an_agent_with_several_labels_that_match_is_told_once() {
    let house = House::start().await;
    let labels = ["group:web.dev", "group:web.dev.eu", "group:web.prod", "tier:web"];
    let agent = house.member(1, "web-01", &labels).await;
    for (n, target) in ["group:web", "group:web.dev", "_all"].into_iter().enumerate() {
        let job = submit(&house, target).await;
        assert_eq!(job.executions.len(), 1, "{target}");
        let told = agent.inbox().await;
        assert_eq!(told.iter().filter(|task| task.job == job.id).count(), 1, "{target}");
        assert_eq!(told.len(), n + 1, "{target}");
    }
}

#[tokio::test]
async fn the_revision_that_a_frozen_set_is_of_is_named_with_it() {
    let server = NatsServer::start().await;
    let config = jetstream::Config { url: server.url(), ..jetstream::Config::default() };
    let house = House::on(jetstream::connect(&config).await.unwrap(), |_| {}).await;
    let mut agents = Vec::new();
    for n in 1..=3 {
        let agent = house.member(n, &format!("web-{n}"), &["group:web"]).await;
        let newest = house.store.registry.newest(agent.id).await.unwrap().revision;
        agents.push(agent);
        for target in ["_all", "group:web"] {
            let job = submit(&house, target).await;
            let meant: Vec<_> = job.executions.iter().map(|execution| execution.id.agent().unwrap()).collect();
            assert_eq!(meant, agents.iter().map(|agent| agent.id).collect::<Vec<_>>());
            assert_eq!(job.fleet_revision, Some(FleetRevision { heartbeats: newest, states: 0 }));
            let stored = house.store.ledger.load(job.id).await.unwrap().unwrap().definition;
            assert_eq!((stored.fleet_revision, house.job(job.id).await.fleet_revision), (job.fleet_revision, job.fleet_revision));
        }
    }
    // The broker's own word for who was there at that revision.
    let kept = server.ask("$JS.API.STREAM.INFO.KV_agent-registry", &Value::Null).await;
    let last = submit(&house, "_all").await.fleet_revision.unwrap();
    assert_eq!((json!(last.heartbeats), json!(3)), (kept["state"]["last_seq"].clone(), kept["state"]["num_subjects"].clone()));

    let drained = house.post("/api/v1/agents/web-2/drain", &json!({})).await;
    assert_eq!(drained.status(), StatusCode::OK);
    house
        .until("the drain is seen", async || {
            let job = submit(&house, "_all").await;
            assert_eq!(job.executions.len(), 2, "it counts at once");
            job.fleet_revision == Some(FleetRevision { states: 1, ..last })
        })
        .await;
}

#[tokio::test]
async fn a_repeat_for_those_who_failed_is_for_nobody_else() {
    let (house, [one, two, three]) = fleet().await;
    let first = submit(&house, "_all").await;
    one.inbox().await[0].complete().await;
    for agent in [&two, &three] {
        let task = &agent.inbox().await[0];
        task.start().await;
        task.answer(Outcome::Failed, Value::Null).await;
    }
    let path = format!("/api/v1/jobs/{}/retry", first.id);
    let second: JobView = house.post(&path, &json!({"only": "failed"})).await.json().await.unwrap();
    assert_eq!(second.executions.iter().map(|execution| execution.id.agent()).collect::<Vec<_>>(), [Some(two.id), Some(three.id)]);
    assert_eq!((second.retry_of, one.inbox().await.len(), two.inbox().await.len()), (Some(first.id), 0, 1));
    let third: JobView = house.post(&path, &json!({})).await.json().await.unwrap();
    assert_eq!(third.executions.len(), 3);
}

#[tokio::test]
async fn a_cancel_ends_what_waits_and_asks_what_runs_for_its_end() {
    let (house, [one, two, three]) = fleet().await;
    let job = submit(&house, "_all").await;
    one.inbox().await[0].complete().await;
    let runs = two.inbox().await.remove(0);
    runs.start().await;
    let cancel = house.request(Method::POST, &format!("/api/v1/jobs/{}/cancel", job.id)).send();
    let stops = async {
        house.until("the end is asked for", async || house.job(job.id).await.executions[1].cancel_requested).await;
        runs.answer(Outcome::Cancelled, Value::Null).await;
    };
    let (response, ()) = tokio::join!(cancel, stops);
    assert_eq!(response.unwrap().status(), StatusCode::OK);
    let ended = house.job(job.id).await;
    assert_eq!(states(&ended), [ExecutionState::Completed, ExecutionState::Cancelled, ExecutionState::Cancelled]);
    assert_eq!(ended.status, JobStatus::PartialFailure);
    // Whoever still finds its share in the inbox starts nothing.
    for task in three.inbox().await {
        assert_eq!(task.start().await, Appended::Conflict);
    }
    let deleted = house.request(Method::DELETE, &format!("/api/v1/jobs/{}", job.id)).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    assert_eq!(house.store.ledger.load(job.id).await.unwrap(), None);
    assert_eq!(house.store.ledger.load_execution(job.id, three.id.into()).await.unwrap(), None);
}

#[tokio::test]
async fn one_of_a_group_takes_its_work() {
    let (house, [one, two, _]) = fleet().await;
    let job = submit(&house, "_any@group:web").await;
    assert_eq!(job.executions.len(), 1);
    assert!(one.inbox().await.is_empty() && two.inbox().await.is_empty());
    two.take_of("group:web").await.complete().await;
    let done = house.job(job.id).await;
    assert_eq!((done.status, done.executions[0].agent), (JobStatus::Completed, Some(two.id)));
}

#[tokio::test]
async fn targets_that_mean_nobody_are_refused_with_what_they_may_have_meant() {
    let (house, [_, _, three]) = fleet().await;
    three.leave().await;
    house.until("it is offline", async || house.get("/api/v1/agents").await["items"][0]["state"] == "stopped").await;
    let refused = async |target: &str, more: Value| {
        let mut body = json!({"operation": "node.hostname.get", "target": target});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        problem(house.post("/api/v1/jobs", &body).await).await
    };
    for (target, code, hint) in [
        ("group:wep", ErrorCode::NoAgent, "group:web"),
        ("_any@group:web.pord", ErrorCode::NoAgent, "group:web.prod"),
        ("group:db", ErrorCode::NoAgent, ""),
        ("web-03", ErrorCode::NoAgent, "web-0"),
        ("db-01", ErrorCode::AgentOffline, "wait_for_agents"),
        ("group:a..b", ErrorCode::Validation, ""),
    ] {
        let problem = refused(target, json!({})).await;
        assert_eq!(problem.code, code, "{target}");
        assert!(problem.hint.unwrap_or_default().contains(hint), "{target}");
    }
    assert_eq!(refused("db-99", json!({"wait_for_agents": "1m"})).await.code, ErrorCode::NoAgent);
    let waits = house.submit(json!({"target": "db-01", "wait_for_agents": "1m"})).await;
    assert!(waits.expires_at <= waits.submitted_at + jiff::SignedDuration::from_secs(61), "it does not wait for longer");
    assert_eq!(three.inbox().await.len(), 1);
    three.beat().await;
    three.inbox().await[0].complete().await;
    assert_eq!(house.job(waits.id).await.status, JobStatus::Completed);
}

#[tokio::test]
async fn a_token_for_some_targets_has_nothing_done_by_others() {
    let (house, [one, two, _]) = fleet().await;
    let everything = submit(&house, "_all").await;
    let ask = async |targets: &[&str], method: Method, path: &str, body: Value| {
        let targets = Some(targets.iter().map(|target| (*target).to_owned()).collect());
        let token = token::issue(&house.key, &Grant { targets, ..Grant::new("bob", &["admin"]) }, jiff::Timestamp::now());
        house.bare(method, path).bearer_auth(token).json(&body).send().await.unwrap()
    };
    let submit = async |targets: &[&str], target: &str| {
        ask(targets, Method::POST, "/api/v1/jobs", json!({"operation": "node.hostname.get", "target": target})).await
    };
    for (allowed, target, expected) in [
        ("group:web", "web-01", 201),
        ("group:web", "group:web.prod", 201),
        ("group:web", "_any@group:web", 201),
        ("group:web", "_any", 403),
        ("group:web", "_all", 403),
        ("group:web", "db-01", 403),
        ("WEB-02", "group:web.prod", 201),
        ("_any", "_any", 201),
        ("_any", "web-01", 403),
    ] {
        assert_eq!(submit(&[allowed], target).await.status().as_u16(), expected, "{allowed} {target}");
    }
    let refused = problem(submit(&["group:web"], "_all").await).await;
    assert!(refused.code == ErrorCode::Forbidden && refused.detail.contains("db-01"), "{}", refused.detail);
    let path = format!("/api/v1/jobs/{}", everything.id);
    for (method, path) in [(Method::POST, format!("{path}/cancel")), (Method::DELETE, format!("{path}?force=true"))] {
        assert_eq!(ask(&["group:web"], method, &path, json!({})).await.status(), StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(ask(&["web-01"], Method::POST, "/api/v1/agents/web-02/drain", json!({})).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(ask(&["web-01"], Method::POST, &format!("/api/v1/agents/{}/drain", one.id), json!({})).await.status(), StatusCode::OK);
    assert_eq!(ask(&["group:..x"], Method::GET, "/api/v1/jobs", json!({})).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(house.job(everything.id).await.status, JobStatus::Pending, "nothing was done to it");
    assert!(!two.inbox().await.is_empty());
}
