//! How much of what a host has is in use: cheap enough to be asked at every heartbeat. Network file systems are not asked, since they may hang.

use std::collections::BTreeSet;

use crate::machine::Machine;

/// File systems on disks of the host's own, or in its memory where people keep files.
const FILE_SYSTEMS: [&str; 12] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "bcachefs", "overlay", "vfat", "exfat"];
/// File systems that are asked.
const DISKS_MAX: usize = 256;

/// How much is in use, in percent of what there is. What cannot be read is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strain {
    /// Memory that cannot be had.
    pub memory_percent: Option<u32>,
    /// The load of the last minute by the number of processors.
    pub load_percent: Option<u32>,
    /// Space in use on each file system, the fullest first, with where it is mounted.
    pub disks: Vec<(u32, String)>,
}

impl Machine {
    /// How much of what the host has is in use. Blocks for some milliseconds.
    #[must_use]
    pub fn strain(&self) -> Strain {
        let mut disks: Vec<_> = self.mounts().into_iter().filter_map(|mount| Some((self.disk_percent(&mount)?, mount))).collect();
        disks.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        Strain {
            memory_percent: self.memory().and_then(|(total, available)| percent(total.saturating_sub(available), total)),
            load_percent: self.load_percent(),
            disks,
        }
    }

    fn load_percent(&self) -> Option<u32> {
        let text = self.text("/proc/loadavg")?;
        let hundredths = hundredths(text.split_whitespace().next()?)?;
        percent(hundredths, u64::from(self.cpus()?).checked_mul(100)?)
    }

    /// Where file systems of the host's own are mounted, each once.
    fn mounts(&self) -> Vec<String> {
        let text = self.text("/proc/self/mounts").or_else(|| self.text("/proc/mounts")).unwrap_or_default();
        let mut devices = BTreeSet::new();
        let mount = |line: &str| {
            let mut columns = line.split(' ');
            let (device, mount, kind, options) = (columns.next()?, columns.next()?, columns.next()?, columns.next()?);
            // An image that cannot be written to is always full.
            let is_fixed = options.split(',').any(|option| option == "ro");
            (FILE_SYSTEMS.contains(&kind) && !is_fixed && devices.insert(device.to_owned())).then(|| unescaped(mount))
        };
        text.lines().filter_map(mount).take(DISKS_MAX).collect()
    }

    /// As `df` counts: what is set aside for root is neither in use nor free.
    fn disk_percent(&self, mount: &str) -> Option<u32> {
        let found = rustix::fs::statvfs(self.at(mount)).ok()?;
        let used = found.f_blocks.saturating_sub(found.f_bfree);
        percent(used, used.checked_add(found.f_bavail)?)
    }
}

/// Rounded up, so that only what is empty has none.
fn percent(part: u64, whole: u64) -> Option<u32> {
    (whole > 0).then(|| u32::try_from(part.saturating_mul(100).div_ceil(whole)).unwrap_or(u32::MAX))
}

/// `1.25` as 125.
fn hundredths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.')?;
    let fraction: u64 = fraction.get(..2)?.parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(100)?.checked_add(fraction)
}

/// Blanks and the like stand as three octal digits in the table of mounts.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, is)| text.replace(code, is))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_as_strained_as_its_files_say() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("proc/self")).unwrap();
        let machine = Machine { root: dir.path().into(), path: None };
        assert_eq!(machine.strain(), Strain::default());
        let write = |path: &str, text: &str| std::fs::write(dir.path().join(path), text).unwrap();
        write("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 74 kB\n");
        write("proc/stat", "cpu 1\ncpu0 1\ncpu1 1\n");
        write("proc/loadavg", "4.21 1.00 0.50 1/100 1234\n");
        write(
            "proc/self/mounts",
            "/dev/a / ext4 rw 0 0\n/dev/a /again ext4 rw 0 0\nproc /proc proc rw 0 0\nhost:/x /far nfs4 rw 0 0\n/dev/b /image squashfs ro 0 0\n/dev/c /gone\\040dir xfs rw 0 0\n",
        );
        let strain = machine.strain();
        assert_eq!((strain.memory_percent, strain.load_percent), (Some(93), Some(211)));
        assert_eq!(machine.mounts(), ["/", "/gone dir"]);
        assert!(matches!(strain.disks.as_slice(), [(0..=100, mount)] if mount == "/"), "{strain:?}");
    }

    #[test]
    fn this_host_is_strained_somehow() {
        let strain = Machine::default().strain();
        assert!(strain.memory_percent.is_some_and(|percent| (1..=100).contains(&percent)) && strain.load_percent.is_some());
    }
}
