//! What the host is short of: looked at for every heartbeat, beside it, so that a file system that hangs never keeps the agent from saying
//! that it lives.

use std::sync::Arc;

use jiff::Timestamp;
use longshore_exec::Strain;
use longshore_model::limits::CONDITIONS_MAX;
use longshore_model::wire::agent::Condition;
use longshore_store::Clock;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::heartbeat::Load;
use crate::host::Host;

/// From where on something counts as short, each in percent of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Of memory in use; 90 unless said otherwise.
    pub memory_percent: u32,
    /// Of the last minute's load by the number of processors; 200 unless said otherwise.
    pub load_percent: u32,
    /// Of space in use on a file system; 90 unless said otherwise.
    pub disk_percent: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { memory_percent: 90, load_percent: 200, disk_percent: 90 }
    }
}

/// Looks as often as the agent beats, until `stop`. A change is told at once.
pub(crate) async fn run(config: Arc<Config>, host: Arc<dyn Host>, clock: Clock, load: Arc<Load>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(config.heartbeat_every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let Some(strain) = stop.run_until_cancelled(host.strain()).await else { return };
        let mut conditions = load.conditions.lock().expect("no holder of this lock panics");
        let before = conditions.len();
        *conditions = judge(&strain, config.thresholds, &conditions, clock.now());
        if conditions.len() != before {
            load.changed.notify_one();
        }
    }
}

/// What is at or beyond its threshold. What was so before keeps its beginning.
fn judge(strain: &Strain, thresholds: Thresholds, before: &[Condition], now: Timestamp) -> Vec<Condition> {
    let since = |kind: &str, mount: Option<&str>| {
        let is_it = |earlier: &&Condition| earlier.kind == kind && earlier.mount.as_deref() == mount;
        before.iter().find(is_it).map_or(now, |earlier| earlier.since)
    };
    let condition = |kind: &str, percent: u32, threshold_percent: u32, mount: Option<&str>| {
        let found =
            Condition { kind: kind.to_owned(), percent, threshold_percent, mount: mount.map(str::to_owned), since: since(kind, mount) };
        (percent >= threshold_percent).then_some(found)
    };
    let memory = strain.memory_percent.and_then(|percent| condition("memory_pressure", percent, thresholds.memory_percent, None));
    let load = strain.load_percent.and_then(|percent| condition("high_load", percent, thresholds.load_percent, None));
    let disks =
        strain.disks.iter().filter_map(|(percent, mount)| condition("disk_pressure", *percent, thresholds.disk_percent, Some(mount)));
    memory.into_iter().chain(load).chain(disks).take(CONDITIONS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_threshold_decides_and_what_lasts_keeps_its_beginning() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let strain = |memory, load, disk| Strain {
            memory_percent: Some(memory),
            load_percent: Some(load),
            disks: vec![(disk, "/".to_owned()), (5, "/var".to_owned())],
        };
        let kinds = |found: &[Condition]| found.iter().map(|condition| condition.kind.clone()).collect::<Vec<_>>();
        let usual = Thresholds::default();
        assert_eq!(judge(&strain(89, 199, 89), usual, &[], at(1)), []);
        assert_eq!(judge(&Strain::default(), Thresholds { memory_percent: 0, load_percent: 0, disk_percent: 0 }, &[], at(1)), []);
        for (thresholds, expected) in [
            (Thresholds { memory_percent: 50, ..usual }, "memory_pressure"),
            (Thresholds { load_percent: 50, ..usual }, "high_load"),
            (Thresholds { disk_percent: 50, ..usual }, "disk_pressure"),
        ] {
            assert_eq!(kinds(&judge(&strain(50, 50, 50), thresholds, &[], at(1))), [expected]);
        }
        let first = judge(&strain(95, 10, 90), usual, &[], at(1));
        assert_eq!(kinds(&first), ["memory_pressure", "disk_pressure"]);
        assert_eq!((first[1].mount.as_deref(), first[1].percent, first[1].threshold_percent), (Some("/"), 90, 90));
        let second = judge(&strain(97, 300, 10), usual, &first, at(2));
        assert_eq!(second.iter().map(|condition| (condition.percent, condition.since)).collect::<Vec<_>>(), [(97, at(1)), (300, at(2))]);
        let many = Strain { disks: (0..100).map(|n| (99, format!("/{n}"))).collect(), ..Strain::default() };
        assert_eq!(judge(&many, usual, &[], at(3)).len(), CONDITIONS_MAX);
    }
}
