//! One cell after the other: set up, load, strike, heal, drain, read again, check.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use futures::FutureExt;
use longshore_testkit::Random;
use longshore_testkit::witness::Witness;
use tokio::sync::watch;

use crate::cell::{Cell, Kind};
use crate::check::check;
use crate::evidence;
use crate::fleet::{AGENTS, Fleet};
use crate::history::JobHistory;
use crate::host::tool;
use crate::keeper::Powers;
use crate::load::{Load, Until};
use crate::options::Options;
use crate::report::{Figures, Outcome, Row, verdict};

/// How long jobs may take to end when nothing is submitted any more and nothing happens any more. More than a claim, the grace of a lost
/// agent and two passes of the reconcilers.
const DRAIN: Duration = Duration::from_secs(120);

/// Parts of a cell's length, in ninths.
const WARM: u32 = 1;
const STRIKE: u32 = 3;
const HEAL: u32 = 5;
/// Of the rates after the heal: as long to settle as to be measured.
const WINDOW: u32 = 2;

/// When what happened, from the beginning of the load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) warm: Duration,
    pub(crate) struck: Duration,
    pub(crate) healed: Duration,
    pub(crate) settled: Duration,
    pub(crate) over: Duration,
}

/// Runs every cell that was chosen. Gives 0 if all held, 1 if a promise was broken, 2 if a cell did not count.
pub(crate) fn all(options: &Options, powers: Powers) -> anyhow::Result<ExitCode> {
    if powers.is_alone {
        tool(&["ip", "link", "set", "lo", "up"])?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut rows = Vec::new();
    for &kind in &options.cells {
        eprintln!("chaos: {} ({}) …", kind.name, kind.what);
        let done = runtime.block_on(AssertUnwindSafe(one(kind, options, powers)).catch_unwind());
        let row = done.unwrap_or_else(|panic| Row {
            kind,
            outcome: Outcome::Broken(vec![format!("the run itself ended: {}", words_of(&*panic))]),
            figures: None,
        });
        eprintln!("chaos: {}", row.line());
        rows.push(row);
    }
    crate::report::print(&rows, options)?;
    Ok(verdict(&rows, options.is_chosen))
}

async fn one(kind: &'static Kind, options: &Options, powers: Powers) -> Row {
    let mut cell = (kind.make)();
    let site = match cell.site(powers).await {
        Ok(site) => site,
        Err(why) => return Row { kind, outcome: Outcome::NotRun(format!("{why:#}")), figures: None },
    };
    let mut fleet = match Fleet::start(site, &options.binary).await {
        Ok(fleet) => fleet,
        Err(why) => return Row { kind, outcome: Outcome::Broken(vec![format!("the fleet did not start: {why:#}")]), figures: None },
    };
    let witness = Witness::new_in(fleet.dir());
    let began = Instant::now();
    let (tell, until) = watch::channel(Until::Told);
    let load = Load::new(fleet.doors.clone(), witness.clone(), AGENTS, began, until);
    // What panics breaks the cell, and hides nothing of what is known of it: the evidence is in the load and in the fleet.
    let mut broken = Vec::new();
    let mut ended = |panic: Box<dyn Any + Send>| broken.push(format!("the run itself ended: {}", words_of(&*panic)));
    let loaded = AssertUnwindSafe(under_load(cell.as_mut(), &mut fleet, &load, (began, &tell), options)).catch_unwind().await;
    let happened = loaded.unwrap_or_else(|panic| {
        ended(panic);
        Err(anyhow!("the run itself ended"))
    });
    let jobs = AssertUnwindSafe(load.read_again()).catch_unwind().await.unwrap_or_else(|panic| {
        ended(panic);
        load.jobs()
    });
    let account = witness.read();
    let judged = AssertUnwindSafe(cell.judge(&mut fleet)).catch_unwind().await.unwrap_or_else(|panic| {
        ended(panic);
        Vec::new()
    });
    broken.extend(judged);
    let findings = check(&jobs, &account);
    broken.extend(findings.iter().filter(|finding| finding.breaks()).map(ToString::to_string));
    let (times, n_blows, fault) = match happened {
        Ok((times, n_blows)) => (Some(times), n_blows, None),
        Err(error) => (None, 0, Some(format!("{error:#}"))),
    };
    let figures = times.map(|times| Figures::new(&jobs, &account, &findings, times, n_blows));
    let mut outcome = match (fault, &figures) {
        _ if !broken.is_empty() => Outcome::Broken(broken),
        (Some(fault), _) => Outcome::NotCounted(fault),
        (None, figures) => figures.as_ref().map_or(Outcome::Held, |figures| figures.outcome(options.rate_min, options.recovery_min)),
    };
    if options.keeps || matches!(outcome, Outcome::Broken(_)) {
        let kept = match evidence::keep(kind.name, &jobs, &witness, &fleet) {
            Ok(dir) => format!("histories and logs are in {}", dir.display()),
            Err(error) => format!("histories and logs could not be kept: {error:#}"),
        };
        eprintln!("chaos: {kept}");
        if let Outcome::Broken(why) = &mut outcome {
            why.push(kept);
        }
    }
    Row { kind, outcome, figures }
}

/// The load, and what happens meanwhile. Whatever becomes of the latter, the load is drained.
async fn under_load(
    cell: &mut dyn Cell,
    fleet: &mut Fleet,
    load: &Load,
    (began, tell): (Instant, &watch::Sender<Until>),
    options: &Options,
) -> anyhow::Result<(Times, u32)> {
    let misfortune = async {
        let happened = happen(cell, fleet, options, began).await;
        tell.send_replace(Until::Drained(Instant::now() + DRAIN));
        happened
    };
    tokio::join!(load.run(options.in_flight), misfortune).1
}

/// What a panic said.
fn words_of(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    words.unwrap_or("a panic without words").to_owned()
}

async fn happen(cell: &mut dyn Cell, fleet: &mut Fleet, options: &Options, began: Instant) -> anyhow::Result<(Times, u32)> {
    let ninth = options.length / 9;
    sleep_until(began + ninth * STRIKE).await;
    let struck = began.elapsed();
    let mut random = Random::new(options.seed);
    let blows = cell.strike(fleet, began + ninth * HEAL, &mut random).await;
    // Also after a blow that had no effect: the jobs are to end.
    let healed = cell.heal(fleet).await;
    let n_blows = blows?;
    healed?;
    let healed = began.elapsed();
    let (settled, over) = (healed + ninth * WINDOW, healed + ninth * WINDOW * 2);
    sleep_until(began + over).await;
    Ok((Times { warm: ninth * WARM, struck, healed, settled, over }, n_blows))
}

async fn sleep_until(instant: Instant) {
    tokio::time::sleep_until(instant.into()).await;
}

/// Ends of jobs a second between two times.
pub(crate) fn rate(jobs: &[JobHistory], from: Duration, to: Duration) -> f64 {
    let n_ended = jobs.iter().filter(|job| job.ended.is_some_and(|ended| (from..to).contains(&ended))).count();
    n_ended as f64 / to.saturating_sub(from).as_secs_f64()
}
