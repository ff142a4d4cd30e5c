//! The misbehaving broker: what stands between a process and the twin. It does only what a real broker and a real network may do: it is slow,
//! leaves an outcome unknown (the write took effect, or did not, or does later), loses what nobody waits for, forgets to whom it gave work
//! and offers it anew, tells the ledger's two sequences in another order, breaks streams off, and cuts a process off for a while. A job for
//! several may be stored without some of its shares, as by a controller that was killed in between; hosts may have clocks of their own.
//!
//! It never breaks a promise of the stores' traits: what it reports as stored is stored, guards hold, and an extended claim is offered to
//! nobody as if it had lapsed. What takes effect is noted in the history, at the moment when it does.
//!
//! What a real broker may do and this one does not yet: lose records that it had acknowledged; number a delivery twice in one life of a
//! consumer, as one that is killed before it wrote down what it delivered may.

mod feed;
mod ledger;
mod registry;
mod rest;
mod turns;
mod work;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use longshore_store::{Clock, Error, Store};
use tokio::time::sleep;

use crate::world::{Actor, World};

pub(crate) use work::Strays;

/// One process's way to the twin.
#[derive(Clone)]
struct Link {
    world: Arc<World>,
    me: Actor,
}

/// What may happen to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
}

/// How a call goes.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Answered {
        before: Duration,
        after: Duration,
    },
    /// It never arrives.
    LostBefore,
    /// Its answer never arrives.
    LostAfter,
    /// It arrives after the caller has given up.
    Late(Duration),
}

/// The stores as a process sees them.
pub(crate) fn store(world: &Arc<World>, me: Actor, clock: Clock) -> Store {
    let link = Arc::new(Link { world: world.clone(), me });
    Store {
        ledger: link.clone(),
        work: link.clone(),
        feed: link.clone(),
        registry: link.clone(),
        dead_letters: link.clone(),
        audit: link.clone(),
        logs: link.clone(),
        turns: link.clone(),
        clock,
        ..world.raw.clone()
    }
}

impl Link {
    fn fate(&self, kind: Kind) -> Fate {
        let weather = self.world.weather();
        let mut rng = self.world.rng();
        if rng.chance(weather.unknown) {
            return match (kind, rng.below(3)) {
                (Kind::Read, _) | (Kind::Write, 0) => Fate::LostBefore,
                (Kind::Write, 1) => Fate::LostAfter,
                (Kind::Write, _) => Fate::Late(millis(rng.between(1, 1500))),
            };
        }
        let mut delay = || match rng.chance(weather.slow) {
            true => millis(rng.between(50, 1500)),
            // Where nothing is slow little is worth waiting for: it costs the simulation more than the broker.
            false if rng.chance(if weather.slow > 0 { 400 } else { 100 }) => millis(rng.between(1, 20)),
            false => Duration::ZERO,
        };
        Fate::Answered { before: delay(), after: delay() }
    }

    /// Asks the broker for something; what it does happens in one step.
    async fn ask<T: Send + 'static>(
        &self,
        kind: Kind,
        doing: &'static str,
        what: impl FnOnce() -> String + Send,
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let unavailable = Err(Error::Unavailable { doing, source: None });
        if self.world.cut_until(self.me).is_some() {
            let patience = millis(self.world.rng().between(200, 4000));
            if tokio::time::timeout(patience, self.world.connected(self.me)).await.is_err() {
                self.world.note(self.me, || format!("cut off while {doing} {}", what()));
                return unavailable;
            }
        }
        match self.fate(kind) {
            Fate::Answered { before, after } => {
                pause(before).await;
                let answer = call.await;
                pause(after).await;
                answer
            }
            fate @ (Fate::LostBefore | Fate::LostAfter | Fate::Late(_)) => {
                self.world.note(self.me, || format!("no answer while {doing} {}: {fate:?}", what()));
                let gives_up = millis(self.world.rng().between(10, 2000));
                match fate {
                    Fate::LostAfter => drop(call.await),
                    Fate::Late(by) => self.world.later(async move {
                        sleep(by).await;
                        drop(call.await);
                    }),
                    Fate::Answered { .. } | Fate::LostBefore => {}
                }
                sleep(gives_up).await;
                unavailable
            }
        }
    }

    /// What a stream tells, on its way to this process, until its connection breaks.
    fn told<T: Send + 'static>(&self, inner: BoxStream<'static, T>) -> BoxStream<'static, T> {
        let next = |(link, mut inner): (Self, BoxStream<'static, T>)| async move {
            let event = inner.next().await?;
            link.world.connected(link.me).await;
            link.travel().await;
            if link.strikes(link.world.weather().broken) {
                return None;
            }
            Some((event, (link, inner)))
        };
        stream::unfold((self.clone(), inner), next).boxed()
    }

    /// Whether this process is an agent.
    fn is_agent(&self) -> bool {
        matches!(self.me, Actor::Agent(_))
    }

    /// Whether misfortune strikes that comes so often in a thousand.
    fn strikes(&self, per_mille: u64) -> bool {
        self.world.rng().chance(per_mille)
    }

    /// Waits as long as something is on its way.
    async fn travel(&self) {
        let weather = self.world.weather();
        let delay = {
            let mut rng = self.world.rng();
            if rng.chance(weather.slow) { rng.between(50, 1200) } else { rng.below(4) }
        };
        pause(millis(delay)).await;
    }
}

/// Sleeps, unless there is nothing to sleep for.
async fn pause(delay: Duration) {
    if !delay.is_zero() {
        sleep(delay).await;
    }
}

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}
