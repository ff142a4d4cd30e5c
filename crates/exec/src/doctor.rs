//! What this host has to keep jobs within, found out by trying it.

use std::sync::Arc;
use std::time::Duration;

use longshore_model::wire::log::LogStream;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::process::{Bound, Contain, Launcher, Program, Sink, Stops, Wiring, boundable, killable, random_text};
use crate::{Output, SupervisorCommand};

/// How long the trial may take.
const TRIAL_BOUND: Duration = Duration::from_secs(10);

/// One way of keeping jobs within bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Facility {
    /// Its name, which does not change.
    pub name: &'static str,
    /// Whether jobs on this host have it.
    pub used: bool,
    /// How, or why not and what would help.
    pub why: String,
}

/// Tries everything that workspace jobs are kept within on this host, as the user that this process runs as. Leaves nothing. Never fails:
/// what does not work is among what it gives. Needs a tokio runtime with I/O and time.
pub async fn facilities(supervisor: SupervisorCommand) -> Vec<Facility> {
    let state_dir = format!("/longshore-trial-{}", random_text());
    let launcher = Launcher { supervisor, kill_grace: Duration::ZERO, state_dir, nursery: None };
    let program =
        Program { words: vec!["sh".into(), "-c".into(), "exit 0".into()], cwd: "/".into(), env: [("PATH".into(), PATH.into())].into() };
    let contain = Contain { namespaces: true, doors: Vec::new() };
    let (cancel, abandon) = (CancellationToken::new(), CancellationToken::new());
    let stops = Stops { cancel, abandon, deadline: Instant::now() + TRIAL_BOUND };
    let ran = launcher
        .run_wired(program, Wiring { contain: Some(contain), ..Wiring::default() }, &mut Sink::keeping(Arc::new(Nowhere), 0), &stops)
        .await;

    let facility = |name, found: Result<String, String>| {
        let used = found.is_ok();
        Facility { name, used, why: found.unwrap_or_else(|why| why) }
    };
    let started = ran.as_ref().map(|_| ()).map_err(|fault| longshore_model::wire::problem::chain(fault));
    let always = |how: &str| started.clone().map(|()| how.to_owned());
    let namespaces = match &ran {
        Ok(ran) => ran.uncontained.map_or_else(|| Ok(()), |errno| Err(std::io::Error::from_raw_os_error(errno))).map_err(|error| {
            format!("{error}; the agent needs CAP_SYS_ADMIN, which root has outside of most containers; the supervisor's sweep stands in for them")
        }),
        Err(_) => started.clone(),
    };
    let bound = |bound| boundable(bound).map(str::to_owned);
    vec![
        facility("supervisor", always("every program has a supervisor that adopts its orphans and kills until none is left")),
        facility(
            "namespaces",
            namespaces.map(|()| "each step has PID, mount and IPC namespaces of its own, which end with its supervisor".into()),
        ),
        facility(
            "cgroup_kill",
            killable().map(|()| "a workspace job with limits has a control group of version 2 that is killed as one".into()),
        ),
        facility("limit_memory", bound(Bound::Memory)),
        facility("limit_cpu", bound(Bound::Cpu)),
        facility("limit_processes", bound(Bound::Processes)),
        facility("limit_file_size", always("by a limit of each process of a step")),
        facility("no_new_privileges", always("steps gain no rights by programs that have more, such as sudo, and write no core files")),
        facility(
            "resume",
            always("workspace jobs go on while a killed agent is started again; under systemd this takes `KillMode=process`"),
        ),
    ]
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

struct Nowhere;

impl Output for Nowhere {
    fn write(&self, _: u32, _: LogStream, _: &[u8]) {}
}
