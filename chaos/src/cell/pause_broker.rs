//! The broker stands still for the whole time: connections stay open, and nobody answers. As a machine that swaps, or is moved.

use std::time::{Duration, Instant};

use anyhow::ensure;
use async_trait::async_trait;
use longshore_testkit::{NatsServer, Random};

use super::{Cell, broker};
use crate::fleet::{Fleet, Site};
use crate::keeper::Powers;

const STOPPED_WITHIN: Duration = Duration::from_millis(200);

pub(super) struct PauseBroker;

#[async_trait(?Send)]
impl Cell for PauseBroker {
    async fn site(&mut self, _powers: Powers) -> anyhow::Result<Site> {
        Ok(Site::on(NatsServer::start_with(broker()).await))
    }

    async fn strike(&mut self, fleet: &mut Fleet, until: Instant, _random: &mut Random) -> anyhow::Result<u32> {
        let broker = &fleet.brokers[0];
        broker.pause();
        tokio::time::sleep(STOPPED_WITHIN).await;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", broker.pid()))?;
        ensure!(stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')), "the broker was not stopped: {stat}");
        tokio::time::sleep(until.saturating_duration_since(Instant::now())).await;
        Ok(1)
    }

    async fn heal(&mut self, fleet: &mut Fleet) -> anyhow::Result<()> {
        fleet.brokers[0].resume();
        Ok(())
    }
}
