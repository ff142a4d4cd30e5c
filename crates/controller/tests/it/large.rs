//! Results that are too large for their answers.

use std::io::Cursor;
use std::time::Duration;

use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Outcome, ResultObject};
use longshore_model::wire::rest::JobView;
use longshore_store::result_name;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{House, Task, problem};

pub(crate) fn hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Answers as an agent does whose result is too large; `stored` is what the object store has of it.
async fn answer(house: &House, task: &Task, announced: &[u8], stored: Option<&[u8]>) {
    task.start().await;
    if let Some(stored) = stored {
        let name = result_name(task.job, task.execution, 1);
        house.store.objects.put(&name, Box::pin(Cursor::new(stored.to_vec()))).await.unwrap();
    }
    task.answer_with(Outcome::Completed, None, Some(ResultObject { bytes: announced.len() as u64, sha256: hex(announced) })).await;
}

#[tokio::test]
async fn a_large_result_is_shown_wherever_a_small_one_is() {
    let (house, agent) = House::with_agent().await;
    let body = json!({"operation": "node.hostname.get"});
    let waiting = house.post("/api/v1/jobs?wait=30s", &body);
    let result = json!({"hostname": "web-01", "padding": "ä\n\"".repeat(700_000)});
    let (response, job) = tokio::join!(waiting, async {
        let task = agent.take().await;
        let encoded = serde_json::to_vec(&result).unwrap();
        answer(&house, &task, &encoded, Some(&encoded)).await;
        task.job
    });
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["location"], format!("/api/v1/jobs/{job}"));
    let submitted: Value = response.json().await.unwrap();
    let read = house.get(&format!("/api/v1/jobs/{job}")).await;
    for view in [&submitted, &read] {
        assert!(view["executions"][0]["result"] == result && view["executions"][0].get("large_result").is_none());
    }
    assert!(house.get(&format!("/job/{job}")).await["result"] == result);
    assert!(house.get(&format!("/api/v1/jobs/{job}/executions/any/result")).await == result);
    let events = house.request(Method::GET, &format!("/api/v1/jobs/{job}/events")).send().await.unwrap();
    assert!(events.text().await.unwrap().len() < 4096);
    let name = result_name(job, longshore_model::ExecutionId::Any, 1);
    assert!(house.store.objects.info(&name).await.unwrap().is_some());
    house.request(Method::DELETE, &format!("/api/v1/jobs/{job}")).send().await.unwrap().error_for_status().unwrap();
    assert_eq!(house.store.objects.info(&name).await.unwrap(), None);
}

#[tokio::test]
async fn a_result_that_was_damaged_replaced_or_removed_is_not_shown_and_the_job_says_why() {
    let (house, agent) = House::with_agent().await;
    let good = serde_json::to_vec(&json!({"hostname": "web-01"})).unwrap();
    let other = serde_json::to_vec(&json!({"hostname": "web-02"})).unwrap();
    let cases = [
        (&good, None, "it is not in the object store any more"),
        (&good, Some(other.as_slice()), "the object store has something else in its place"),
        (&good, Some(&good[1..]), "the object store has something else in its place"),
        (&vec![b'{'], Some(b"{".as_slice()), "it is not JSON"),
    ];
    for (announced, stored, expected) in cases {
        let job = house.submit(json!({})).await;
        answer(&house, &agent.take().await, announced, stored).await;
        let view: JobView = house.job(job.id).await;
        assert_eq!((view.status.as_str(), &view.executions[0].result), ("completed", &None));
        let large = view.executions[0].large_result.clone().unwrap();
        assert!(large.problem.as_ref().is_some_and(|problem| problem.contains(expected)), "{large:?}");
        let earlier = house.get(&format!("/job/{}", job.id)).await;
        assert!(earlier["error"].as_str().is_some_and(|error| error.contains(expected)), "{earlier}");
        if expected != "it is not JSON" {
            let refused = problem(house.request(Method::GET, &large.href).send().await.unwrap()).await;
            assert_eq!(refused.code, ErrorCode::Internal);
            assert!(refused.detail.contains(expected), "{}", refused.detail);
        }
    }
}

#[tokio::test]
async fn of_several_results_those_that_fit_together_are_shown_and_the_others_say_where_they_are() {
    let house = House::start().await;
    let agents = [house.agent(1, "web-01").await, house.agent(2, "web-02").await, house.agent(3, "web-03").await];
    let job = house.submit(json!({"target": "_all"})).await;
    let small = serde_json::to_vec(&json!({"hostname": "small"})).unwrap();
    for (n, agent) in agents.iter().enumerate() {
        let task = agent.inbox().await.remove(0);
        if n == 1 {
            answer(&house, &task, &small, Some(&small)).await;
        } else {
            // Of which two have no room beside each other.
            task.start().await;
            let object = ResultObject { bytes: 100 << 20, sha256: "0".repeat(64) };
            task.answer_with(Outcome::Completed, None, Some(object)).await;
        }
    }
    let view = house.job(job.id).await;
    let [first, second, third] = view.executions.as_slice() else { panic!("{view:?}") };
    assert!(first.large_result.as_ref().unwrap().problem.is_some(), "it was tried");
    assert_eq!(second.result, Some(json!({"hostname": "small"})));
    let left = third.large_result.as_ref().unwrap();
    let href = format!("/api/v1/jobs/{}/executions/{}/result", job.id, third.id);
    assert_eq!((left.bytes, &left.problem, &left.href), (100 << 20, &None, &href));
    let doors = house.get(&format!("/api/v1/jobs/{}/executions/{}/result", job.id, second.id)).await;
    assert_eq!(doors, json!({"hostname": "small"}));
    for path in ["nobody", "any", &agents[0].id.to_string().replace('1', "7")] {
        let path = format!("/api/v1/jobs/{}/executions/{path}/result", job.id);
        assert_eq!(problem(house.request(Method::GET, &path).send().await.unwrap()).await.code, ErrorCode::NotFound, "{path}");
    }
    let bare = house.bare(Method::GET, &href).send().await.unwrap();
    assert_eq!(problem(bare).await.code, ErrorCode::Unauthenticated);
}

#[tokio::test]
async fn many_readers_of_large_results_at_once_are_all_served_within_the_bound() {
    let (house, agent) = House::with_agent().await;
    let job = house.submit(json!({})).await;
    // Two of these have no room in memory at the same time.
    let mut content = serde_json::to_vec(&json!({"hostname": "x"})).unwrap();
    content.resize(70 << 20, b' ');
    answer(&house, &agent.take().await, &content, Some(&content)).await;
    let read = async || loop {
        let execution = house.job(job.id).await.executions.remove(0);
        match execution.large_result.and_then(|large| large.problem) {
            // On a machine that is busy with other tests the others may be read for longer than one waits for its turn.
            Some(why) => assert!(why.contains("ask again"), "{why}"),
            None => return execution.result,
        }
    };
    let reads = tokio::time::timeout(Duration::from_secs(120), futures::future::join_all((0..3).map(|_| read()))).await;
    assert_eq!(reads.expect("all are served"), vec![Some(json!({"hostname": "x"})); 3]);
}
