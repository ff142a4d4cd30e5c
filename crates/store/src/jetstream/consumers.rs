//! The shared consumers of the work queue: of `_any` work, and of groups'. Made if missing, opened once, and looked for again when they may have
//! been made anew: what a consumer's deliveries say of earlier ones holds for one life of it only.

use std::collections::HashMap;

use async_nats::jetstream::consumer::{Consumer, pull};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::Stream;
use longshore_model::Label;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::link::{Link, Shared};
use super::offered::{Life, life};
use super::{rivals, streams};
use crate::Error;

pub(super) struct Consumers {
    link: Shared,
    work: Stream<()>,
    opened: Mutex<HashMap<Option<Label>, Opened>>,
}

struct Opened {
    consumer: Consumer<pull::Config>,
    /// When work was last asked for there.
    asked_at: Instant,
}

impl Opened {
    /// Whether the broker may have removed it since, because nobody asked: another agent may have had it made again then, and we would not
    /// notice. Half of that time, as ours and the broker's are not the same.
    fn may_be_gone(&self) -> bool {
        let idle_max = self.consumer.cached_info().config.inactive_threshold;
        !idle_max.is_zero() && self.asked_at.elapsed() >= idle_max / 2
    }
}

impl Consumers {
    pub(super) fn new(link: Shared, work: Stream<()>) -> Self {
        Self { link, work, opened: Mutex::default() }
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    /// A shared consumer to ask for work, made if it is missing, its settings brought to the configuration's and read back.
    pub(super) async fn open(&self, group: Option<&Label>) -> Result<Consumer<pull::Config>, Error> {
        const DOING: &str = "opening a shared consumer";
        let mut all = self.opened.lock().await;
        if let Some(opened) = all.get_mut(&group.cloned()).filter(|opened| !opened.may_be_gone()) {
            opened.asked_at = Instant::now();
            return Ok(opened.consumer.clone());
        }
        let wanted = streams::consumer(&self.link, group);
        let asked_at = Instant::now();
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
                    streams::consumer_name(&self.link, group)
                ),
            });
        }
        all.insert(group.cloned(), Opened { consumer: consumer.clone(), asked_at });
        Ok(consumer)
    }

    /// It may have been removed behind our back: it is looked for again next time.
    pub(super) async fn forget(&self, group: Option<&Label>) {
        self.opened.lock().await.remove(&group.cloned());
    }

    /// Whether a consumer has forgotten nothing of what it delivered in this life. If it has, it is looked for again next time, so that no
    /// more deliveries are taken for that life's.
    pub(super) async fn still_lives(&self, group: Option<&Label>, then: Life) -> Result<bool, Error> {
        let is_so = match self.work.consumer_info(&streams::consumer_name(&self.link, group)).await {
            Ok(info) => life(&info) == then,
            Err(fault) if fault.kind() == ConsumerInfoErrorKind::NotFound => false,
            Err(fault) => return Err(Error::unavailable("looking at a shared consumer", fault)),
        };
        if !is_so {
            let mut all = self.opened.lock().await;
            if all.get(&group.cloned()).is_some_and(|opened| life(opened.consumer.cached_info()) == then) {
                all.remove(&group.cloned());
            }
        }
        Ok(is_so)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use jiff::Timestamp;
    use longshore_model::wire::record::Definition;
    use longshore_testkit::{NatsServer, eventually, sample};

    use super::*;
    use crate::jetstream::connect::link;
    use crate::jetstream::delivery::{Queue, delivery};
    use crate::jetstream::pull::pull_now;
    use crate::jetstream::{Config, connect};
    use crate::{Delivery, Lease};

    /// A job for one agent of a group, as two of them see it.
    struct Bench {
        _server: NatsServer,
        group: Label,
        one: Arc<Consumers>,
        other: Arc<Consumers>,
    }

    impl Bench {
        async fn new() -> Self {
            let server = NatsServer::start().await;
            let config = Config { url: server.url(), ..Config::default() };
            let job = Definition::from(&sample::shell_any(sample::job_id(1), Timestamp::now(), "true"));
            let job = Definition { target: "_any@group:web".to_owned(), ..job };
            connect(&config).await.unwrap().ledger.create(&job).await.unwrap();
            let consumers = async || {
                let link = link(&config).await.unwrap();
                let work = link.stream(&link.layout.work, "opening the work queue").await.unwrap();
                Arc::new(Consumers::new(link, work))
            };
            Self { one: consumers().await, other: consumers().await, _server: server, group: "group:web".parse().unwrap() }
        }

        async fn taken(&self, by: &Arc<Consumers>) -> Delivery {
            eventually("the group's work", Duration::from_secs(15), async || {
                let consumer = by.open(Some(&self.group)).await.unwrap();
                let message = pull_now(by.link.clone(), &consumer, 1).await.unwrap().pop()?;
                delivery(Queue::new(by, Some(&self.group), &consumer), message).await
            })
            .await
        }

        /// What the broker does with a consumer that nobody asks for a while. The other agent is the first who asks then; this was its delivery.
        async fn made_anew(&self) -> String {
            let first = self.taken(&self.one).await;
            first.lease.give_back(Duration::ZERO).await.unwrap();
            self.one.work.delete_consumer(&streams::consumer_name(&self.one.link, Some(&self.group))).await.unwrap();
            self.other.forget(Some(&self.group)).await;
            let second = self.taken(&self.other).await;
            second.lease.give_back(Duration::ZERO).await.unwrap();
            second.lease.delivery().unwrap()
        }

        /// Whether somebody to whom the work is offered next can tell that it was given back.
        async fn is_taken_over_from(&self, holder: Box<dyn Lease>) -> bool {
            holder.give_back(Duration::ZERO).await.unwrap();
            let next = self.taken(&self.other).await;
            let follows = next.lease.follows(&holder.delivery().unwrap()).await.unwrap();
            next.lease.give_back(Duration::ZERO).await.unwrap();
            follows
        }
    }

    #[tokio::test]
    async fn a_groups_work_is_taken_over_although_its_consumer_was_idle_for_too_long() {
        let bench = Bench::new().await;
        bench.made_anew().await;
        for opened in bench.one.opened.lock().await.values_mut() {
            opened.asked_at -= opened.consumer.cached_info().config.inactive_threshold;
        }
        let held = bench.taken(&bench.one).await;
        assert!(bench.is_taken_over_from(held.lease).await);
    }

    #[tokio::test]
    async fn a_consumer_that_somebody_removed_is_looked_for_again_once_that_is_seen() {
        let bench = Bench::new().await;
        let others = bench.made_anew().await;
        let stale = bench.taken(&bench.one).await;
        // What it was known by is no more: it proves nothing.
        assert!(!stale.lease.follows(&others).await.unwrap());
        stale.lease.give_back(Duration::ZERO).await.unwrap();
        let held = bench.taken(&bench.one).await;
        assert!(held.lease.follows(&others).await.unwrap());
        assert!(bench.is_taken_over_from(held.lease).await);
    }
}
