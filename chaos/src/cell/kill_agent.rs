//! An agent is killed with what it does, and started again as it was. Each blow takes one of them.

use std::time::Instant;

use async_trait::async_trait;
use longshore_testkit::{NatsServer, Random};

use super::{Blows, Cell, broker};
use crate::fleet::{Fleet, Site};
use crate::keeper::Powers;

pub(super) struct KillAgent;

#[async_trait(?Send)]
impl Cell for KillAgent {
    async fn site(&mut self, _powers: Powers) -> anyhow::Result<Site> {
        Ok(Site::on(NatsServer::start_with(broker()).await))
    }

    async fn strike(&mut self, fleet: &mut Fleet, until: Instant, random: &mut Random) -> anyhow::Result<u32> {
        let mut blows = Blows::until(until);
        while blows.next().await {
            let n = random.below(fleet.agents.len());
            fleet.agents[n].kill_and_restart().await;
        }
        Ok(blows.n)
    }
}
