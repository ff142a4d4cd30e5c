//! Claims of an earlier process of the same agent, by what it noted of them.

use std::time::Duration;

use async_nats::Request;
use async_nats::jetstream::AckKind;
use async_nats::jetstream::stream::Stream;
use async_trait::async_trait;
use bytes::Bytes;
use longshore_model::wire::record::Definition;
use longshore_model::{AgentId, ExecutionId};

use super::delivery::InboxLease;
use super::link::{Shared, TRY};
use super::streams;
use crate::layout::group_of;
use crate::{Error, Lease};

/// The claim that this agent had on the job; `None` if the token is not one of this job's queue. The token comes from a file.
pub(super) fn claim(
    link: &Shared,
    inbox: &Stream<()>,
    agent: AgentId,
    definition: &Definition,
    token: Option<&str>,
) -> Option<Box<dyn Lease>> {
    match (definition.executions.as_slice(), token) {
        ([ExecutionId::Any], Some(token)) => {
            let consumer = streams::consumer_name(link, group_of(definition).as_ref());
            let of_queue = format!("$JS.ACK.{}.{consumer}.", link.layout.work);
            let is_ours = token.starts_with(&of_queue) && !token.contains(['*', '>', ' ', '\r', '\n']);
            is_ours.then(|| Box::new(Resumed { link: link.clone(), subject: token.to_owned() }) as Box<dyn Lease>)
        }
        ([ExecutionId::Any], None) => None,
        (_, _) => {
            let key = link.layout.inbox_key(agent, definition.id);
            Some(Box::new(InboxLease { link: link.clone(), inbox: inbox.clone(), key }))
        }
    }
}

struct Resumed {
    link: Shared,
    /// Where the delivery is acknowledged.
    subject: String,
}

impl Resumed {
    async fn say(&self, word: AckKind, doing: &'static str) -> Result<(), Error> {
        let fault = |fault: async_nats::client::PublishError| Error::unavailable(doing, fault);
        self.link.client.publish(self.subject.clone(), Bytes::from(word)).await.map_err(fault)
    }
}

#[async_trait]
impl Lease for Resumed {
    async fn extend(&self) -> Result<(), Error> {
        let request = Request::new().payload(AckKind::Progress.into()).timeout(Some(TRY));
        let asked = self.link.client.send_request(self.subject.clone(), request).await;
        asked.map(drop).map_err(|fault| Error::unavailable("extending a claim", fault))
    }

    async fn done(&self) -> Result<(), Error> {
        self.say(AckKind::Ack, "ending a claim").await
    }

    async fn give_back(&self, delay: Duration) -> Result<(), Error> {
        self.say(AckKind::Nak((!delay.is_zero()).then_some(delay)), "giving work back").await?;
        self.link.client.flush().await.map_err(|fault| Error::unavailable("giving work back", fault))
    }

    fn token(&self) -> Option<String> {
        Some(self.subject.clone())
    }

    /// Nothing is started under it.
    fn delivery(&self) -> Option<String> {
        None
    }

    async fn follows(&self, _earlier: &str) -> Result<bool, Error> {
        Ok(false)
    }
}
