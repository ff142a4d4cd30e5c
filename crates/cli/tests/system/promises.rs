//! Promises of the job system that only the whole program can keep, each looked at from outside.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use longshore_client::{Client, ClientConfig, ErrorCode};
use longshore_model::wire::rest::{JobRequest, JobView};
use longshore_model::{JobId, JobStatus};
use longshore_testkit::witness::Witness;
use longshore_testkit::{NatsServer, Signal, eventually};

use crate::fleet::{Fleet, PATIENCE, persistent, shell};

/// Three claims of [`Fleet`]'s, and a little.
const LONGER_THAN_THREE_CLAIMS: &str = "sleep 16";
/// A lease that no test waits for.
const LONG_LEASE: &str = "10m";
/// What is done at once, on a machine that is busy with other tests.
const AT_ONCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_job_of_three_times_the_ack_wait_runs_once() {
    let fleet = Fleet::start(2).await;
    let witness = Witness::new_in(fleet.dir.path());
    // Both may be run again, so that nothing but the extended claim keeps them from it.
    let job = |label: &str, target: &str| JobRequest {
        target: target.to_owned(),
        ..persistent(&witness.script(label, LONGER_THAN_THREE_CLAIMS))
    };
    let (shared, addressed) = (job("shared", "_any"), job("addressed", "host-0"));
    let (shared, addressed) = tokio::join!(fleet.perform(&shared), fleet.perform(&addressed));
    for view in [shared, addressed] {
        assert_eq!((view.status, view.executions[0].attempts), (JobStatus::Completed, 1), "{view:?}");
    }
    let account = witness.read();
    assert_eq!(account.discrepancies(["shared", "addressed"], 1), []);
    assert_eq!(account.ends.values().sum::<u32>(), 2);
}

#[tokio::test]
async fn a_thousand_jobs_for_any_of_three_agents_start_a_thousand_times_and_are_shared() {
    let fleet = Fleet::start(3).await;
    let witness = Witness::new_in(fleet.dir.path());
    let (labels, clients) = ((0..1000).map(|n| format!("job-{n}")).collect::<Vec<_>>(), 50);
    let share = async |first: usize| {
        let mut hosts = Vec::new();
        for label in labels.iter().skip(first).step_by(clients) {
            let view = fleet.perform(&shell(&witness.note(label, "start"))).await;
            assert_eq!((view.status, view.executions[0].attempts), (JobStatus::Completed, 1), "{view:?}");
            hosts.push(view.executions[0].hostname.clone().unwrap());
        }
        hosts
    };
    let hosts = futures::future::join_all((0..clients).map(share)).await.concat();
    assert_eq!(witness.read().discrepancies(labels.iter().map(String::as_str), 1), []);
    let mut shares = BTreeMap::<_, u32>::new();
    for host in hosts {
        *shares.entry(host).or_default() += 1;
    }
    println!("{shares:?}");
    assert!(shares.len() == 3 && shares.values().all(|n| (200..=500).contains(n)), "{shares:?}");
}

#[tokio::test]
async fn a_clean_stop_hands_work_back_at_once() {
    let mut fleet = Fleet::start_with(NatsServer::start().await, LONG_LEASE, 2).await;
    let witness = Witness::new_in(fleet.dir.path());
    let flag = fleet.dir.path().join("was-here");
    let work = format!("[ -e '{0}' ] || {{ touch '{0}'; sleep 600; }}", flag.display());
    let id = fleet.client.submit(&persistent(&witness.script("long", &work)), None).await.unwrap().id;
    eventually("its first attempt", PATIENCE, async || flag.exists().then_some(())).await;
    let first = fleet.client.job(id, None).await.unwrap().executions[0].hostname.clone().unwrap();
    let agent = usize::from(first != "host-0");

    let stopped_at = Instant::now();
    // The first signal gives running jobs their time, another ends it. How many arrive as one is the kernel's affair.
    let process = fleet.agents[agent].process();
    eventually("the agent to end", AT_ONCE, async || {
        process.signal(Signal::TERM);
        (!process.is_running()).then_some(())
    })
    .await;
    assert_eq!(process.wait(AT_ONCE).await.code(), Some(143), "ended by SIGTERM: {}", process.output());
    let view = fleet.client.job(id, Some(PATIENCE)).await.unwrap();
    assert!(stopped_at.elapsed() < AT_ONCE, "after {:?}, and the lease is {LONG_LEASE}", stopped_at.elapsed());
    let execution = &view.executions[0];
    assert_eq!((view.status, execution.attempts), (JobStatus::Completed, 2), "{view:?}");
    assert_ne!(execution.hostname.as_deref(), Some(first.as_str()), "somebody else did it");
    let account = witness.read();
    assert_eq!((account.starts_of("long"), account.ends.get("long")), (2, Some(&1)), "the first was stopped, not left running");
}

#[tokio::test]
async fn an_agent_never_runs_more_jobs_at_once_than_it_may() {
    let mut fleet = Fleet::start(0).await;
    fleet.add_agent(&["--max-jobs", "2"]).await;
    let witness = Witness::new_in(fleet.dir.path());
    let requests: Vec<_> = (0..12)
        .map(|n| {
            let target = if n % 2 == 0 { "_any" } else { "host-0" };
            JobRequest { target: target.into(), ..shell(&witness.script(&format!("job-{n}"), "sleep 0.3")) }
        })
        .collect();
    let views = futures::future::join_all(requests.iter().map(|request| fleet.perform(request))).await;
    assert!(views.iter().all(|view| view.status == JobStatus::Completed));
    let (mut running, mut most) = (0, 0);
    for line in std::fs::read_to_string(witness.path()).unwrap().lines() {
        if line.ends_with("start") {
            running += 1
        } else {
            running -= 1
        }
        most = most.max(running);
    }
    assert_eq!((running, most), (0, 2), "the bound holds, and is used");
}

#[tokio::test]
async fn a_job_deleted_while_it_waits_never_runs_and_leaves_nothing() {
    let mut fleet = Fleet::start(1).await;
    let witness = Witness::new_in(fleet.dir.path());
    fleet.agents[0].process().kill9();
    let mut ids = Vec::new();
    for n in 0..12 {
        let target = if n % 2 == 0 { "_any" } else { "host-0" };
        let request = JobRequest { target: target.into(), ..shell(&witness.script(&format!("deleted-{n}"), "true")) };
        let id = fleet.client.submit(&request, None).await.unwrap().id;
        if n < 6 {
            eventually("it to be announced", PATIENCE, async || {
                let stored = fleet.nats.stored_subjects().await;
                stored.iter().any(|(stream, subject)| stream != "KV_job-queue" && names(subject, id)).then_some(())
            })
            .await;
        }
        // The later ones are deleted while the broker is still announcing them.
        fleet.client.delete(id, true).await.unwrap();
        ids.push(id);
    }
    nothing_names(&fleet, &ids).await;

    fleet.agents[0].kill_and_restart().await;
    for target in ["_any", "host-0"] {
        let later = JobRequest { target: target.into(), ..shell("true") };
        let later = eventually("later work to run", PATIENCE, async || fleet.client.submit(&later, Some(PATIENCE)).await.ok()).await;
        assert_eq!(later.status, JobStatus::Completed);
    }
    assert_eq!(witness.read().n_starts(), 0);
    nothing_names(&fleet, &ids).await;
}

#[tokio::test]
async fn a_job_that_has_run_is_deleted_with_everything_it_left() {
    let fleet = Fleet::start(1).await;
    for target in ["_any", "host-0"] {
        let JobView { id, .. } = fleet.perform(&JobRequest { target: target.into(), ..shell("echo hello; echo there >&2") }).await;
        let stored = fleet.nats.stored_subjects().await;
        let mut streams: Vec<_> = stored.iter().filter(|(_, subject)| names(subject, id)).map(|(stream, _)| stream.as_str()).collect();
        streams.dedup();
        assert_eq!(streams, ["JOB-LOGS", "KV_job-queue", "KV_job-responses"], "definition and events, answer, output; no announcement");
        fleet.client.delete(id, false).await.unwrap();
        nothing_names(&fleet, &[id]).await;
    }
}

#[tokio::test]
async fn targets_that_do_not_exist_are_refused_and_nothing_is_stored() {
    let fleet = Fleet::start(1).await;
    for target in ["_all@group:web", "_any@web", "_host", "group:web.*", "", "*", ">", "../x", "a\0b", "host-0.>"] {
        let refused = fleet.client.submit(&JobRequest { target: target.into(), ..shell("true") }, None).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::Validation), "{target:?}: {refused:?}");
        let longshore_client::Error::Problem(problem) = refused else { panic!("{target:?}: {refused:?}") };
        assert_eq!((problem.status, problem.errors[0].pointer.as_str()), (422, "/target"), "{target:?}");
    }
    for target in ["group:web", "_any@group:web"] {
        let nobody = fleet.client.submit(&JobRequest { target: target.into(), ..shell("true") }, None).await.unwrap_err();
        assert_eq!(nobody.code(), Some(ErrorCode::NoAgent), "{target}: {nobody:?}");
    }
    let unknown = fleet.client.submit(&JobRequest { target: "host-1".into(), ..shell("true") }, None).await.unwrap_err();
    let longshore_client::Error::Problem(problem) = unknown else { panic!("{unknown:?}") };
    assert_eq!((problem.code, problem.hint.as_deref()), (ErrorCode::NoAgent, Some("did you mean host-0?")));
    assert_eq!(stored_jobs(&fleet).await, [""; 0]);
}

#[tokio::test]
async fn bodies_that_are_too_large_and_tokens_that_are_wrong_are_refused() {
    let fleet = Fleet::start(1).await;
    let refused = fleet.client.submit(&shell(&"x".repeat(2 << 20)), None).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::TooLarge), "{refused:?}");

    let url = fleet.controller.said("url");
    let token = std::fs::read_to_string(fleet.controller.said("token_file")).unwrap().trim().to_owned();
    let (head, signature) = token.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
    for token in [None, Some("wrong".to_owned()), Some(forged)] {
        let client = Client::new(ClientConfig { url: url.clone(), token }).unwrap();
        let refused = client.submit(&shell("true"), None).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::Unauthenticated), "{refused:?}");
        assert_eq!(client.agents().await.unwrap_err().code(), Some(ErrorCode::Unauthenticated));
    }
    assert_eq!(stored_jobs(&fleet).await, [""; 0]);
}

async fn stored_jobs(fleet: &Fleet) -> Vec<String> {
    let stored = fleet.nats.stored_subjects().await;
    stored.into_iter().map(|(_, subject)| subject).filter(|subject| subject.contains(".jobs.") || subject.starts_with("jobs.")).collect()
}

fn names(subject: &str, id: JobId) -> bool {
    let id = id.to_string();
    subject.split('.').any(|token| token == id)
}

/// No stream or bucket of the broker has anything under these names, as the broker itself tells.
async fn nothing_names(fleet: &Fleet, ids: &[JobId]) {
    let left = async || -> Vec<_> {
        let stored = fleet.nats.stored_subjects().await;
        stored.into_iter().filter(|(_, subject)| ids.iter().any(|id| names(subject, *id))).collect()
    };
    let began = Instant::now();
    loop {
        let left = left().await;
        if left.is_empty() {
            return;
        }
        assert!(began.elapsed() < AT_ONCE, "left behind: {left:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
