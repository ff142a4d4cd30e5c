//! What the broker takes for the time. Whoever shares a broker stamps its records and compares others' by that, so that on a host whose own
//! clock is wrong nothing is started before its time, or long after it. Durations are not measured with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::link::TRY;
use crate::Clock;
use crate::layout::Layout;

/// A clock that is off by no more is right: half of the skew that is allowed for.
const TOLERATED: SignedDuration = SignedDuration::from_millis(500);
/// An answer that took longer tells too little of when it was given.
const ANSWERED_WITHIN: Duration = Duration::from_millis(500);
/// Between looks.
const EVERY: Duration = Duration::from_secs(5 * 60);

/// The machine's clock, put right by the broker's now and from time to time.
pub(super) async fn clock(client: &Client, layout: &Layout) -> Clock {
    let subject = format!("$JS.API.STREAM.INFO.{}", Layout::bucket_stream(&layout.registry_bucket));
    let follower = Follower { client: client.clone(), subject, machine: Timestamp::now, by: Arc::default() };
    follower.look().await;
    let by = Arc::clone(&follower.by);
    #[expect(clippy::disallowed_methods, reason = "the clock owns the task")]
    let task = tokio::spawn(async move {
        loop {
            tokio::time::sleep(EVERY).await;
            follower.look().await;
        }
    });
    Clock::corrected(by, AbortOnDropHandle::new(task))
}

struct Follower {
    client: Client,
    /// A question whose answer says when it was given.
    subject: String,
    machine: fn() -> Timestamp,
    by: Arc<AtomicI64>,
}

#[derive(Deserialize)]
struct Answer {
    ts: Timestamp,
}

impl Follower {
    /// Asks the broker. Without an answer everything stays as it was.
    async fn look(&self) {
        let (asked, asked_at) = (Instant::now(), (self.machine)());
        let Ok(Ok(answer)) = tokio::time::timeout(TRY, self.client.request(self.subject.clone(), Bytes::new())).await else { return };
        let took = asked.elapsed();
        let Ok(Answer { ts }) = serde_json::from_slice(&answer.payload) else { return };
        if took > ANSWERED_WITHIN {
            return;
        }
        // It was given somewhere between question and answer.
        let half = SignedDuration::try_from(took / 2).unwrap_or_default();
        let before = SignedDuration::from_nanos(self.by.load(Ordering::Relaxed));
        let now = settled(before, ts.duration_since(asked_at).saturating_sub(half));
        if now != before {
            let behind_ms = i64::try_from(now.as_millis()).unwrap_or_default();
            tracing::warn!(behind_ms, "this host's clock differs from the broker's, which is gone by instead");
            self.by.store(i64::try_from(now.as_nanos()).unwrap_or_default(), Ordering::Relaxed);
        }
    }
}

/// What is gone by when this was found and that was gone by before: small differences change nothing, so that time does not jump about.
fn settled(before: SignedDuration, found: SignedDuration) -> SignedDuration {
    if found.abs() <= TOLERATED {
        SignedDuration::ZERO
    } else if (found - before).abs() <= TOLERATED {
        before
    } else {
        found
    }
}

#[cfg(test)]
mod tests {
    use longshore_testkit::NatsServer;

    use super::*;
    use crate::jetstream::{Config, connect};

    #[test]
    fn a_clock_that_is_nearly_right_is_left_alone() {
        let ms = SignedDuration::from_millis;
        for (before, found, expected) in [
            (0, 0, 0),
            (0, 499, 0),
            (0, -499, 0),
            (0, 700, 700),
            (700, 900, 700),
            (700, 300, 0),
            (-3_600_000, 5000, 5000),
            (0, -9000, -9000),
        ] {
            assert_eq!(settled(ms(before), ms(found)), ms(expected), "{before} {found}");
        }
    }

    #[tokio::test]
    async fn a_host_whose_clock_is_wrong_goes_by_the_brokers() {
        const HOUR: SignedDuration = SignedDuration::from_hours(1);
        let server = NatsServer::start().await;
        let config = Config { url: server.url(), ..Config::default() };
        let store = connect(&config).await.unwrap();
        assert!(store.clock.now().duration_since(Timestamp::now()).abs() < ANSWERED_WITHIN.try_into().unwrap(), "this one is right");

        let client = async_nats::connect(server.url()).await.unwrap();
        let subject = format!("$JS.API.STREAM.INFO.{}", Layout::bucket_stream(&Layout::new(&config).registry_bucket));
        let ahead = Follower { client, subject, machine: || Timestamp::now() + HOUR, by: Arc::default() };
        ahead.look().await;
        let by = SignedDuration::from_nanos(ahead.by.load(Ordering::Relaxed));
        assert!((by + HOUR).abs() < TOLERATED, "{by:?}");
        // It stays right while nobody answers, and is so again when the machine's clock was set.
        drop(server);
        ahead.look().await;
        assert_eq!(SignedDuration::from_nanos(ahead.by.load(Ordering::Relaxed)), by);
    }
}
