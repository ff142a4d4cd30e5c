//! The broker is killed and started again on its files.

use std::time::Instant;

use async_trait::async_trait;
use longshore_testkit::{NatsServer, Random};

use super::{Blows, Cell, broker};
use crate::fleet::{Fleet, Site};
use crate::keeper::Powers;

pub(super) struct KillBroker;

#[async_trait(?Send)]
impl Cell for KillBroker {
    async fn site(&mut self, _powers: Powers) -> anyhow::Result<Site> {
        Ok(Site::on(NatsServer::start_with(broker()).await))
    }

    async fn strike(&mut self, fleet: &mut Fleet, until: Instant, _random: &mut Random) -> anyhow::Result<u32> {
        let mut blows = Blows::until(until);
        while blows.next().await {
            fleet.brokers[0].kill();
            fleet.brokers[0].restart().await;
        }
        Ok(blows.n)
    }
}
