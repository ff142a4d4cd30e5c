//! Misfortunes: one file each, with how it is made and how it is healed. What is common to all of them is elsewhere.

mod cut;
mod disk_full;
mod kill_agent;
mod kill_broker;
mod kill_controller;
mod kill_leader;
mod none;
mod pause_broker;
mod power_cut;
mod two_controllers;

use std::time::{Duration, Instant};

use async_trait::async_trait;
use longshore_testkit::{NatsOptions, Random};

use crate::fleet::{Fleet, Site};
use crate::keeper::Powers;

/// A misfortune.
#[async_trait(?Send)]
pub(crate) trait Cell {
    /// What the fleet is to be made of.
    ///
    /// # Errors
    /// It cannot be made on this machine or by this user, and why.
    async fn site(&mut self, powers: Powers) -> anyhow::Result<Site>;

    /// Makes it happen, again and again where it does not last by itself, until about `until`. Gives how often it happened.
    ///
    /// # Errors
    /// It had no effect: then the cell does not count.
    async fn strike(&mut self, fleet: &mut Fleet, until: Instant, random: &mut Random) -> anyhow::Result<u32>;

    /// Ends it, if it does not end by itself.
    ///
    /// # Errors
    /// It goes on.
    async fn heal(&mut self, _fleet: &mut Fleet) -> anyhow::Result<()> {
        Ok(())
    }

    /// What else is promised under this misfortune, looked at when everything is at rest. Gives what was broken.
    async fn judge(&mut self, _fleet: &mut Fleet) -> Vec<String> {
        Vec::new()
    }
}

/// A cell by name.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) make: fn() -> Box<dyn Cell>,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// All of them, in the order in which they are tried.
pub(crate) const CELLS: &[Kind] = &[
    Kind { name: "none", what: "nothing happens", make: || Box::new(none::Nothing) },
    Kind { name: "kill-agent", what: "agents are killed with -9 and started again", make: || Box::new(kill_agent::KillAgent) },
    Kind { name: "kill-controller", what: "so is the controller", make: || Box::new(kill_controller::KillController) },
    Kind { name: "kill-broker", what: "so is the broker", make: || Box::new(kill_broker::KillBroker) },
    Kind { name: "pause-broker", what: "the broker stands still and goes on", make: || Box::new(pause_broker::PauseBroker) },
    Kind { name: "cut", what: "the agents' network is cut without a word, and healed (root)", make: || Box::new(cut::Cut) },
    Kind { name: "disk-full", what: "the broker's disk is full, and freed (root)", make: || Box::new(disk_full::DiskFull::default()) },
    Kind { name: "power-cut", what: "the broker's machine loses its power (root)", make: || Box::new(power_cut::PowerCut::default()) },
    Kind {
        name: "kill-leader",
        what: "of three brokers, the one that leads is killed with -9",
        make: || Box::new(kill_leader::KillLeader),
    },
    Kind {
        name: "two-controllers",
        what: "of two controllers one is killed with -9 again and again",
        make: || Box::new(two_controllers::TwoControllers),
    },
];

/// A broker that starts whatever is free on this machine's disk: bounds of streams are set aside in full, and its own guess might not hold ours.
fn broker() -> NatsOptions {
    NatsOptions { max_file_store: Some(64 << 30), ..NatsOptions::default() }
}

/// Blows that are struck one after the other: the first at once, the others with time between them for work to get going again.
struct Blows {
    until: Instant,
    n: u32,
}

/// Between the end of a blow and the next one.
const BETWEEN: Duration = Duration::from_millis(1500);

impl Blows {
    fn until(until: Instant) -> Self {
        Self { until, n: 0 }
    }

    /// Waits for the next one; gives whether there is time for it.
    async fn next(&mut self) -> bool {
        if self.n > 0 {
            tokio::time::sleep(BETWEEN.min(self.until.saturating_duration_since(Instant::now()))).await;
            if Instant::now() >= self.until {
                return false;
            }
        }
        self.n += 1;
        true
    }
}
