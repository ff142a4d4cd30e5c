//! Control groups of a job: bounds on what its processes may use, and a second way to end them.
//!
//! In a hierarchy of version 2 a group is a name for everything in it and can be killed as one. Bounds are set there if its controllers may
//! be used, and otherwise in the hierarchies of version 1 that may be written to. Groups are made beside each other below this process's
//! own; their names begin with the mark of the directory of whoever made them, by which the next process finds what was left.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use longshore_model::operation::StepLimits;
use longshore_model::unit::ByteSize;
use sha2::{Digest, Sha256};

use super::tree::pause;

/// The length of a period over which processor time is bounded.
const PERIOD_US: u64 = 100_000;
/// How long a group may take to be empty, once its processes are killed.
const EMPTY_BOUND: Duration = Duration::from_secs(2);
const RECHECK: Duration = Duration::from_millis(2);
/// Bytes of the owner's name in a group's.
const OWNER_NAME_BYTES_MAX: usize = 100;

/// What of a job is bounded by groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    Memory,
    Cpu,
    Processes,
}

impl Bound {
    const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Processes];

    fn controller(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Processes => "pids",
        }
    }
}

/// The groups of one job. Dropping it leaves them: they are removed by [`Groups::end`], or by who comes next.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// The one to kill everything by.
    net: Option<PathBuf>,
    /// Those that bound something, which its processes have to be in.
    bounds: Vec<PathBuf>,
    memory: Option<(PathBuf, u64)>,
}

/// Why a job cannot be bounded as it asks.
#[derive(Debug, thiserror::Error)]
#[error("bound {what}: {why}")]
pub(crate) struct Unbounded {
    what: &'static str,
    why: String,
}

impl Groups {
    /// Makes groups for a job of whoever has the directory `owner`. `name` must not have been used before.
    pub(crate) fn make(owner: &str, name: &str, limits: &StepLimits) -> Result<Self, Unbounded> {
        let mut groups = Self::default();
        let owner_name = Path::new(owner).file_name().unwrap_or_default().to_string_lossy();
        // For people only, and there is room for so much: a job's name may have as many bytes as a directory's.
        let owner_name = &owner_name[..owner_name.floor_char_boundary(OWNER_NAME_BYTES_MAX)];
        let made = groups.fill(&format!("{}{owner_name}-{name}", mark(owner)), limits);
        if made.is_err() {
            groups.end();
        }
        made.map(|()| groups)
    }

    fn fill(&mut self, name: &str, limits: &StepLimits) -> Result<(), Unbounded> {
        if limits.memory.is_none() && limits.cpu_millis.is_none() && limits.processes.is_none() {
            // To move a process into a group, the kernel waits until nobody else forks: ten milliseconds that most jobs need not pay.
            return Ok(());
        }
        let hierarchies = Hierarchies::read();
        self.net = hierarchies.unified.as_ref().map(|own| own.join(name)).filter(|path| fs::create_dir(path).is_ok());
        for bound in Bound::ALL {
            let (file_2, value_2, file_1, value_1) = match (bound, limits) {
                (Bound::Memory, StepLimits { memory: Some(bytes), .. }) => {
                    ("memory.max", bytes.to_string(), "memory.limit_in_bytes", bytes.to_string())
                }
                (Bound::Cpu, StepLimits { cpu_millis: Some(millis), .. }) => {
                    let quota = (u64::from(*millis) * PERIOD_US / 1000).max(1000);
                    ("cpu.max", format!("{quota} {PERIOD_US}"), "cpu.cfs_quota_us", quota.to_string())
                }
                (Bound::Processes, StepLimits { processes: Some(n), .. }) => ("pids.max", n.to_string(), "pids.max", n.to_string()),
                (Bound::Memory | Bound::Cpu | Bound::Processes, _) => continue,
            };
            let failed = |why: String| Unbounded { what: bound.controller(), why };
            match hierarchies.place(bound).map_err(failed)? {
                Where::Unified => {
                    let net = self.net.as_ref().ok_or_else(|| failed("its control group could not be made".into()))?;
                    write(&net.join(file_2), &value_2).map_err(|error| failed(format!("{file_2}: {error}")))?;
                    if bound == Bound::Memory {
                        // Pages on a swap device are no more free than others.
                        let _no_swap_here = write(&net.join("memory.swap.max"), "0");
                        self.memory = limits.memory.map(|bytes| (net.join("memory.events"), bytes));
                    }
                    if !self.bounds.contains(net) {
                        self.bounds.push(net.clone());
                    }
                }
                Where::Own(own) => {
                    let group = own.join(name);
                    if !self.bounds.contains(&group) {
                        fs::create_dir(&group).map_err(|error| failed(format!("{}: {error}", group.display())))?;
                        self.bounds.push(group.clone());
                    }
                    write(&group.join(file_1), &value_1).map_err(|error| failed(format!("{file_1}: {error}")))?;
                    if bound == Bound::Memory {
                        let _no_swap_here = write(&group.join("memory.memsw.limit_in_bytes"), &value_1);
                        self.memory = limits.memory.map(|bytes| (group.join("memory.oom_control"), bytes));
                    }
                }
            }
        }
        Ok(())
    }

    /// Where a process of the job writes itself to, and whether it must be able to.
    pub(crate) fn doors(&self) -> Vec<(String, bool)> {
        let door = |path: &Path, must: bool| (path.join("cgroup.procs").to_string_lossy().into_owned(), must);
        let net = self.net.iter().filter(|net| !self.bounds.contains(net)).map(|net| door(net, false));
        net.chain(self.bounds.iter().map(|path| door(path, true))).collect()
    }

    /// The bound on memory, if the kernel has ended a process for it.
    pub(crate) fn memory_used_up(&self) -> Option<ByteSize> {
        let (events, bytes) = self.memory.as_ref()?;
        let events = fs::read_to_string(events).ok()?;
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok())?;
        (kills > 0).then_some(ByteSize(*bytes))
    }

    /// Kills what is in them, and removes them. Blocks, for a moment as a rule. Safe to repeat.
    pub(crate) fn end(&self) {
        self.net.iter().chain(self.bounds.iter().filter(|path| Some(*path) != self.net.as_ref())).for_each(|group| remove(group));
    }
}

/// Kills and removes every group that whoever had the directory `owner` left. Blocks.
pub(crate) fn end_left(owner: &str) {
    let (hierarchies, mark) = (Hierarchies::read(), mark(owner));
    for own in hierarchies.all() {
        let Ok(entries) = fs::read_dir(own) else { continue };
        let left = entries.filter_map(Result::ok).filter(|entry| entry.file_name().as_encoded_bytes().starts_with(mark.as_bytes()));
        left.for_each(|entry| remove(&entry.path()));
    }
}

/// Whether jobs with bounds have a group to be killed by here, or why not.
pub(crate) fn killable() -> Result<(), String> {
    let own = Hierarchies::read().unified.ok_or("no hierarchy of version 2 is mounted")?;
    try_out(&own).and_then(|group| {
        let there = group.join("cgroup.kill").exists();
        remove(&group);
        if there { Ok(()) } else { Err("the kernel is older than 5.14, which brought cgroup.kill".to_owned()) }
    })
}

/// Where something can be bounded here, in words, or why nowhere.
pub(crate) fn boundable(bound: Bound) -> Result<&'static str, String> {
    match Hierarchies::read().place(bound)? {
        Where::Unified => Ok("by a control group of version 2"),
        Where::Own(own) => {
            remove(&try_out(&own)?);
            Ok("by a control group of version 1")
        }
    }
}

fn try_out(own: &Path) -> Result<PathBuf, String> {
    let group = own.join(format!("longshore-trial-{}", super::random_text()));
    fs::create_dir(&group).map(|()| group).map_err(|error| format!("no group can be made in {}: {error}", own.display()))
}

/// Sixty-four bits of the directory's digest: its own is too long for a name, and may hold anything.
fn mark(owner: &str) -> String {
    format!("longshore-{}-", HEXLOWER.encode(&Sha256::digest(owner)[..8]))
}

enum Where {
    /// The job's group in the hierarchy of version 2.
    Unified,
    /// A group in this one of version 1.
    Own(PathBuf),
}

/// This process's own groups, as directories.
#[derive(Debug, Default)]
struct Hierarchies {
    unified: Option<PathBuf>,
    /// By controllers.
    version_1: Vec<(Vec<String>, PathBuf)>,
}

impl Hierarchies {
    fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self::parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
    }

    fn parse(mounts: &str, own: &str) -> Self {
        let mut hierarchies = Self::default();
        for line in own.lines() {
            // NUMBER:CONTROLLERS:PATH; the hierarchy of version 2 has the number 0 and no controllers.
            let mut parts = line.splitn(3, ':');
            let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
            let controllers: Vec<_> = controllers.split(',').map(str::to_owned).collect();
            if number == "0" {
                hierarchies.unified = mounts.lines().find_map(|mount| directory(mount, "cgroup2", &[], path));
            } else if let Some(found) = mounts.lines().find_map(|mount| directory(mount, "cgroup", &controllers, path)) {
                hierarchies.version_1.push((controllers, found));
            }
        }
        hierarchies
    }

    fn all(&self) -> impl Iterator<Item = &Path> {
        self.unified.iter().chain(self.version_1.iter().map(|(_, path)| path)).map(PathBuf::as_path)
    }

    /// Where `bound` can be set.
    fn place(&self, bound: Bound) -> Result<Where, String> {
        let controller = bound.controller();
        let unified =
            self.unified.as_ref().ok_or_else(|| "no hierarchy of version 2 is mounted".to_owned()).and_then(|own| usable(own, controller));
        let Err(why) = unified else { return Ok(Where::Unified) };
        let version_1 = self.version_1.iter().find(|(controllers, _)| controllers.iter().any(|one| one == controller));
        version_1.map(|(_, own)| Where::Own(own.clone())).ok_or(why)
    }
}

/// Makes sure that groups below `own` have this controller.
fn usable(own: &Path, controller: &str) -> Result<(), String> {
    let has = |file: &str| fs::read_to_string(own.join(file)).is_ok_and(|text| text.split_ascii_whitespace().any(|one| one == controller));
    if has("cgroup.subtree_control") {
        return Ok(());
    }
    if !has("cgroup.controllers") {
        return Err(format!("the controller {controller} is not given to {}", own.display()));
    }
    // Refused where processes are in it, this one being one of them; systemd's `Delegate=yes` with `DelegateSubgroup=` avoids that.
    write(&own.join("cgroup.subtree_control"), &format!("+{controller}")).map_err(|error| {
        format!("{} does not pass {controller} on: {error}; with systemd, `Delegate=yes` and `DelegateSubgroup=agent` help", own.display())
    })
}

/// The directory of the group `path`, if this mount shows it.
fn directory(mount: &str, kind: &str, controllers: &[String], path: &str) -> Option<PathBuf> {
    // ID PARENT DEVICE ROOT POINT OPTIONS [FIELDS…] - KIND SOURCE SUPER
    let (before, after) = mount.split_once(" - ")?;
    let mut after = after.split(' ');
    let (found, options) = (after.next()?, after.nth(1)?);
    let has = |controller: &String| options.split(',').any(|option| option == controller);
    if found != kind || !controllers.iter().all(has) {
        return None;
    }
    let mut before = before.split(' ').skip(3);
    let (root, point) = (before.next()?, before.next()?);
    let below = if root == "/" { path } else { path.strip_prefix(root)? };
    Some(Path::new(point).join(below.trim_start_matches('/')))
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path).and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
}

/// Kills what is in a group and below it, and removes it. What resists is left to the next start.
fn remove(group: &Path) {
    let until = Instant::now() + EMPTY_BOUND;
    loop {
        if write(&group.join("cgroup.kill"), "1").is_err() {
            kill_one_by_one(group);
        }
        match remove_empty(group) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < until => pause(&mut [], RECHECK),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, group = %group.display(), "a control group could not be removed");
                return;
            }
            Ok(()) | Err(_) => return,
        }
    }
}

/// Removes the groups that a job may have made in its own, then its own.
fn remove_empty(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)?.filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

/// For version 1, where a group cannot be killed as one: its processes are killed until it has none.
fn kill_one_by_one(group: &Path) {
    let Ok(text) = fs::read_to_string(group.join("cgroup.procs")) else { return };
    for pid in text.lines().filter_map(|line| rustix::process::Pid::from_raw(line.parse().ok()?)) {
        let _gone_already = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
        30 25 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        32 25 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn own_groups_are_found_in_every_layout() {
        let hybrid = Hierarchies::parse(HYBRID, "4:memory:/a/b\n2:cpu,cpuacct:/\n9:name=systemd:/\n0::/x\n");
        assert_eq!(hybrid.unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified/x")));
        let found: Vec<_> = hybrid.version_1.iter().map(|(_, path)| path.display().to_string()).collect();
        assert_eq!(found, ["/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/cpu,cpuacct/"]);

        // In a container, where the mount shows its own part only.
        let inside = "40 25 0:28 /docker/1 /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n";
        assert_eq!(Hierarchies::parse(inside, "0::/docker/1/y\n").unified.as_deref(), Some(Path::new("/sys/fs/cgroup/y")));
        assert_eq!(Hierarchies::parse(inside, "0::/elsewhere\n").unified, None);
        assert!(Hierarchies::parse("", "").place(Bound::Memory).is_err());
    }
}
