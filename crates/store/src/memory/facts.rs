//! What agents know of their hosts.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use longshore_model::AgentId;
use longshore_model::wire::facts::FactsRecord;
use tokio::time::Instant;

use super::Memory;
use crate::{Error, Facts};

/// Records, and when each was written.
#[derive(Default)]
pub(super) struct Known(BTreeMap<AgentId, (Instant, FactsRecord)>);

#[async_trait]
impl Facts for Memory {
    async fn put(&self, record: &FactsRecord) -> Result<(), Error> {
        self.0.state().facts.0.insert(record.agent, (Instant::now(), record.clone()));
        Ok(())
    }

    async fn of(&self, agent: AgentId) -> Result<Option<FactsRecord>, Error> {
        let ttl = self.0.options.facts_ttl;
        Ok(self.0.state().facts.fresh(ttl).get(&agent).map(|(_, record)| record.clone()))
    }

    async fn all(&self) -> Result<Vec<FactsRecord>, Error> {
        let ttl = self.0.options.facts_ttl;
        Ok(self.0.state().facts.fresh(ttl).values().map(|(_, record)| record.clone()).collect())
    }
}

impl Known {
    fn fresh(&mut self, ttl: Duration) -> &BTreeMap<AgentId, (Instant, FactsRecord)> {
        self.0.retain(|_, (written, _)| written.elapsed() < ttl);
        &self.0
    }

    pub(super) fn forget(&mut self, agent: AgentId) {
        self.0.remove(&agent);
    }
}
