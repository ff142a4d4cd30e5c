//! The broker's machine loses its power, several times: whatever was not synced is gone. See [`crate::host::image`] for how.

use std::time::Instant;

use anyhow::Context;
use async_trait::async_trait;
use longshore_testkit::{NatsOptions, NatsServer, Random};

use super::{Blows, Cell, broker};
use crate::fleet::{Fleet, Site};
use crate::host::image::Image;
use crate::keeper::Powers;

#[derive(Default)]
pub(super) struct PowerCut {
    image: Option<Image>,
}

#[async_trait(?Send)]
impl Cell for PowerCut {
    async fn site(&mut self, powers: Powers) -> anyhow::Result<Site> {
        let image = Image::make(powers)?;
        let options = NatsOptions { store_dir: Some(image.path().join("store")), ..broker() };
        self.image = Some(image);
        Ok(Site::on(NatsServer::start_with(options).await))
    }

    async fn strike(&mut self, fleet: &mut Fleet, until: Instant, _random: &mut Random) -> anyhow::Result<u32> {
        let image = self.image.as_ref().context("it was made")?;
        let mut blows = Blows::until(until);
        while blows.next().await {
            let cut = image.cut(&mut fleet.brokers[0]);
            // Also after one that failed: the jobs are to end, and what is not counted must not pass for what was lost.
            fleet.brokers[0].restart().await;
            cut?;
        }
        Ok(blows.n)
    }
}
