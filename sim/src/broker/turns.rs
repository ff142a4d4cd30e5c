//! Turns under concurrency keys.

use async_trait::async_trait;
use longshore_model::JobId;
use longshore_model::wire::turn::{Hold, Waiter};
use longshore_store::{Error, Revision, Turn, Turns, WaiterPage};

use super::Kind::{Read, Write};
use super::Link;
use crate::plant::Bug;

#[async_trait]
impl Turns for Link {
    async fn enter(&self, waiter: &Waiter) -> Result<(), Error> {
        let (world, me, waiter) = (self.world.clone(), self.me, waiter.clone());
        let job = waiter.job;
        self.ask(Write, "queueing for a turn", || job.short(), async move {
            world.raw.turns.enter(&waiter).await?;
            world.note(me, || format!("{} waits for its turn under {}", job.short(), waiter.key));
            let now = world.now();
            world.history().queue(&waiter, now);
            Ok(())
        })
        .await
    }

    async fn waiting(&self, key: &str) -> Result<Vec<Waiter>, Error> {
        let (world, key) = (self.world.clone(), key.to_owned());
        let mut waiting = self.ask(Read, "reading who waits", String::new, async move { world.raw.turns.waiting(&key).await }).await?;
        if self.is_agent() && self.world.is(Bug::OrderIgnored) {
            waiting.reverse();
        }
        Ok(waiting)
    }

    async fn page(&self, after: Revision) -> Result<WaiterPage, Error> {
        let world = self.world.clone();
        self.ask(Read, "reading who waits", String::new, async move { world.raw.turns.page(after).await }).await
    }

    async fn leave(&self, key: &str, job: JobId) -> Result<(), Error> {
        let (world, me, key) = (self.world.clone(), self.me, key.to_owned());
        self.ask(Write, "leaving the queue", || job.short(), async move {
            world.raw.turns.leave(&key, job).await?;
            world.note(me, || format!("{} waits for its turn no more", job.short()));
            Ok(())
        })
        .await
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
        .map(|taken| taken.map(|revision| if self.world.is(Bug::FenceStandsStill) { 1 } else { revision }))
    }

    async fn release(&self, key: &str, held: Revision) -> Result<(), Error> {
        let (world, key) = (self.world.clone(), key.to_owned());
        self.ask(Write, "ending a turn", String::new, async move { world.raw.turns.release(&key, held).await }).await
    }
}
