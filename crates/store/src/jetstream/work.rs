//! What agents take: a shared pull consumer on the work queue, and inbox keys.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::consumer::{self, Consumer};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::message::Acker;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, AckKind};
use async_nats::{HeaderMap, Request};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use longshore_model::job::Shares;
use longshore_model::wire::record::Definition;
use longshore_model::{AgentId, ExecutionId, JobId, Label};
use tokio::sync::{Mutex, broadcast};
use tokio::time::Instant;

use super::ledger::{kind_of, share};
use super::link::{Guard, Shared, from_json, to_json};
use super::offered::{Life, Offered, life};
use super::pull::{pull, pull_now};
use super::{rivals, setup};
use crate::layout::{Layout, group_of};
use crate::work::INBOX_PAGE;
use crate::{Absence, Announcement, Before, Delivery, Error, InboxPage, Lease, PullStream, Revision, Wake, WakeStream, Work};

/// The ledger's revision of a definition that was announced again.
const REVISION: &str = "Longshore-Revision";
/// How far whoever announced it again had read its history.
const SEEN: &str = "Longshore-Seen";
/// The last delivery of the message that this one takes the place of.
const AFTER: &str = "Longshore-After";

/// How long agents of another queue group may take to be gone.
const PARTING: Duration = Duration::from_secs(2);
/// Between looks whether they are.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub(super) struct JetStreamWork {
    link: Shared,
    work: Stream<()>,
    inbox: Stream<()>,
    /// The shared consumers that were opened: of `_any` work, and of groups'.
    consumers: Mutex<HashMap<Option<Label>, Consumer<consumer::pull::Config>>>,
    /// A pull was refused: the consumer may have been removed behind our back.
    is_doubtful: Arc<AtomicBool>,
}

impl JetStreamWork {
    pub(super) async fn open(link: Shared) -> Result<Self, Error> {
        let work = link.stream(&link.layout.work, "opening the work queue").await?;
        let inbox = link.stream(&Layout::bucket_stream(&link.layout.inbox_bucket), "opening the inboxes").await?;
        Ok(Self { link, work, inbox, consumers: Mutex::default(), is_doubtful: Arc::default() })
    }

    /// A shared consumer, made if it is missing, its settings brought to the configuration's and read back.
    async fn consumer(&self, group: Option<&Label>) -> Result<Consumer<consumer::pull::Config>, Error> {
        const DOING: &str = "opening a shared consumer";
        let mut consumers = self.consumers.lock().await;
        if let Some(consumer) = consumers.get(&group.cloned()) {
            return Ok(consumer.clone());
        }
        let wanted = setup::consumer(&self.link, group);
        let consumer = match self.work.create_consumer(wanted.clone()).await {
            Err(fault) if rivals::may_be_one(&fault) => {
                rivals::make_way(&self.link, &self.work, &wanted).await?;
                self.work.create_consumer(wanted.clone()).await
            }
            settled => settled,
        }
        .map_err(|fault| Error::unavailable(DOING, fault))?;
        let found = &consumer.cached_info().config;
        if found.ack_wait != wanted.ack_wait || found.max_deliver != wanted.max_deliver || found.max_ack_pending != wanted.max_ack_pending {
            return Err(Error::Layout {
                store: self.link.layout.work.clone(),
                problem: format!(
                    "its consumer {} has other settings than the configuration's after they were set",
                    setup::consumer_name(&self.link, group)
                ),
            });
        }
        consumers.insert(group.cloned(), consumer.clone());
        Ok(consumer)
    }

    /// Where a consumer's deliveries come from.
    fn queue(&self, consumer: &Consumer<consumer::pull::Config>) -> Arc<Queue> {
        let info = consumer.cached_info();
        Arc::new(Queue { link: self.link.clone(), work: self.work.clone(), consumer: info.name.clone(), life: life(info) })
    }

    /// It may have been removed behind our back: it is looked for again next time.
    async fn forget_consumer(&self, group: Option<&Label>) {
        self.consumers.lock().await.remove(&group.cloned());
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
            match self.consumer(None).await {
                // Whoever has just gone may still be counted.
                Err(Error::Layout { .. }) if Instant::now() < deadline => tokio::time::sleep(LOOK_AGAIN).await,
                settled => return settled.map(drop),
            }
        }
    }

    async fn pull(&self, max: usize) -> Result<PullStream, Error> {
        if self.is_doubtful.swap(false, Ordering::Relaxed) {
            self.forget_consumer(None).await;
        }
        let consumer = self.consumer(None).await?;
        match pull(self.link.clone(), &consumer, max, self.is_doubtful.clone()).await {
            Ok(messages) => {
                let queue = self.queue(&consumer);
                Ok(messages.filter_map(move |message| delivery(queue.clone(), message)).boxed())
            }
            Err(fault) => {
                self.forget_consumer(None).await;
                Err(fault)
            }
        }
    }

    async fn take(&self, group: &Label, max: usize) -> Result<Vec<Delivery>, Error> {
        let consumer = self.consumer(Some(group)).await?;
        match pull_now(self.link.clone(), &consumer, max).await {
            Ok(messages) => {
                let queue = self.queue(&consumer);
                let deliveries = messages.into_iter().map(|message| delivery(queue.clone(), message));
                Ok(futures::future::join_all(deliveries).await.into_iter().flatten().collect())
            }
            Err(fault) => {
                self.forget_consumer(Some(group)).await;
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
        let next = page.last().map(|last| last.sequence).filter(|_| page.len() >= INBOX_PAGE);
        for message in page {
            if message.payload.is_empty() {
                continue;
            }
            match (from_json::<Definition>(&message.subject, &message.payload), revision_of(&message.headers)) {
                (Ok(definition), Some(revision)) => {
                    let lease = InboxLease {
                        link: self.link.clone(),
                        inbox: self.inbox.clone(),
                        key: self.link.layout.inbox_key(agent, definition.id),
                    };
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
        let ours = format!("$JS.ACK.{}.{}", self.link.layout.work, setup::consumer_name(&self.link, None));
        let is_ours = token.strip_prefix(ours.as_str()).is_some_and(|rest| rest.starts_with(['.', '=']));
        if !is_ours || token.contains(['*', '>', ' ', '\r', '\n']) {
            return Ok(());
        }
        let fault = |fault: &dyn std::fmt::Display| Error::Refused { doing: "giving work back", reason: fault.to_string() };
        self.link.client.publish(token.to_owned(), "-NAK".into()).await.map_err(|error| fault(&error))?;
        self.link.client.flush().await.map_err(|error| fault(&error))
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
                match self.work.consumer_info(&setup::consumer_name(&self.link, group)).await {
                    Ok(info) => Ok(message.sequence > info.delivered.stream_sequence),
                    Err(_) if self.link.is_up() => Ok(true),
                    Err(fault) => Err(Error::unavailable(DOING, fault)),
                }
            }
        }
    }
}

fn unique(subject: &str) -> String {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    format!("{subject} {nanos}")
}

/// A shared consumer, as it was known when work was asked for.
struct Queue {
    link: Shared,
    work: Stream<()>,
    consumer: String,
    life: Life,
}

impl Queue {
    /// Whether the consumer has forgotten nothing since.
    async fn is_as_it_was(&self) -> Result<bool, Error> {
        match self.work.consumer_info(&self.consumer).await {
            Ok(info) => Ok(life(&info) == self.life),
            Err(fault) if fault.kind() == ConsumerInfoErrorKind::NotFound => Ok(false),
            Err(fault) => Err(Error::unavailable("looking at a shared consumer", fault)),
        }
    }
}

async fn delivery(queue: Arc<Queue>, message: jetstream::Message) -> Option<Delivery> {
    let (delivered, offered) = match message.info() {
        Ok(info) => {
            let offered = Offered { message: info.stream_sequence, number: info.consumer_sequence, life: queue.life };
            (info.delivered, Some(offered))
        }
        Err(_) => (1, None),
    };
    let headers = message.headers.clone().unwrap_or_default();
    let seen = headers.get(SEEN).and_then(|seen| seen.as_str().parse().ok());
    let before = match seen {
        Some(seen) => Before::Announcement(seen),
        None if delivered <= 1 && headers.get(REVISION).is_none() => Before::Nothing,
        None => Before::Offers,
    };
    let revision = revision_of(&headers);
    let token = message.reply.as_ref().map(ToString::to_string);
    // The broker will not offer it again by itself: giving it back takes a new message.
    let max_deliver = queue.link.config.consumer.max_deliver;
    let is_last = max_deliver > 0 && delivered >= max_deliver;
    let (message, acker) = message.split();
    if headers.get("KV-Operation").is_some() {
        // A marker of a removed key came through the source: nothing to do.
        let _ = acker.ack().await;
        return None;
    }
    let definition = from_json::<Definition>(&message.subject, &message.payload);
    let (Ok(definition), Some(revision)) = (definition, revision) else {
        tracing::error!(subject = %message.subject, "unreadable work taken out of the queue");
        let _ = acker.ack_with(AckKind::Term).await;
        return None;
    };
    let again = is_last.then(|| Again { subject: message.subject.to_string(), value: message.payload.clone(), revision, seen });
    let after = headers.get(AFTER).and_then(|after| after.as_str().parse().ok());
    let lease = QueueLease { queue, acker, token, again, offered, after };
    Some(Delivery { definition, revision, before, received: Instant::now(), lease: Box::new(lease) })
}

/// The definition's place in the ledger: what the broker notes when it sources, or what we noted when we announced again.
fn revision_of(headers: &HeaderMap) -> Option<Revision> {
    let announced = headers.get(REVISION).map(async_nats::HeaderValue::as_str);
    let sourced = headers.get("Nats-Stream-Source").and_then(|source| source.as_str().split(' ').nth(1));
    announced.or(sourced)?.parse().ok()
}

struct QueueLease {
    queue: Arc<Queue>,
    acker: Acker,
    token: Option<String>,
    /// What is written in the place of the message, if this was the last time that the broker offered it.
    again: Option<Again>,
    offered: Option<Offered>,
    /// The last delivery of the message whose place this one has taken.
    after: Option<Offered>,
}

struct Again {
    subject: String,
    value: Bytes,
    revision: Revision,
    seen: Option<Revision>,
}

#[async_trait]
impl Lease for QueueLease {
    async fn extend(&self) -> Result<(), Error> {
        let Some(subject) = self.token.clone() else { return Ok(()) };
        let request = Request::new().payload(AckKind::Progress.into()).timeout(Some(super::link::TRY));
        let client = &self.queue.link.client;
        client.send_request(subject, request).await.map_err(|fault| Error::unavailable("extending a claim", fault))?;
        Ok(())
    }

    /// Without waiting for the broker: an end that is lost costs one look at a finished job, waiting would cost every job a round trip.
    async fn done(&self) -> Result<(), Error> {
        self.acker.ack().await.map_err(|fault| Error::Unavailable { doing: "ending a claim", source: Some(fault) })
    }

    async fn give_back(&self, delay: Duration) -> Result<(), Error> {
        let link = &self.queue.link;
        if let Some(Again { subject, value, revision, seen }) = &self.again {
            // Without the delay: whoever takes it reads in the ledger that it is too early, and gives it back with one.
            let mut headers = HeaderMap::new();
            headers.insert(REVISION, revision.to_string());
            if let Some(seen) = seen {
                headers.insert(SEEN, seen.to_string());
            }
            if let Some(offered) = self.offered {
                headers.insert(AFTER, offered.to_string());
            }
            link.write_as(unique(subject), subject.clone(), value.clone(), headers, "giving work back").await?;
            return self.done().await;
        }
        let delay = (!delay.is_zero()).then_some(delay);
        self.acker
            .ack_with(AckKind::Nak(delay))
            .await
            .map_err(|fault| Error::Unavailable { doing: "giving work back", source: Some(fault) })?;
        link.client.flush().await.map_err(|fault| Error::unavailable("giving work back", fault))
    }

    fn token(&self) -> Option<String> {
        self.token.clone()
    }

    fn delivery(&self) -> Option<String> {
        self.offered.map(|offered| offered.to_string())
    }

    async fn follows(&self, earlier: &str) -> Result<bool, Error> {
        let Ok(earlier) = earlier.parse::<Offered>() else { return Ok(false) };
        let is_repeat = self.offered.is_some_and(|offered| offered.repeats(earlier));
        // What the other message was last delivered as, its holder gave back.
        let takes_its_place = self.after.is_some_and(|last| (last == earlier || last.repeats(earlier)) && last.life == self.queue.life);
        if is_repeat || takes_its_place { self.queue.is_as_it_was().await } else { Ok(false) }
    }
}

struct InboxLease {
    link: Shared,
    inbox: Stream<()>,
    key: String,
}

#[async_trait]
impl Lease for InboxLease {
    async fn extend(&self) -> Result<(), Error> {
        // Nobody else is ever offered what is in this inbox.
        Ok(())
    }

    async fn done(&self) -> Result<(), Error> {
        self.link.purge(&self.inbox, &self.key, "clearing an inbox entry").await
    }

    async fn give_back(&self, _delay: Duration) -> Result<(), Error> {
        // The key stays where it is; the agent reads its inbox again.
        Ok(())
    }

    fn token(&self) -> Option<String> {
        None
    }

    fn delivery(&self) -> Option<String> {
        None
    }

    async fn follows(&self, _earlier: &str) -> Result<bool, Error> {
        Ok(false)
    }
}
