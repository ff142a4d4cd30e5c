//! Starts the program: in its groups, within its limits, and so that it ends with its supervisor.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::fs::{Access, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit, setsid};

use super::super::protocol::{Contain, Limits, Spec, StartFault};
use super::signals::hear_every_signal;

/// Starts the program as this process's child, in its groups and within its limits.
pub(in super::super) fn spawn(spec: &Spec, stdin: Option<&OwnedFd>) -> Result<Pid, (StartFault, io::Error)> {
    let program = spec.words.first().ok_or_else(|| (StartFault::Program, io::ErrorKind::InvalidInput.into()))?;
    // Before the start, since afterwards "not found" could mean either.
    if !std::fs::metadata(&spec.cwd).map_err(|error| (StartFault::Directory, error))?.is_dir() {
        return Err((StartFault::Directory, Errno::NOTDIR.into()));
    }
    rustix::fs::access(&spec.cwd, Access::EXEC_OK).map_err(|errno| (StartFault::Directory, errno.into()))?;
    let stdin = match stdin {
        Some(stdin) => stdin.try_clone().map_err(|error| (StartFault::Program, error))?.into(),
        None => Stdio::null(),
    };
    let mut command = Command::new(program);
    command.args(&spec.words[1..]).env_clear().envs(&spec.env).current_dir(&spec.cwd).stdin(stdin);
    let doors = spec.contain.as_ref().map(open_doors).transpose()?;
    let limits = spec.limits;
    // SAFETY: between fork and exec only system calls are made, no memory is allocated and no lock is taken.
    unsafe {
        command.pre_exec(move || {
            hear_every_signal()?;
            limit(limits)?;
            setsid()?;
            // If somebody kills the supervisor, at least the program goes with it.
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if let Some(doors) = &doors {
                confine(doors)?;
            }
            Ok(())
        });
    }
    let child = command.spawn().map_err(|error| (StartFault::Program, error))?;
    // The child is reaped by `Family::reap`, like everything else below us.
    Ok(Pid::from_child(&child))
}

/// Opens what the program is to write itself to.
fn open_doors(contain: &Contain) -> Result<Vec<(OwnedFd, bool)>, (StartFault, io::Error)> {
    let open = |(path, must): &(String, bool)| match rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(door) => Some(Ok((door, *must))),
        Err(errno) if *must => Some(Err((StartFault::Limits, errno.into()))),
        Err(_) => None,
    };
    contain.doors.iter().filter_map(open).collect()
}

/// Puts this process, between `fork` and `exec`, into its groups.
fn confine(doors: &[(OwnedFd, bool)]) -> io::Result<()> {
    for (door, must) in doors {
        match rustix::io::write(door, b"0") {
            Err(errno) if *must => return Err(errno.into()),
            Ok(_) | Err(_) => {}
        }
    }
    // When memory is short, a job is to go before the agent.
    if let Ok(score) = rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        let _only_a_preference = rustix::io::write(score, b"500");
    }
    // SAFETY: the call takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Holds this process, and what it becomes, to `limits`; never above what it is held to already.
fn limit(limits: Limits) -> io::Result<()> {
    let rows = [
        (Resource::As, limits.memory_bytes),
        (Resource::Nofile, limits.open_files),
        (Resource::Nproc, limits.processes),
        (Resource::Fsize, limits.file_bytes),
        (Resource::Core, limits.no_core.then_some(0)),
    ];
    for (resource, wanted) in rows {
        let Some(wanted) = wanted else { continue };
        let most = getrlimit(resource).maximum.map_or(wanted, |maximum| maximum.min(wanted));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}
