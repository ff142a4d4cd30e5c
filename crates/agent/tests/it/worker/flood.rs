//! A scheduler that sends more than anybody can do.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_that_never_stops_sending_keeps_no_task_from_ending() {
    const N_FRAMES: usize = 10_000;
    let bench = Bench::new(SchedulerOptions::default()).await.set("transport_recv_queue_max", json!(N_FRAMES));
    let running = bench.ready().await;
    bench.dispatch("t", json!({"gate": true, "feedback": 20}));
    bench.until("it runs", || running.view().running == 1).await;
    for _ in 0..N_FRAMES {
        bench.scheduler.send("biz.unknown", &json!({}), None);
    }
    running.handlers.gate.cancel();
    bench.answer("t").await;
    // Each of them is acknowledged, and most of them after the task's end.
    let received = bench.scheduler.received();
    let at = received.iter().position(|text| text.contains(r#""type":"biz.exec.result""#)).unwrap();
    assert!(at < N_FRAMES / 2, "{at}");
}
