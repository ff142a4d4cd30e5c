//! Three brokers keep copies of everything. The one that leads is killed, by turns that of the ledger and that of the cluster, and comes back.

use std::time::{Duration, Instant};

use anyhow::Context;
use async_trait::async_trait;
use longshore_testkit::{NatsServer, Random, cluster};
use serde_json::Value;

use super::{Blows, Cell, broker};
use crate::fleet::{Fleet, Site};
use crate::keeper::Powers;

/// The stream that has the definitions and the events.
const LEDGER: &str = "KV_job-queue";
/// How long the others are two: they choose a leader within seconds.
const AWAY: Duration = Duration::from_secs(3);
const LED_WITHIN: Duration = Duration::from_secs(15);

pub(super) struct KillLeader;

#[async_trait(?Send)]
impl Cell for KillLeader {
    async fn site(&mut self, _powers: Powers) -> anyhow::Result<Site> {
        let mut brokers = cluster(&broker()).await.into_iter();
        let first = brokers.next().context("three servers")?;
        let mut site = Site::on(first);
        site.brokers.extend(brokers);
        Ok(site)
    }

    async fn strike(&mut self, fleet: &mut Fleet, until: Instant, _random: &mut Random) -> anyhow::Result<u32> {
        let mut blows = Blows::until(until);
        while blows.next().await {
            let of_ledger = blows.n % 2 == 1;
            let leader = longshore_testkit::eventually("a leader", LED_WITHIN, async || leader(&fleet.brokers, of_ledger).await).await;
            fleet.brokers[leader].kill();
            tokio::time::sleep(AWAY).await;
            fleet.brokers[leader].restart().await;
        }
        Ok(blows.n)
    }
}

/// The one of the servers that leads, as the first of them has it.
async fn leader(brokers: &[NatsServer], of_ledger: bool) -> Option<usize> {
    let told = brokers[0].monitor("/jsz?accounts=true&streams=true").await;
    let name = if of_ledger {
        let accounts = told["account_details"].as_array()?;
        let mut streams = accounts.iter().filter_map(|account| account["stream_detail"].as_array()).flatten();
        streams.find(|stream| stream["name"] == LEDGER)?["cluster"]["leader"].clone()
    } else {
        told["meta_cluster"]["leader"].clone()
    };
    let Value::String(name) = name else { return None };
    brokers.iter().position(|broker| broker.name() == name)
}
