//! What agents know of their hosts, in a bucket whose entries age.

use async_nats::HeaderMap;
use async_trait::async_trait;
use longshore_model::AgentId;
use longshore_model::wire::facts::FactsRecord;

use super::link::{Shared, from_json, to_json};
use super::registry::moment;
use crate::layout::Layout;
use crate::{Error, Facts};

pub(super) struct JetStreamFacts {
    link: Shared,
}

impl JetStreamFacts {
    pub(super) fn new(link: Shared) -> Self {
        Self { link }
    }
}

#[async_trait]
impl Facts for JetStreamFacts {
    async fn put(&self, record: &FactsRecord) -> Result<(), Error> {
        let subject = self.link.layout.facts(record.agent);
        let id = format!("{subject} {}", moment());
        self.link.write_as(id, subject, to_json(record, "facts")?, HeaderMap::new(), "keeping an agent's facts").await?;
        Ok(())
    }

    async fn of(&self, agent: AgentId) -> Result<Option<FactsRecord>, Error> {
        const DOING: &str = "reading an agent's facts";
        let stream = self.link.stream(&Layout::bucket_stream(&self.link.layout.facts_bucket), DOING).await?;
        let subject = self.link.layout.facts(agent);
        let message = self.link.read_last(&stream, &subject, DOING).await?;
        message.map(|message| from_json(&subject, &message.payload)).transpose()
    }

    async fn all(&self) -> Result<Vec<FactsRecord>, Error> {
        let bucket = &self.link.layout.facts_bucket;
        let stored = self.link.read_all(&Layout::bucket_stream(bucket), &Layout::bucket_subjects(bucket), "reading agents' facts").await?;
        let read = |message: &super::read::Stored| {
            from_json(&message.subject, &message.payload).inspect_err(|error| tracing::warn!(%error, "unreadable facts")).ok()
        };
        Ok(stored.iter().filter_map(read).collect())
    }
}
