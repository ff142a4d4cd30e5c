//! Children of the demo, and the certainty that they and their files are gone afterwards: at the end, after an error, and after Ctrl-C.
//!
//! A guard (a shell in a process group of its own) waits at a pipe that this process holds. When the pipe closes, however that came
//! about, it stops the children that are still listed in the scratch directory and removes the directory.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

const GUARD: &str = r#"
read -r _
each() { for file in "$dir"/pids/*; do [ -e "$file" ] && "$@" "${file##*/}"; done; }
stop() { kill -s TERM "$1" 2>/dev/null; }
look() { kill -s 0 "$1" 2>/dev/null && alive=1; }
finish() { kill -s KILL -- "-$1" 2>/dev/null; }
dir=$1; n=0; alive=1
each stop
while [ -n "$alive" ] && [ "$n" -lt 100 ]; do alive=; each look; [ -n "$alive" ] && sleep 0.1; n=$((n + 1)); done
each finish
rm -rf -- "$dir"
"#;

/// How long a child that was asked to stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// A directory that goes away, and the children that work in it. Declare it before them: it has to be dropped last.
pub(crate) struct Scratch {
    dir: PathBuf,
    guard: Child,
}

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("longshore-demo-{}", std::process::id()));
        fs::create_dir_all(dir.join("pids")).with_context(|| format!("{} cannot be made", dir.display()))?;
        let mut guard = Command::new("/bin/sh");
        guard.args(["-c", GUARD, "guard"]).arg(&dir).stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        Ok(Self { guard: guard.spawn().context("/bin/sh cannot be started")?, dir })
    }

    /// A directory of this name in it, made if it is not there.
    pub(crate) fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        Ok(dir)
    }

    /// Starts a child whose standard output is read, and whose standard error goes to a log that errors quote.
    pub(crate) fn spawn(&self, name: &str, mut command: Command) -> Result<Role> {
        let log = self.dir.join(format!("{name}.log"));
        let stderr = fs::File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).process_group(0);
        let mut child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        let listed = self.dir.join("pids").join(child.id().to_string());
        let lines = child.stdout.take().map(read_lines).context("its output was not piped")?;
        let role = Role { name: name.to_owned(), child, lines, log, listed };
        fs::write(&role.listed, "")?;
        Ok(role)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Closes the guard's pipe; it then has only the directory to remove.
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// A running child. Dropping it kills its process group.
pub(crate) struct Role {
    name: String,
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
    listed: PathBuf,
}

impl Role {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the line of JSON by which a role says that it is ready.
    pub(crate) fn ready(&mut self, within: Duration) -> Result<Value> {
        let until = Instant::now() + within;
        while let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            if let Ok(value @ Value::Object(_)) = serde_json::from_str(&line) {
                return Ok(value);
            }
        }
        let state = self.child.try_wait()?.map_or("still runs".to_owned(), |status| format!("ended ({status})"));
        bail!("{} was not ready within {within:?} and {state}; its last words:\n{}", self.name, self.last_words())
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].iter().map(|line| format!("    {line}\n")).collect()
    }

    /// Kills it and its process group with SIGKILL, as a crash of the host would, and waits until it is gone.
    pub(crate) fn kill9(self) {
        drop(self);
    }

    /// Asks it to stop and waits for its end.
    pub(crate) fn stop(mut self) -> Result<ExitStatus> {
        signal("TERM", &self.pid().to_string());
        let status = until("it ends", STOP_WITHIN, || Ok(self.child.try_wait()?));
        status.with_context(|| format!("{} did not stop; its last words:\n{}", self.name, self.last_words()))
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        signal("KILL", &format!("-{}", self.child.id()));
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.listed);
    }
}

/// Kills a process that is not our child, and waits until it is gone. It may be gone already.
pub(crate) fn kill_stranger(pid: u64) -> Result<()> {
    signal("KILL", &pid.to_string());
    until("the process is gone", Duration::from_secs(10), || Ok((!is_alive(pid)).then_some(())))
}

/// Whether there is such a process. A zombie has closed its files and its ports; who reaps it is somebody else's business.
pub(crate) fn is_alive(pid: u64) -> bool {
    fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Looks again and again until there is something, or the time is up.
pub(crate) fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if began.elapsed() > within {
            bail!("waited {within:?} in vain until {what}");
        }
        #[expect(clippy::disallowed_methods, reason = "the pause between two looks at a condition that has a deadline")]
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The standard library signals children only, and only with SIGKILL. A negative target is a process group.
fn signal(name: &str, target: &str) {
    let mut kill = Command::new("/bin/sh");
    kill.args(["-c", r#"kill -s "$1" -- "$2""#, "signal", name, target]).stderr(Stdio::null());
    // That the target is gone already is no failure.
    let _ = kill.status();
}

fn read_lines(stdout: ChildStdout) -> Receiver<String> {
    let (tx, rx) = channel();
    std::thread::spawn(move || {
        // Reads to the end even if nobody listens any more: a full pipe would block the child.
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = tx.send(line);
        }
    });
    rx
}
