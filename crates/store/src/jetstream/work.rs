//! What agents take: work from the shared consumers of the work queue, and inbox keys. What one takes is a delivery; see `delivery.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::Stream;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream;
use longshore_model::job::Shares;
use longshore_model::wire::record::Definition;
use longshore_model::{AgentId, ExecutionId, JobId, Label};
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::consumers::Consumers;
use super::delivery::{InboxLease, Queue, REVISION, SEEN, delivery, revision_of, unique};
use super::digest;
use super::ledger::{kind_of, share};
use super::link::{Guard, Shared, from_json, to_json};
use super::pull::{pull, pull_now};
use super::read::Stored;
use super::{resumed, streams};
use crate::layout::{Layout, group_of};
use crate::{
    Absence, Addressed, AddressedPage, Announcement, Before, Delivery, Error, InboxPage, Lease, PullStream, Revision, Wake, WakeStream,
    Work,
};

/// How long agents of another queue group may take to be gone.
const PARTING: Duration = Duration::from_secs(2);
/// Between looks whether they are.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub(super) struct JetStreamWork {
    link: Shared,
    work: Stream<()>,
    inbox: Stream<()>,
    consumers: Arc<Consumers>,
    /// A pull was refused: the consumer may have been removed behind our back.
    is_doubtful: Arc<AtomicBool>,
}

impl JetStreamWork {
    pub(super) async fn open(link: Shared) -> Result<Self, Error> {
        let work = link.stream(&link.layout.work, "opening the work queue").await?;
        let inbox = link.stream(&Layout::bucket_stream(&link.layout.inbox_bucket), "opening the inboxes").await?;
        let consumers = Arc::new(Consumers::new(link.clone(), work.clone()));
        Ok(Self { link, work, inbox, consumers, is_doubtful: Arc::default() })
    }
}

#[async_trait]
impl Work for JetStreamWork {
    fn lease_duration(&self) -> Duration {
        self.link.config.consumer.ack_wait
    }

    async fn join(&self) -> Result<(), Error> {
        let deadline = Instant::now() + PARTING;
        loop {
            match self.consumers.open(None).await {
                // Whoever has just gone may still be counted.
                Err(Error::Layout { .. }) if Instant::now() < deadline => tokio::time::sleep(LOOK_AGAIN).await,
                settled => return settled.map(drop),
            }
        }
    }

    async fn pull(&self, max: usize) -> Result<PullStream, Error> {
        if self.is_doubtful.swap(false, Ordering::Relaxed) {
            self.consumers.forget(None).await;
        }
        let consumer = self.consumers.open(None).await?;
        match pull(self.link.clone(), &consumer, max, self.is_doubtful.clone()).await {
            Ok(messages) => {
                let queue = Queue::new(&self.consumers, None, &consumer);
                Ok(messages.filter_map(move |message| delivery(queue.clone(), message)).boxed())
            }
            Err(fault) => {
                self.consumers.forget(None).await;
                Err(fault)
            }
        }
    }

    async fn take(&self, group: &Label, max: usize) -> Result<Vec<Delivery>, Error> {
        let consumer = self.consumers.open(Some(group)).await?;
        match pull_now(self.link.clone(), &consumer, max).await {
            Ok(messages) => {
                let queue = Queue::new(&self.consumers, Some(group), &consumer);
                let deliveries = messages.into_iter().map(|message| delivery(queue.clone(), message));
                Ok(futures::future::join_all(deliveries).await.into_iter().flatten().collect())
            }
            Err(fault) => {
                self.consumers.forget(Some(group)).await;
                Err(fault)
            }
        }
    }

    async fn has_work(&self, group: &Label) -> Result<bool, Error> {
        let filter = self.link.layout.group_work(group);
        Ok(self.link.read_next(&self.work, &filter, 1, "looking for a group's work").await?.is_some())
    }

    async fn inbox(&self, agent: AgentId, after: u64) -> Result<InboxPage, Error> {
        let stream = Layout::bucket_stream(&self.link.layout.inbox_bucket);
        let mut deliveries = Vec::new();
        let page = self.link.read_page(&stream, &self.link.layout.inbox(agent), after, "reading the inbox").await?;
        let next = page.next();
        for message in page.messages {
            if message.payload.is_empty() {
                continue;
            }
            if !digest::is_whole(&message.headers, &message.payload) {
                tracing::error!(key = %message.subject, "an inbox entry is not what was accepted, and is removed; the job is announced again");
                self.link.purge_until(&self.inbox, &message.subject, Some(message.sequence), "removing an inbox entry").await?;
                continue;
            }
            match (from_json::<Definition>(&message.subject, &message.payload), revision_of(&message.headers)) {
                (Ok(definition), Some(revision)) => {
                    let key = self.link.layout.inbox_key(agent, definition.id);
                    let lease = InboxLease { link: self.link.clone(), inbox: self.inbox.clone(), key };
                    deliveries.push(Delivery {
                        definition,
                        revision,
                        before: Before::Offers,
                        received: Instant::now(),
                        lease: Box::new(lease),
                    });
                }
                (Err(error), _) => tracing::error!(%error, "unreadable inbox entry passed over"),
                (Ok(_), None) => tracing::error!(key = %message.subject, "inbox entry without its revision passed over"),
            }
        }
        Ok(InboxPage { deliveries, next })
    }

    async fn addressed(&self, after: Revision) -> Result<AddressedPage, Error> {
        let stream = Layout::bucket_stream(&self.link.layout.inbox_bucket);
        let page = self.link.read_page(&stream, &self.link.layout.inboxes(), after, "reading all inboxes").await?;
        let entry = |message: &Stored| {
            let (agent, job) = self.link.layout.parse_inbox_key(&message.subject)?;
            Some(Addressed { agent, job, place: message.sequence })
        };
        Ok(AddressedPage { items: page.messages.iter().filter_map(entry).collect(), next: page.next() })
    }

    async fn take_out(&self, Addressed { agent, job, place }: Addressed) -> Result<(), Error> {
        let key = self.link.layout.inbox_key(agent, job);
        self.link.purge_until(&self.inbox, &key, Some(place), "removing an inbox entry").await
    }

    async fn wakes(&self, agent: AgentId, groups: &[Label]) -> Result<WakeStream, Error> {
        let client = &self.link.client;
        let fault = |fault| Error::unavailable("listening for wake-ups", fault);
        let inbox = client.subscribe(self.link.layout.wake(agent)).await.map_err(fault)?.map(|_| Wake::Inbox);
        let cancels = client.subscribe(self.link.layout.cancel(agent)).await.map_err(fault)?.filter_map(|message| {
            std::future::ready(std::str::from_utf8(&message.payload).ok().and_then(|id| id.parse().ok()).map(Wake::Cancel))
        });
        let states = client.subscribe(self.link.layout.state_wake(agent)).await.map_err(fault)?.map(|_| Wake::State);
        let reconnects = stream::unfold(self.link.reconnects.subscribe(), |mut receiver| async move {
            match receiver.recv().await {
                Ok(()) | Err(broadcast::error::RecvError::Lagged(_)) => Some((Wake::Reconnected, receiver)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        });
        let mut of_groups = Vec::new();
        for group in groups {
            let hints = client.subscribe(self.link.layout.group_wake(group)).await.map_err(fault)?;
            let group = group.clone();
            of_groups.push(hints.map(move |_| Wake::Group(group.clone())));
        }
        Ok(stream::select(
            stream::select(stream::select(inbox, cancels), stream::select(states, reconnects)),
            stream::select_all(of_groups),
        )
        .boxed())
    }

    async fn give_back(&self, token: &str) -> Result<(), Error> {
        // Only acknowledgement subjects of our own consumer: the token comes from a file.
        let ours = format!("$JS.ACK.{}.{}", self.link.layout.work, streams::consumer_name(&self.link, None));
        let is_ours = token.strip_prefix(ours.as_str()).is_some_and(|rest| rest.starts_with(['.', '=']));
        if !is_ours || token.contains(['*', '>', ' ', '\r', '\n']) {
            return Ok(());
        }
        let fault = |fault: &dyn std::fmt::Display| Error::Refused { doing: "giving work back", reason: fault.to_string() };
        self.link.client.publish(token.to_owned(), "-NAK".into()).await.map_err(|error| fault(&error))?;
        self.link.client.flush().await.map_err(|error| fault(&error))
    }

    async fn resume(&self, agent: AgentId, definition: &Definition, token: Option<&str>) -> Result<Option<Box<dyn Lease>>, Error> {
        Ok(resumed::claim(&self.link, &self.inbox, agent, definition, token))
    }

    async fn flush(&self) -> Result<(), Error> {
        self.link.client.flush().await.map_err(|fault| Error::unavailable("flushing", fault))
    }

    async fn signal_cancel(&self, agent: AgentId, job: JobId) -> Result<(), Error> {
        let subject = self.link.layout.cancel(agent);
        self.link.client.publish(subject, job.to_string().into()).await.map_err(|fault| Error::unavailable("signalling a cancel", fault))
    }

    async fn announce(&self, definition: &Definition, announcement: Announcement) -> Result<bool, Error> {
        const DOING: &str = "announcing a job again";
        let Announcement { execution, revision, seen, absence } = announcement;
        if revision == 0 {
            return Ok(share(&self.link, definition, &[execution]).await);
        }
        let mut headers = HeaderMap::new();
        headers.insert(REVISION, revision.to_string());
        headers.insert(SEEN, seen.to_string());
        let value = to_json(&Shares::of(definition).share(execution), "definition")?;
        digest::seal(&mut headers, &value);
        match execution {
            ExecutionId::Agent(agent) => {
                let key = self.link.layout.inbox_key(agent, definition.id);
                if self.link.read_last(&self.inbox, &key, DOING).await?.is_some() {
                    return Ok(false);
                }
                self.link.write(key, value, headers, Guard::Absent, DOING).await?;
            }
            ExecutionId::Any => {
                let subject = self.link.layout.any_work_of(definition, kind_of(definition));
                if self.is_announced(&subject, group_of(definition).as_ref(), absence).await? {
                    return Ok(false);
                }
                let place = self.link.write_as(unique(&subject), subject.clone(), value, headers, DOING).await?;
                // What was offered before and led to nothing: used up, or in the hands of an agent that the ledger does not know of.
                let _ = self.work.purge().filter(subject).sequence(place).await;
            }
        }
        Ok(true)
    }

    async fn withdraw(&self, definition: &Definition) -> Result<(), Error> {
        const DOING: &str = "withdrawing a job";
        for execution in &definition.executions {
            match execution {
                ExecutionId::Any => {
                    let subject = self.link.layout.any_work_of(definition, kind_of(definition));
                    self.link.purge(&self.work, &subject, DOING).await?;
                }
                ExecutionId::Agent(agent) => {
                    self.link.purge(&self.inbox, &self.link.layout.inbox_key(*agent, definition.id), DOING).await?;
                }
            }
        }
        Ok(())
    }
}

impl JetStreamWork {
    async fn is_announced(&self, subject: &str, group: Option<&Label>, absence: Absence) -> Result<bool, Error> {
        const DOING: &str = "looking for a job's announcement";
        let Some(message) = self.link.read_last(&self.work, subject, DOING).await? else { return Ok(false) };
        match absence {
            Absence::Gone => Ok(true),
            // Only what is still ahead of the shared consumer has never been offered.
            Absence::GoneOrSpent => {
                // Only looked at: its settings are the agents'. Without one nothing was ever offered.
                match self.work.consumer_info(&streams::consumer_name(&self.link, group)).await {
                    Ok(info) => Ok(message.sequence > info.delivered.stream_sequence),
                    Err(_) if self.link.is_up() => Ok(true),
                    Err(fault) => Err(Error::unavailable(DOING, fault)),
                }
            }
        }
    }
}
