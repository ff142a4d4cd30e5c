//! What is refused is told, once, also over a kill.

use super::*;

#[tokio::test]
async fn what_was_refused_is_not_given_back_once_more_by_the_next_process() {
    let bench = Bench::new(SchedulerOptions::default()).await.set("dispatch_queue_max", json!(1)).set("concurrency_max_parallel", json!(1));
    let running = bench.ready().await;
    // One runs, one waits in its queue, and four behind it in the session.
    for n in 0..6 {
        bench.dispatch(&format!("t-{n}"), json!({"gate": true}));
    }
    bench.until("all sent", || bench.scheduler.dispatched().len() == 6 && running.view().queued == 1).await;
    bench.scheduler.send_control("control.drain", &json!({"deadline_ms": 60_000}));
    for n in 1..6 {
        assert_eq!(bench.code(&format!("t-{n}")).await, "E.RUNNER.CANCELLED");
    }
    running.handlers.gate.cancel();
    bench.answer("t-0").await;
    bench.until("everything acknowledged", || running.view().unacknowledged == 0).await;
    running.kill().await;
    let running = bench.ready().await;
    // Whatever else the next process says stands before this.
    bench.dispatch("last", json!({}));
    bench.answer("last").await;
    for n in 0..6 {
        assert_eq!(bench.scheduler.answers(&format!("t-{n}")).len(), 1, "t-{n}");
    }
    drop(running);
}

#[tokio::test]
async fn a_refusal_survives_a_kill_and_is_no_answer_for_later() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let running = bench.ready().await;
    bench.dispatch_keyed("first");
    bench.until("it runs", || running.view().running == 1).await;
    // What the worker says now is heard by nobody.
    bench.scheduler.stall(PATIENCE * 3);
    let seq = bench.dispatch_keyed("second");
    bench.until("it is refused", || running.view().unacknowledged == 1).await;
    running.kill().await;
    let running = bench.ready().await;
    assert_eq!(bench.code("second").await, "E.CMD.CONCURRENCY_VIOLATION");
    assert_eq!(bench.code("first").await, "E.RUNNER.CANCELLED");
    bench.until("everything acknowledged", || running.view().unacknowledged == 0).await;
    bench.again("second", "again", seq, &json!({}));
    bench.until("a result", || bench.scheduler.answers("second").iter().any(|answer| answer["type"] == "biz.exec.result")).await;
}

#[tokio::test]
async fn an_answer_is_kept_until_it_is_acknowledged_itself() {
    let bench = Bench::new(SchedulerOptions::default()).await;
    let running = bench.ready().await;
    bench.dispatch_keyed("first");
    bench.until("it runs", || running.view().running == 1).await;
    bench.scheduler.stall(PATIENCE * 3);
    let seq = bench.dispatch_keyed("second");
    bench.until("it is refused", || running.view().unacknowledged == 1).await;
    running.handlers.gate.cancel();
    bench.until("the first has ended", || running.view().unacknowledged == 2).await;
    bench.again("second", "again", seq, &json!({}));
    bench.until("the second has ended too", || running.view().unacknowledged == 3).await;
    // The refusal is acknowledged, and not the result that came after it.
    bench.scheduler.send_control("control.ack", &json!({"ack_seq": 1, "ack_bitmap": 0, "recv_window": 64}));
    bench.until("that is heard", || running.view().unacknowledged == 2).await;
    running.kill().await;
    let _running = bench.ready().await;
    assert_eq!(bench.answer("second").await["payload"]["status"], "SUCCEEDED");
}
