//! Figures, on request: `cargo test -p longshore-exec --test it hosts::bench -- --ignored --nocapture`.

use std::time::Instant;

use longshore_exec::package::host::{Call, Door, ExecMode};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Stand, call, package};

#[tokio::test]
#[ignore = "a measurement, for a quiet machine"]
async fn echo_round_trips() {
    let (stand, package) = (Stand::new(), package("example.pkg"));
    let began = Instant::now();
    stand.result(&package, "echo", json!({})).await;
    println!("first call, host started for it: {:?}", began.elapsed());
    for (node_type, mode) in [("echo", ExecMode::Auto), ("where_inline", ExecMode::Auto), ("where_thread", ExecMode::Auto)] {
        let mut times = Vec::new();
        for _ in 0..2000 {
            let call = Call { exec_mode: mode, ..call(node_type, json!({ "text": "hello" })) };
            let began = Instant::now();
            stand.hosts.run(&package, call, Door::default(), CancellationToken::new()).await.unwrap();
            times.push(began.elapsed());
        }
        times.sort_unstable();
        println!("{node_type}: min {:?}, median {:?}, p99 {:?}", times[0], times[1000], times[1980]);
    }
    let began = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (hosts, package) = (stand.hosts.clone(), package.clone());
        running.spawn(async move {
            for _ in 0..100 {
                hosts.run(&package, call("echo", json!({ "text": "hello" })), Door::default(), CancellationToken::new()).await.unwrap();
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
    println!("64 at once: {:.0} a second", 6400.0 / began.elapsed().as_secs_f64());
}
