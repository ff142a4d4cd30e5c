//! The broker's disk is full: nothing is accepted that is not kept, and what was accepted is done once there is space again.

use std::time::{Duration, Instant};

use longshore_client::ErrorCode;
use longshore_model::JobStatus;
use longshore_model::wire::rest::JobRequest;
use longshore_testkit::witness::Witness;
use longshore_testkit::{Disk, NatsOptions, NatsServer, Process, Signal, eventually};

use crate::fleet::{Fleet, PATIENCE, longshore, shell};

/// How soon a submission that cannot be stored is answered.
const A_FEW_SECONDS: Duration = Duration::from_secs(8);
/// Refusals that are waited for: the first finds the disk full, the next a broker that has given up.
const REFUSALS: usize = 2;
/// More than the last free page of any file can take.
const SUBMISSIONS_MAX: usize = 60;

#[tokio::test]
async fn a_full_disk_refuses_new_work_and_loses_none() {
    let Some(disk) = disk("64m") else { return };
    let options = NatsOptions {
        store_dir: Some(disk.path().join("store")),
        // Bounds of streams are set aside in full; the server's own guess from the disk would not hold ours.
        max_file_store: Some(64 << 30),
        ..NatsOptions::default()
    };
    let mut fleet = Fleet::start_on(NatsServer::start_with(options).await, 1).await;
    let witness = Witness::new_in(fleet.dir.path());
    let job =
        |label: &str| JobRequest { annotations: [("label".to_owned(), label.to_owned())].into(), ..shell(&witness.script(label, "true")) };
    let mut acknowledged = Vec::new();
    for n in 0..5 {
        let label = format!("before-{n}");
        acknowledged.push((fleet.perform(&job(&label)).await.id, label));
    }

    disk.fill();
    let (mut unknown, mut refused) = (Vec::new(), Vec::new());
    for n in 0..SUBMISSIONS_MAX {
        let label = format!("full-{n}");
        let asked = Instant::now();
        match fleet.client.submit(&job(&label), None).await {
            Ok(view) => acknowledged.push((view.id, label)),
            Err(error) => {
                assert!(asked.elapsed() < A_FEW_SECONDS, "{error} after {:?}", asked.elapsed());
                assert!(error.is_retryable(), "{error:?}");
                match error.code() {
                    Some(ErrorCode::StorageFull) => refused.push(label),
                    Some(ErrorCode::Unavailable) => unknown.push(label),
                    other => panic!("a full disk is {other:?}: {error:?}"),
                }
            }
        }
        if refused.len() + unknown.len() == REFUSALS {
            break;
        }
    }
    println!("{} acknowledged, {} refused, {} unknown", acknowledged.len(), refused.len(), unknown.len());
    assert_eq!(refused.len() + unknown.len(), REFUSALS, "the disk never was full");

    disk.make_room();
    // `longshore explain unavailable` says it: a broker whose disk was full has to be restarted.
    assert!(ErrorCode::Unavailable.explanation().contains("must be restarted"));
    fleet.nats.restart().await;
    for (id, label) in &acknowledged {
        let view = eventually("an acknowledged job to end", PATIENCE, async || {
            let view = fleet.client.job(*id, Some(PATIENCE)).await.ok()?;
            view.status.is_final().then_some(view)
        })
        .await;
        assert_eq!(view.status, JobStatus::Completed, "{label}: {view:?}");
    }
    let after = eventually("work to go on", PATIENCE, async || fleet.client.submit(&job("after"), Some(PATIENCE)).await.ok()).await;
    assert_eq!(after.status, JobStatus::Completed);

    let account = witness.read();
    for label in acknowledged.iter().map(|(_, label)| label.as_str()).chain(["after"]) {
        assert!(account.starts_of(label) >= 1, "{label} was accepted and never ran");
    }
    for label in &refused {
        assert_eq!(account.starts_of(label), 0, "{label} was refused as having had no effect, and ran");
    }
    let listed = fleet.client.jobs(&longshore_client::JobFilter { limit: Some(1000), ..Default::default() }).await.unwrap();
    assert!(listed.items.len() <= acknowledged.len() + unknown.len() + 1, "{listed:?}");
}

#[tokio::test]
async fn everything_starts_on_a_disk_smaller_than_the_bounds_of_its_streams() {
    let Some(disk) = disk("96m") else { return };
    let home = tempfile::tempdir().unwrap();
    let data = disk.path().join("data").display().to_string();
    let mut process = Process::spawn(longshore(home.path(), &["start", "-o", "json", "--listen", "127.0.0.1:0", "--data", &data]));
    process.wait_for_line(|line| line.starts_with('{'), PATIENCE).await;
    process.signal(Signal::TERM);
    assert!(process.wait(PATIENCE).await.success(), "{}", process.output());
}

/// `None`, with the reason said, where the test is not allowed to mount.
fn disk(size: &str) -> Option<Disk> {
    Disk::mount(size).inspect_err(|why| println!("skipped, {why}")).ok()
}
