//! `network.ping.run`: real packets, to this host alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore_exec::{Finished, Output};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Outcome;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{Bench, Recorder, failure, task, within};

/// The result, or `None` where the sandbox allows no such socket. Who may send raw packets skips nothing that there is.
#[expect(clippy::print_stderr, reason = "whoever reads the tests' output should see that they could not look")]
fn result(finished: &Finished) -> Option<&Value> {
    if let Some(failure) = &finished.failure
        && matches!(failure.code, ErrorCode::NotPermitted | ErrorCode::Unsupported)
        && (failure.code == ErrorCode::Unsupported || !may_send_raw_packets())
    {
        eprintln!("SKIPPED: {}", failure.message);
        return None;
    }
    Some(finished.result.as_ref().unwrap_or_else(|| panic!("{finished:?}")))
}

/// Whether this process has CAP_NET_RAW.
fn may_send_raw_packets() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    u64::from_str_radix(effective.trim(), 16).is_ok_and(|set| set & (1 << 13) != 0)
}

#[tokio::test]
async fn this_host_answers_itself() {
    let bench = Bench::new();
    for address in ["127.0.0.1", "::1", "localhost"] {
        let finished = bench.run(task("network.ping.run", json!({"address": address, "count": 3}))).await;
        let Some(result) = result(&finished) else { continue };
        assert_eq!((finished.outcome, finished.changed), (Outcome::Completed, Some(false)));
        assert_eq!((&result["sent"], &result["received"], &result["loss_percent"]), (&json!(3), &json!(3), &json!(0.0)), "{result}");
        let times = ["min_ms", "avg_ms", "max_ms"].map(|name| result["round_trip"][name].as_f64().unwrap());
        assert!(times[0] > 0.0 && times.is_sorted() && times[2] < 2000.0, "{result}");
        assert!(address == "localhost" || result["address"] == address, "{result}");
    }
}

/// Other pings run beside it, and on raw sockets all of them hear everything.
#[tokio::test]
async fn pings_at_the_same_time_count_their_own_answers() {
    let bench = Bench::new();
    let pings: Vec<_> = (0..8).map(|_| bench.run(task("network.ping.run", json!({"address": "127.0.0.1", "count": 2})))).collect();
    for finished in futures_of(pings).await {
        let Some(result) = result(&finished) else { return };
        assert_eq!((&result["sent"], &result["received"]), (&json!(2), &json!(2)), "{result}");
    }
}

async fn futures_of<F: Future<Output = Finished>>(all: Vec<F>) -> Vec<Finished> {
    let mut all: Vec<_> = all.into_iter().map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        all.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(finished) => {
                done.push(finished);
                false
            }
            std::task::Poll::Pending => true,
        });
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}

#[tokio::test]
async fn a_job_whose_time_is_up_or_that_is_cancelled_says_what_it_has() {
    let bench = Bench::new();
    let long = json!({"address": "127.0.0.1", "count": 100, "interval": "10s"});
    let finished = bench.run(within(Duration::from_millis(300), task("network.ping.run", long.clone()))).await;
    if result(&finished).is_none() {
        return;
    }
    assert_eq!(failure(&finished), (ErrorCode::TimedOut, "1 of 100 packets were sent when the job's time was up"));
    assert_eq!(finished.result.unwrap()["received"], 1);

    let (cancel, began) = (CancellationToken::new(), Instant::now());
    let output: Arc<dyn Output> = Arc::new(Recorder::default());
    let running = bench.executor.run(task("network.ping.run", long), output, cancel.clone());
    let (finished, ()) = tokio::join!(running, async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cancel.cancel();
    });
    assert_eq!((finished.outcome, finished.cancel_verified), (Outcome::Cancelled, Some(true)));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn what_cannot_be_reached_is_named() {
    let bench = Bench::new();
    let unknown = bench.run(task("network.ping.run", json!({"address": "no-such-host.invalid"}))).await;
    let (code, message) = failure(&unknown);
    assert_eq!((code, unknown.transient), (ErrorCode::HostFault, false));
    assert!(message.starts_with("could not look up no-such-host.invalid: "), "{message}");

    let zone = bench.run(task("network.ping.run", json!({"address": "fe80::1%no-such-if0"}))).await;
    let (code, message) = failure(&zone);
    if code != ErrorCode::NotPermitted && code != ErrorCode::Unsupported {
        assert!(message.starts_with("the host has no network interface \"no-such-if0\""), "{message}");
    }
}
