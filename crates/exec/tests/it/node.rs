//! What a host says of itself.

use longshore_model::wire::record::Outcome;
use serde_json::{Value, json};

use crate::support::{Bench, task};

async fn asked(bench: &Bench, operation: &str) -> Value {
    let finished = bench.run(task(operation, json!({}))).await;
    assert_eq!((finished.outcome, finished.changed), (Outcome::Completed, Some(false)), "{operation}");
    finished.result.unwrap()
}

#[tokio::test]
async fn the_node_says_what_it_is() {
    let bench = Bench::new();
    let (hostname, status) = (asked(&bench, "node.hostname.get").await, asked(&bench, "node.status.get").await);
    assert_eq!(hostname["hostname"], status["hostname"]);
    assert!(status["memory"]["total_bytes"].as_u64().unwrap() > 1 << 20 && status["cpus"].as_u64().unwrap() > 0, "{status}");
}

#[tokio::test]
async fn each_part_of_the_status_can_be_asked_for_by_itself() {
    let bench = Bench::new();
    let status = asked(&bench, "node.status.get").await;
    let os = asked(&bench, "node.os.get").await;
    assert_eq!((&os["os"], &os["kernel"], &os["arch"]), (&status["os"], &status["kernel"], &status["arch"]));
    assert!(!os["distribution"].as_str().unwrap().is_empty(), "{os}");
    assert_eq!(asked(&bench, "node.memory.get").await["total_bytes"], status["memory"]["total_bytes"]);
    assert_eq!(asked(&bench, "node.load.get").await["cpus"], status["cpus"]);
    assert!(asked(&bench, "node.uptime.get").await["uptime_seconds"].as_u64() >= status["uptime_seconds"].as_u64());
    let mounts = |disks: &Value| disks.as_array().unwrap().iter().map(|disk| disk["mount"].clone()).collect::<Vec<_>>();
    assert_eq!(mounts(&asked(&bench, "node.disk.get").await["disks"]), mounts(&status["disks"]));
}
