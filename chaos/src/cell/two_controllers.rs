//! Two controllers serve one broker, and one of them is killed again and again. Calls go to whichever answers. At the end both give the
//! same answers, and both are still: their reconcilers do not undo or repeat each other's work.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use longshore_testkit::{NatsServer, Random};
use serde_json::Value;

use super::{Blows, Cell, broker};
use crate::fleet::{Fleet, Site};
use crate::keeper::Powers;

/// Longer than two passes of every reconciler.
const STILL_FOR: Duration = Duration::from_secs(11);
/// Repairs that wait for a claim to lapse are over by then.
const STILL_WITHIN: Duration = Duration::from_secs(90);
/// What agents and readers write all the time.
const ALIVE: [&str; 4] = ["AUDIT", "KV_agent-facts", "KV_agent-registry", "KV_agent-state"];

pub(super) struct TwoControllers;

#[async_trait(?Send)]
impl Cell for TwoControllers {
    async fn site(&mut self, _powers: Powers) -> anyhow::Result<Site> {
        Ok(Site { n_controllers: 2, ..Site::on(NatsServer::start_with(broker()).await) })
    }

    async fn strike(&mut self, fleet: &mut Fleet, until: Instant, _random: &mut Random) -> anyhow::Result<u32> {
        let mut blows = Blows::until(until);
        while blows.next().await {
            fleet.controllers[1].kill_and_restart().await;
        }
        Ok(blows.n)
    }

    async fn judge(&mut self, fleet: &mut Fleet) -> Vec<String> {
        let mut broken = Vec::new();
        for door in &fleet.doors {
            if let Err(error) = door.status().await {
                broken.push(format!("the controller at {} does not answer: {error}", door.url()));
            }
        }
        broken.extend(fights(&fleet.brokers[0]).await);
        broken
    }
}

/// Says which streams are still written to long after there was nothing to do.
async fn fights(broker: &NatsServer) -> Option<String> {
    let since = Instant::now();
    let mut before = written(broker).await;
    loop {
        tokio::time::sleep(STILL_FOR).await;
        let now = written(broker).await;
        if now == before {
            return None;
        }
        if since.elapsed() > STILL_WITHIN {
            let moving: Vec<_> = now.iter().filter(|(name, last)| before.get(*name) != Some(last)).map(|(name, _)| name.as_str()).collect();
            return Some(format!("{:?} after the last job the controllers still write to {}", since.elapsed(), moving.join(", ")));
        }
        before = now;
    }
}

/// The last sequence of every stream that is still when there is nothing to do.
async fn written(broker: &NatsServer) -> BTreeMap<String, u64> {
    let listed = broker.ask("$JS.API.STREAM.LIST", &Value::Null).await;
    let streams = listed["streams"].as_array().into_iter().flatten();
    let last = streams.filter_map(|stream| Some((stream["config"]["name"].as_str()?.to_owned(), stream["state"]["last_seq"].as_u64()?)));
    last.filter(|(name, _)| !ALIVE.contains(&name.as_str())).collect()
}
