//! Ends a child when the test's process is gone without having run its destructors (SIGKILL, Ctrl-C, abort).
//!
//! A parent-death signal would not do: the kernel ties it to the thread that spawned the child, and test threads end early. So a
//! shell waits at a pipe that only this process holds open, and kills the child's process group when the pipe closes.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Dropped before the child is reaped, so that the group it would kill is never somebody else's by then.
#[derive(Debug)]
pub(crate) struct Lifeline(Child);

impl Lifeline {
    pub(crate) fn to_group_of(pid: u32) -> Self {
        let watcher = Command::new("/bin/sh")
            .args(["-c", r#"read -r _; kill -s KILL -- "-$1""#, "lifeline", &pid.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("/bin/sh starts");
        Self(watcher)
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        // SIGKILL, not a closed pipe: the latter is what it takes for our death.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
