//! The only controller is killed and started again: nobody takes submissions meanwhile, and what runs goes on.

use std::time::Instant;

use async_trait::async_trait;
use longshore_testkit::{NatsServer, Random};

use super::{Blows, Cell, broker};
use crate::fleet::{Fleet, Site};
use crate::keeper::Powers;

pub(super) struct KillController;

#[async_trait(?Send)]
impl Cell for KillController {
    async fn site(&mut self, _powers: Powers) -> anyhow::Result<Site> {
        Ok(Site::on(NatsServer::start_with(broker()).await))
    }

    async fn strike(&mut self, fleet: &mut Fleet, until: Instant, _random: &mut Random) -> anyhow::Result<u32> {
        let mut blows = Blows::until(until);
        while blows.next().await {
            fleet.controllers[0].kill_and_restart().await;
        }
        Ok(blows.n)
    }
}
