//! Nothing happens: what the others are compared with, and what the machine itself does to the figures.

use std::time::Instant;

use async_trait::async_trait;
use longshore_testkit::{NatsServer, Random};

use super::{Cell, broker};
use crate::fleet::{Fleet, Site};
use crate::keeper::Powers;

pub(super) struct Nothing;

#[async_trait(?Send)]
impl Cell for Nothing {
    async fn site(&mut self, _powers: Powers) -> anyhow::Result<Site> {
        Ok(Site::on(NatsServer::start_with(broker()).await))
    }

    async fn strike(&mut self, _fleet: &mut Fleet, until: Instant, _random: &mut Random) -> anyhow::Result<u32> {
        tokio::time::sleep(until.saturating_duration_since(Instant::now())).await;
        Ok(0)
    }
}
