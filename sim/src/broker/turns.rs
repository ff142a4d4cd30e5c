//! Turns under concurrency keys.

use async_trait::async_trait;
use longshore_model::JobId;
use longshore_model::wire::turn::{Hold, Waiter};
use longshore_store::{Error, Revision, Turn, Turns};

use super::Kind::{Read, Write};
use super::Link;

#[async_trait]
impl Turns for Link {
    async fn enter(&self, waiter: &Waiter) -> Result<(), Error> {
        let (world, waiter) = (self.world.clone(), waiter.clone());
        self.ask(Write, "queueing for a turn", || waiter.job.short(), {
            let waiter = waiter.clone();
            async move { world.raw.turns.enter(&waiter).await }
        })
        .await
    }

    async fn waiting(&self, key: &str) -> Result<Vec<Waiter>, Error> {
        let (world, key) = (self.world.clone(), key.to_owned());
        self.ask(Read, "reading who waits", String::new, async move { world.raw.turns.waiting(&key).await }).await
    }

    async fn everyone(&self) -> Result<Vec<Waiter>, Error> {
        let world = self.world.clone();
        self.ask(Read, "reading who waits", String::new, async move { world.raw.turns.everyone().await }).await
    }

    async fn leave(&self, key: &str, job: JobId) -> Result<(), Error> {
        let (world, key) = (self.world.clone(), key.to_owned());
        self.ask(Write, "leaving the queue", || job.short(), async move { world.raw.turns.leave(&key, job).await }).await
    }

    async fn turn(&self, key: &str) -> Result<Turn, Error> {
        let (world, key) = (self.world.clone(), key.to_owned());
        self.ask(Read, "reading a turn", String::new, async move { world.raw.turns.turn(&key).await }).await
    }

    async fn take(&self, key: &str, hold: &Hold, after: Revision) -> Result<Option<Revision>, Error> {
        let (world, me, key, hold) = (self.world.clone(), self.me, key.to_owned(), hold.clone());
        let job = hold.holder.job;
        self.ask(Write, "taking a turn", || job.short(), async move {
            let taken = world.raw.turns.take(&key, &hold, after).await?;
            world.note(me, || format!("turn of {} attempt {} after {after}: {taken:?}", job.short(), hold.holder.attempt));
            Ok(taken)
        })
        .await
    }

    async fn release(&self, key: &str, held: Revision) -> Result<(), Error> {
        let (world, key) = (self.world.clone(), key.to_owned());
        self.ask(Write, "ending a turn", String::new, async move { world.raw.turns.release(&key, held).await }).await
    }
}
