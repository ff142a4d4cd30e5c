//! Two controllers on one broker: both answer, neither undoes what the other did, and either may be killed.

use std::cell::Cell;
use std::collections::BTreeSet;

use futures::future::join_all;
use longshore_client::{Client, JobFilter};
use longshore_model::wire::rest::{JobRequest, JobView};
use longshore_model::{JobId, JobStatus};
use longshore_testkit::witness::Witness;
use longshore_testkit::{Signal, eventually};

use crate::fleet::{Fleet, PATIENCE, shell};

const JOBS: usize = 300;
const SUBMITTERS: usize = 10;
const ABSENT: usize = 30;

#[tokio::test]
async fn two_controllers_serve_one_fleet_and_killing_either_loses_nothing() {
    let mut fleet = Fleet::start(2).await;
    let witness = Witness::new_in(fleet.dir.path());
    let (mut second, other) = fleet.another_controller().await;
    eventually("the second to know the fleet", PATIENCE, async || (other.agents().await.ok()?.items.len() == 2).then_some(())).await;
    let (clients, n_ended) = ([fleet.client.clone(), other], Cell::new(0));

    let submitters = join_all((0..SUBMITTERS).map(|first| submit_share(first, &clients, &witness, &n_ended)));
    let kills = async {
        for kill in 0..4 {
            eventually("progress", PATIENCE, async || (n_ended.get() >= JOBS * (kill + 1) / 6).then_some(())).await;
            // One after the other, so that there is always one.
            let victim = if kill % 2 == 0 { &mut fleet.controller } else { &mut second };
            victim.kill_and_restart().await;
        }
    };
    let (ids, ()) = tokio::join!(submitters, kills);
    let ids: BTreeSet<JobId> = ids.into_iter().flatten().collect();
    assert_eq!(ids.len(), JOBS, "every submission is a job of its own, and a repeat at the other controller is none");
    let labels: Vec<String> = (0..JOBS).map(label).collect();
    assert_eq!(witness.read().discrepancies(labels.iter().map(String::as_str), 1), [], "each ran once");
    for client in &clients {
        let listed = eventually("a list that is whole", PATIENCE, async || {
            let list = all(client).await?;
            (list.len() == JOBS).then_some(list)
        })
        .await;
        assert_eq!(listed, ids, "both know the same");
    }

    // What both of them are to end is ended once.
    fleet.agents[1].process().signal(Signal::TERM);
    fleet.agents[1].process().wait(PATIENCE).await;
    let gone = eventually("the agent to be away", PATIENCE, async || {
        let refused = clients[1].submit(&JobRequest { target: "host-1".into(), ..shell("true") }, None).await.err()?;
        refused.code().filter(|code| *code == longshore_client::ErrorCode::AgentOffline)
    })
    .await;
    assert_eq!(gone, longshore_client::ErrorCode::AgentOffline);
    let waits = |n: usize| JobRequest {
        target: "host-1".into(),
        expires_in: Some("2s".into()),
        wait_for_agents: Some("2s".into()),
        ..shell(&witness.script(&format!("never-{n}"), "true"))
    };
    let waiting: Vec<JobRequest> = (0..ABSENT).map(waits).collect();
    let ended = join_all(waiting.iter().enumerate().map(async |(n, request)| {
        let id = clients[n % 2].submit(request, None).await.unwrap().id;
        clients[(n + 1) % 2].job(id, Some(PATIENCE)).await.unwrap()
    }));
    for ended in ended.await {
        assert_eq!(ended.status, JobStatus::Expired, "{ended:?}");
        let told = |ended: &JobView, event: &str| ended.timeline.iter().filter(|entry| entry.event == event).count();
        // It has ended by the event; the answer follows it.
        let ended = eventually("its answer", PATIENCE, async || {
            let view = clients[0].job(ended.id, None).await.ok()?;
            (told(&view, "answered") > 0).then_some(view)
        })
        .await;
        assert_eq!((told(&ended, "expired"), told(&ended, "answered")), (1, 1), "{:?}", ended.timeline);
    }
    assert_eq!(witness.read().n_starts() as usize, JOBS);
}

fn label(n: usize) -> String {
    format!("job-{n}")
}

/// Submits at one controller and, as if the answer had been lost, at the other as well; and waits at whichever is there.
async fn submit_share(first: usize, clients: &[Client; 2], witness: &Witness, n_ended: &Cell<usize>) -> Vec<JobId> {
    let mut ids = Vec::new();
    for n in (first..JOBS).step_by(SUBMITTERS) {
        let target = ["_any", "host-0", "host-1"][n % 3].to_owned();
        let request = JobRequest { target, idempotency_key: Some(label(n)), ..shell(&witness.script(&label(n), "true")) };
        let submit = async |client: &Client| {
            eventually("an accepted submission", PATIENCE, async || client.submit(&request, None).await.ok().map(|view| view.id)).await
        };
        let id = submit(&clients[n % 2]).await;
        assert_eq!(submit(&clients[(n + 1) % 2]).await, id, "one key is one job, whoever is asked");
        let ended = eventually("its end", PATIENCE, async || {
            let view = clients[(n + 1) % 2].job(id, Some(PATIENCE)).await.ok()?;
            view.status.is_final().then_some(view)
        })
        .await;
        assert_eq!((ended.status, ended.executions[0].attempts), (JobStatus::Completed, 1), "{ended:?}");
        n_ended.set(n_ended.get() + 1);
        ids.push(id);
    }
    ids
}

/// Every job that a controller lists; `None` while it is not ready.
async fn all(client: &Client) -> Option<BTreeSet<JobId>> {
    let (mut ids, mut filter) = (BTreeSet::new(), JobFilter { limit: Some(1000), ..JobFilter::default() });
    loop {
        let page = client.jobs(&filter).await.ok()?;
        ids.extend(page.items.iter().map(|job| job.id));
        filter.cursor = page.next_cursor;
        if filter.cursor.is_none() {
            return Some(ids);
        }
    }
}
