//! Lists: filters, pages, counts, and an index that is the same after a restart.

use std::collections::BTreeSet;

use longshore_client::JobFilter;
use longshore_model::JobId;
use longshore_model::wire::record::Outcome;
use longshore_model::wire::rest::JobList;
use serde_json::{Value, json};

use crate::support::House;

async fn ids(house: &House, query: &str) -> Vec<JobId> {
    let list: JobList = serde_json::from_value(house.get(&format!("/api/v1/jobs?{query}")).await).unwrap();
    list.items.into_iter().map(|item| item.id).collect()
}

#[tokio::test]
async fn filters_pages_and_counts_agree() {
    let (house, agent) = House::with_agent().await;
    let mut all = Vec::new();
    for n in 0..7 {
        let more = match n {
            0..3 => json!({"annotations": {"team": "harbour", "n": n.to_string()}}),
            3..5 => json!({"operation": "node.status.get"}),
            _ => json!({"target": "web-01"}),
        };
        all.push(house.submit(more).await.id);
    }
    // The first completes, the second fails, the sixth runs on its host.
    let (one, two) = (agent.take().await, agent.take().await);
    one.complete().await;
    two.start().await;
    two.answer(Outcome::Failed, json!(null)).await;
    let addressed = agent.inbox().await;
    addressed[0].start().await;
    for id in [one.job, two.job] {
        house.get(&format!("/api/v1/jobs/{id}?wait=20s")).await;
    }
    house.until("the index has it", async || house.get("/api/v1/jobs").await["counts"]["running"] == 1).await;

    let newest_first = |places: &[usize]| places.iter().rev().map(|place| all[*place]).collect::<Vec<_>>();
    let rows: &[(&str, &[usize])] = &[
        ("", &[0, 1, 2, 3, 4, 5, 6]),
        ("status=completed", &[0]),
        ("status=completed&status=failed", &[0, 1]),
        ("status=completed,failed", &[0, 1]),
        ("status=completed,failed&status=running", &[0, 1, 5]),
        ("status=pending", &[2, 3, 4, 6]),
        ("status=expired", &[]),
        ("operation=node.status.get", &[3, 4]),
        ("target=web-01", &[5, 6]),
        ("host=web-01", &[0, 1, 5]),
        ("submitter=ada", &[0, 1, 2, 3, 4, 5, 6]),
        ("submitter=bob", &[]),
        ("annotation=team%3Dharbour", &[0, 1, 2]),
        ("annotation=team%3Dharbour&annotation=n%3D2", &[2]),
        ("text=HARB", &[0, 1, 2]),
        ("since=1h", &[0, 1, 2, 3, 4, 5, 6]),
        ("until=1h", &[]),
        ("since=2999-01-01T00:00:00Z", &[]),
        ("until=2999-01-01T00:00:00Z&operation=node.status.get", &[3, 4]),
    ];
    for (query, expected) in rows {
        assert_eq!(ids(&house, query).await, newest_first(expected), "{query}");
    }
    let list = house.get("/api/v1/jobs?status=failed").await;
    let counts = json!({"scheduled": 0, "pending": 4, "running": 1, "retryable": 0, "completed": 1, "skipped": 0, "partial_failure": 0,
        "failed": 1, "cancelled": 0, "expired": 0});
    assert_eq!(list["counts"], counts);

    for filter in ["", "&operation=node.hostname.get", "&status=pending&status=running", "&since=1h&until=0s"] {
        let mut found = Vec::new();
        let mut next: Option<String> = Some(String::new());
        while let Some(cursor) = next {
            let page = house.get(&format!("/api/v1/jobs?limit=2{filter}{cursor}")).await;
            found.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().parse::<JobId>().unwrap()));
            next = page["next_cursor"].as_str().map(|cursor| format!("&cursor={cursor}"));
        }
        assert_eq!(found, ids(&house, filter.trim_start_matches('&')).await, "{filter}");
    }
    let page = house.request(reqwest::Method::GET, "/api/v1/jobs?limit=2&operation=node.hostname.get").send().await.unwrap();
    let link = page.headers()["link"].to_str().unwrap().to_owned();
    let page: Value = page.json().await.unwrap();
    let cursor = page["next_cursor"].as_str().unwrap();
    assert_eq!(link, format!("</api/v1/jobs?limit=2&operation=node.hostname.get&cursor={cursor}>; rel=\"next\""));
    let foreign = house.request(reqwest::Method::GET, &format!("/api/v1/jobs?cursor={cursor}")).send().await.unwrap();
    assert_eq!(foreign.status(), 400);
}

#[tokio::test]
async fn the_index_of_a_controller_that_comes_later_is_the_same() {
    let (house, agent) = House::with_agent().await;
    let mut waiting = BTreeSet::new();
    for _ in 0..20 {
        waiting.insert(house.submit(json!({})).await.id);
    }
    for n in 0..15 {
        let task = agent.take().await;
        match n % 3 {
            0 => task.complete().await,
            1 => drop(task.start().await),
            _ => {
                task.start().await;
                task.answer(Outcome::Failed, json!(null)).await;
            }
        }
    }
    let deleted = ids(&house, "status=pending").await[0];
    let response = house.request(reqwest::Method::DELETE, &format!("/api/v1/jobs/{deleted}?force=true")).send().await.unwrap();
    assert_eq!(response.status(), 204);
    let retried = house.request(reqwest::Method::POST, &format!("/api/v1/jobs/{}/retry", ids(&house, "status=completed").await[0]));
    assert_eq!(retried.send().await.unwrap().status(), 201);
    house.until("all is indexed", async || house.get("/api/v1/jobs").await["counts"]["running"] == 5).await;

    let later = House::on(house.store.clone(), |_| {}).await;
    let live = house.get("/api/v1/jobs?limit=1000").await;
    assert_eq!(live["items"].as_array().unwrap().len(), 20);
    assert_eq!(later.get("/api/v1/jobs?limit=1000").await, live);
}

#[tokio::test]
async fn the_client_asks_for_what_the_server_reads() {
    let (house, _agent) = House::with_agent().await;
    let wanted = house.submit(json!({"operation": "node.status.get", "target": "web-01", "annotations": {"team": "harbour"}})).await;
    house.submit(json!({})).await;
    let client = house.client();
    let some = |text: &str| Some(text.to_owned());
    let all = JobFilter::default;
    let narrow = [
        JobFilter { operation: some("node.status.get"), ..all() },
        JobFilter { target: some("web-01"), ..all() },
        JobFilter { agent: Some(wanted.executions[0].id.to_string()), ..all() },
        JobFilter { annotation: some("team=harbour"), ..all() },
        JobFilter { q: some("HARB"), ..all() },
        JobFilter { status: some("pending,running"), operation: some("node.status.get"), submitter: some("ada"), ..all() },
        JobFilter { since: some("1h"), until: some("0s"), limit: Some(1), target: some("web-01"), ..all() },
    ];
    for filter in narrow {
        let ids: Vec<JobId> = client.jobs(&filter).await.unwrap().items.iter().map(|item| item.id).collect();
        assert_eq!(ids, [wanted.id], "{filter:?}");
    }
    for filter in [
        JobFilter { status: some("completed,failed"), ..all() },
        JobFilter { submitter: some("bob"), ..all() },
        JobFilter { since: some("2999-01-01T00:00:00Z"), ..all() },
        JobFilter { until: some("1h"), ..all() },
    ] {
        assert!(client.jobs(&filter).await.unwrap().items.is_empty(), "{filter:?}");
    }
    let first = client.jobs(&JobFilter { since: some("1h"), limit: Some(1), ..all() }).await.unwrap();
    let second = client.jobs(&JobFilter { since: some("1h"), limit: Some(1), cursor: first.next_cursor, ..all() }).await.unwrap();
    assert_eq!((first.items.len(), second.items[0].id), (1, wanted.id));
}
