//! The agents are on a network of their own, which is cut for the whole time without a word to either side.

use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::Context;
use async_trait::async_trait;
use longshore_testkit::{NatsOptions, NatsServer, Random};

use super::{Cell, broker};
use crate::fleet::{Fleet, Site};
use crate::host::network::Network;
use crate::keeper::Powers;

pub(super) struct Cut;

#[async_trait(?Send)]
impl Cell for Cut {
    async fn site(&mut self, powers: Powers) -> anyhow::Result<Site> {
        let network = Network::make(powers).await?;
        // Every address of this namespace: loopback, and the one that the agents see.
        let broker = NatsServer::start_with(NatsOptions { host: Ipv4Addr::UNSPECIFIED.into(), ..broker() }).await;
        Ok(Site { network: Some(network), ..Site::on(broker) })
    }

    async fn strike(&mut self, fleet: &mut Fleet, until: Instant, _random: &mut Random) -> anyhow::Result<u32> {
        fleet.network.as_ref().context("it was built")?.cut().await?;
        tokio::time::sleep(until.saturating_duration_since(Instant::now())).await;
        Ok(1)
    }

    async fn heal(&mut self, fleet: &mut Fleet) -> anyhow::Result<()> {
        fleet.network.as_ref().context("it was built")?.heal()
    }
}
