//! The broker's disk is a small one, and full for the whole time. Then there is room, and the broker is started again: one whose disk was
//! full wants that, and `longshore explain unavailable` says so.

use std::time::Instant;

use anyhow::{Context, anyhow, ensure};
use async_trait::async_trait;
use longshore_testkit::{Disk, NatsOptions, NatsServer, Random};

use super::{Cell, broker};
use crate::fleet::{Fleet, Site};
use crate::host::must_be_alone;
use crate::keeper::Powers;

/// More than a cell of some minutes writes.
const SIZE: &str = "2g";

#[derive(Default)]
pub(super) struct DiskFull {
    disk: Option<Disk>,
}

#[async_trait(?Send)]
impl Cell for DiskFull {
    async fn site(&mut self, powers: Powers) -> anyhow::Result<Site> {
        must_be_alone(powers)?;
        let disk = Disk::mount(SIZE).map_err(|why| anyhow!(why))?;
        let options = NatsOptions { store_dir: Some(disk.path().join("store")), ..broker() };
        self.disk = Some(disk);
        Ok(Site::on(NatsServer::start_with(options).await))
    }

    async fn strike(&mut self, _fleet: &mut Fleet, until: Instant, _random: &mut Random) -> anyhow::Result<u32> {
        let disk = self.disk.as_ref().context("it was mounted")?;
        disk.fill();
        tokio::time::sleep(until.saturating_duration_since(Instant::now())).await;
        ensure!(disk.is_full(), "the disk did not stay full");
        Ok(1)
    }

    async fn heal(&mut self, fleet: &mut Fleet) -> anyhow::Result<()> {
        self.disk.as_ref().context("it was mounted")?.make_room();
        fleet.brokers[0].restart().await;
        Ok(())
    }
}
