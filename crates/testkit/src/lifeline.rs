//! What happens when the test's process is gone without having run its destructors (SIGKILL, Ctrl-C, abort): a child is ended, a script is run.
//!
//! A parent-death signal would not do: the kernel ties it to the thread that spawned the child, and test threads end early. So a
//! shell waits at a pipe that only this process holds open, and acts when the pipe closes.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Kills a child's process group once this process is gone. Dropped before the child is reaped, so that the group it would kill is never
/// somebody else's by then.
#[derive(Debug)]
pub struct Lifeline(Child);

impl Lifeline {
    /// A lifeline to the group that the child with this process id leads.
    ///
    /// # Panics
    /// There is no `/bin/sh`.
    #[must_use]
    pub fn to_group_of(pid: u32) -> Self {
        Self(watcher(r#"read -r _; kill -s KILL -- "-$1""#, &[pid.to_string()]))
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        // SIGKILL, not a closed pipe: the latter is what it takes for our death.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory that is removed when this is dropped, and also when this process is gone, whoever still writes there at first. What was
/// mounted on it is unmounted.
#[derive(Debug)]
pub struct Scratch {
    path: std::path::PathBuf,
    watcher: Child,
}

/// Those who write there are ended by their own lifelines at the same moment; so it is tried until nothing is left. Lazy: whoever still
/// has a file open on what was mounted keeps it no longer than it lives.
const REMOVE: &str = r#"
read -r _
umount --lazy -- "$1" 2>/dev/null
n=0
while [ -e "$1" ] && [ "$n" -lt 100 ]; do
  rm -rf -- "$1" 2>/dev/null
  [ -e "$1" ] && sleep 0.1
  n=$((n + 1))
done
"#;

impl Scratch {
    /// A fresh directory whose name begins with `prefix`, where temporary files are.
    ///
    /// # Panics
    /// It cannot be made, or there is no `/bin/sh`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        let path = tempfile::Builder::new().prefix(prefix).tempdir().expect("a temporary directory can be made").keep();
        let watcher = watcher(REMOVE, &[&path]);
        Self { path, watcher }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        let _ = self.watcher.wait();
    }
}

/// A shell that reads a line from a pipe which nobody writes to: it comes back when the pipe closes.
fn watcher(script: &str, args: &[impl AsRef<OsStr>]) -> Child {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script, "lifeline"]).args(args);
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    shell.spawn().expect("/bin/sh starts")
}
