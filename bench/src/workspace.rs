//! Staging a job's directory and bringing back what changed, beside `cp -a` on the same file system: `cargo xtask bench workspace`.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use longshore_exec::workspace::{Hold, Results, Source, Staged, Workspace};
use longshore_model::DirectoryName;

use crate::system::{median, peak_kib};

const MIB: usize = 1024 * 1024;
const SMALL_FILES: usize = 10_000;
const SMALL_BYTES: usize = 4096;
const LARGE_MIB: usize = 1024;

/// What to measure.
pub(crate) struct Settings {
    /// Where to work; by default where temporary files go.
    pub(crate) dir: PathBuf,
    rounds: usize,
    /// Whether staging and bringing back is left out.
    is_for_workers_only: bool,
}

impl Settings {
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut settings = Self { dir: std::env::temp_dir(), rounds: 5, is_for_workers_only: false };
        for arg in args {
            match arg.as_str() {
                "--quick" => settings.rounds = 1,
                "--worker" => settings.is_for_workers_only = true,
                dir => settings.dir = dir.into(),
            }
        }
        ensure!(settings.dir.is_dir(), "{} is no directory", settings.dir.display());
        Ok(settings)
    }

    /// Whether figures are wanted soon rather than exact.
    pub(crate) fn is_quick(&self) -> bool {
        self.rounds == 1
    }
}

pub(crate) fn run(settings: &Settings) -> anyhow::Result<()> {
    if settings.is_for_workers_only {
        return Ok(());
    }
    println!("workspaces in {}, medians of {} rounds that alternate with cp -a", settings.dir.display(), settings.rounds);
    let small = |source: &Path| {
        (0..SMALL_FILES).try_for_each(|index| {
            let dir = source.join((index / 100).to_string());
            fs::create_dir_all(&dir)?;
            fs::write(dir.join(index.to_string()), vec![b'x'; SMALL_BYTES])
        })
    };
    measure(settings, &format!("{SMALL_FILES} files of {SMALL_BYTES} bytes"), &small)?;
    let large = |source: &Path| {
        let mut file = File::create(source.join("large"))?;
        (0..LARGE_MIB).try_for_each(|index| file.write_all(&vec![u8::try_from(index % 251).unwrap_or(0); MIB]))
    };
    measure(settings, &format!("one file of {LARGE_MIB} MiB"), &large)
}

fn measure(settings: &Settings, what: &str, fill: &dyn Fn(&Path) -> std::io::Result<()>) -> anyhow::Result<()> {
    let drive = tempfile::tempdir_in(&settings.dir)?;
    let job = drive.path().join("jobs/job");
    fs::create_dir_all(&job)?;
    fill(&job)?;
    let (mut staged, mut synced, mut copied, mut peak) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..settings.rounds {
        let copy = drive.path().join("copy");
        settle(drive.path())?;
        copied.push(timed(|| copy_with_cp(&job, &copy))?.0);
        fs::remove_dir_all(&copy)?;

        // From here on the system keeps the highest amount of memory anew.
        fs::write("/proc/self/clear_refs", "5")?;
        let (source, results) = open(drive.path())?;
        settle(drive.path())?;
        let (elapsed, (workspace, before)) = timed(|| stage(drive.path(), &source, &results))?;
        staged.push(elapsed);
        change_all(workspace.path())?;
        settle(drive.path())?;
        let (elapsed, changes) = timed(|| Ok(workspace.sync(before, &results, None, 0, &|| false)?))?;
        synced.push(elapsed);
        peak = peak.max(peak_kib("self")?);
        ensure!(changes.modified.len() + changes.created.len() > 0, "nothing was brought back");
        drop(workspace);
        fs::remove_dir_all(results.path())?;
    }
    let (staged, synced, copied) = (median(staged), median(synced), median(copied));
    let ratio = |elapsed: Duration| elapsed.as_secs_f64() / copied.as_secs_f64();
    println!("\n{what}");
    println!("  cp -a                {:>9.1} ms", copied.as_secs_f64() * 1000.0);
    println!("  staged               {:>9.1} ms   {:.2} x cp -a", staged.as_secs_f64() * 1000.0, ratio(staged));
    println!("  all changed, synced  {:>9.1} ms   {:.2} x cp -a", synced.as_secs_f64() * 1000.0, ratio(synced));
    println!("  most memory meanwhile {:>8.1} MiB", f64::from(u32::try_from(peak)?) / 1024.0);
    Ok(())
}

fn open(drive: &Path) -> anyhow::Result<(Source, Results)> {
    let source = Source::resolve(&drive.join("jobs"), &name()?)?;
    let results = source.results()?;
    Ok((source, results))
}

fn stage(drive: &Path, source: &Source, results: &Results) -> anyhow::Result<(Workspace, Staged)> {
    let hold = Hold::take(&drive.join("workspaces"), &name()?, "")?;
    Ok(Workspace::stage(source, results, &hold, &|| false)?)
}

fn name() -> anyhow::Result<DirectoryName> {
    Ok("job".parse()?)
}

fn copy_with_cp(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().context("cp does not start")?;
    ensure!(status.success(), "cp: {status}");
    Ok(())
}

/// Lets the file system finish what was asked of it, so that nobody pays for what came before.
fn settle(dir: &Path) -> anyhow::Result<()> {
    let status = Command::new("sync").arg("-f").arg(dir).status().context("sync does not start")?;
    ensure!(status.success(), "sync: {status}");
    Ok(())
}

/// Adds a byte to every file.
fn change_all(dir: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            change_all(&path)?;
        } else {
            File::options().append(true).open(&path)?.write_all(b"+")?;
        }
    }
    Ok(())
}

fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(Duration, T)> {
    let began = Instant::now();
    let done = work()?;
    Ok((began.elapsed(), done))
}
