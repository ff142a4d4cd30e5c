//! How busy this host is, in percent of what it has, as heartbeats say it.

use std::fs;
use std::path::Path;

/// The processors' time since the machine started: in use, and in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CpuTime {
    busy: u64,
    all: u64,
}

impl CpuTime {
    pub(crate) fn now() -> Option<Self> {
        Self::read(&fs::read_to_string("/proc/stat").ok()?)
    }

    fn read(text: &str) -> Option<Self> {
        let line = text.lines().find(|line| line.starts_with("cpu "))?;
        let times: Vec<u64> = line.split_whitespace().skip(1).take(8).map_while(|word| word.parse().ok()).collect();
        let (idle, all) = (times.get(3)? + times.get(4)?, times.iter().sum::<u64>());
        Some(Self { busy: all.saturating_sub(idle), all })
    }

    /// How much of the time since `earlier` was in use.
    pub(crate) fn percent_since(self, earlier: Self) -> f64 {
        percent(self.busy.saturating_sub(earlier.busy), self.all.saturating_sub(earlier.all))
    }
}

/// Memory that cannot be had.
pub(crate) fn memory_percent() -> Option<f64> {
    memory_of(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn memory_of(text: &str) -> Option<f64> {
    let kib = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok());
    let (total, available) = (kib("MemTotal:")?, kib("MemAvailable:")?);
    Some(percent(total.saturating_sub(available), total))
}

/// Space in use where `path` is, as `df` counts.
pub(crate) fn disk_percent(path: &Path) -> Option<f64> {
    let found = rustix::fs::statvfs(path).ok()?;
    let used = found.f_blocks.saturating_sub(found.f_bfree);
    Some(percent(used, used.saturating_add(found.f_bavail)))
}

/// To a tenth.
#[expect(clippy::cast_precision_loss, reason = "a tenth of a percent is all that is told")]
fn percent(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { (part as f64 / of as f64 * 1000.0).round() / 10.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let earlier = CpuTime::read("cpu  10 0 10 70 10 0 0 0 0 0\ncpu0 1 1 1 1\n").unwrap();
        let later = CpuTime::read("cpu  60 0 10 110 20 0 0 0 0 0\n").unwrap();
        assert!((later.percent_since(earlier) - 50.0).abs() < f64::EPSILON);
        assert!(earlier.percent_since(earlier).abs() < f64::EPSILON);
        assert_eq!(memory_of("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n"), Some(75.0));
        assert_eq!((CpuTime::read("cpu x"), memory_of("")), (None, None));
    }

    #[test]
    fn this_host_is_asked() {
        assert!(CpuTime::now().is_some() && memory_percent().is_some());
        assert!(disk_percent(Path::new("/")).is_some_and(|used| (0.0..=100.0).contains(&used)));
        assert_eq!(disk_percent(Path::new("/no/such/place")), None);
    }
}
