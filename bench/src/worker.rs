//! A workspace worker without a fleet, as a process on a real broker: what a trivial job costs beside `sh -c true`, how quickly it is
//! there, and how soon a printed line can be read. The second half of `cargo xtask bench workspace`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use futures::StreamExt;
use longshore_testkit::{NatsOptions, NatsServer, Process};
use tokio::time::{Instant, timeout};

use crate::system::binary;
use crate::system::median;
use crate::workspace::Settings;

const PATIENCE: Duration = Duration::from_secs(30);
const JOBS: usize = 200;
const RESTARTS: usize = 50;
const LINES: usize = 400;

/// A drive with jobs, and the broker.
struct Place {
    nats: NatsServer,
    client: async_nats::Client,
    dir: tempfile::TempDir,
}

pub(crate) async fn run(settings: &Settings) -> anyhow::Result<()> {
    // The worker's users have the server's own defaults, as the program before it was measured with.
    let nats = NatsServer::start_with(NatsOptions { sync_always: false, ..NatsOptions::default() }).await;
    let client = async_nats::connect(nats.url()).await?;
    let place = Place { nats, client, dir: tempfile::tempdir_in(&settings.dir)? };
    println!("\na worker without a fleet");
    let scale = if settings.is_quick() { 10 } else { 1 };
    place.start_to_first_pull(RESTARTS / scale).await?;
    place.trivial_jobs(JOBS / scale).await?;
    place.restart_loop(RESTARTS / scale).await?;
    place.printed_lines(LINES / scale).await
}

impl Place {
    fn worker(&self, flags: &[&str]) -> anyhow::Result<Process> {
        let mut command = Command::new(binary()?);
        command.args(["workspace", "worker", "-u", &self.nats.url()]).args(flags).current_dir(self.dir.path());
        command.env("LONGSHORE_LOG", "error");
        Ok(Process::spawn(command))
    }

    fn job(&self, id: &str, step: &str) -> anyhow::Result<PathBuf> {
        let dir = self.dir.path().join("jobs").join(id);
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("job.json"), serde_json::json!({ "steps": [step] }).to_string())?;
        Ok(dir)
    }

    async fn send(&self, id: &str) -> anyhow::Result<()> {
        Ok(self.client.publish("jobs.pending", serde_json::json!({ "id": id }).to_string().into()).await?)
    }

    async fn start_to_first_pull(&self, rounds: usize) -> anyhow::Result<()> {
        let mut pulls = self.client.subscribe("$JS.API.CONSUMER.MSG.NEXT.JOBS.worker-01").await?;
        self.client.flush().await?;
        let mut times = Vec::new();
        // The first makes the stream and the consumer and does not count.
        for round in 0..=rounds {
            let began = Instant::now();
            let worker = self.worker(&[])?;
            timeout(PATIENCE, pulls.next()).await?.context("the broker has ended")?;
            if round > 0 {
                times.push(began.elapsed());
            }
            drop(worker);
        }
        println!("  start to first pull   {:>9.2} ms   aim 10 ms", ms(median(times)));
        Ok(())
    }

    async fn trivial_jobs(&self, n_jobs: usize) -> anyhow::Result<()> {
        for n in 0..n_jobs + 1 {
            self.job(&format!("trivial-{n}"), "true")?;
        }
        let mut responses = self.client.subscribe("jobs.results").await?;
        let _worker = self.worker(&["--stay"])?;
        let (mut jobs, mut shells) = (Vec::new(), Vec::new());
        for n in 0..=n_jobs {
            let began = Instant::now();
            ensure!(Command::new("sh").args(["-c", "true"]).stdin(Stdio::null()).status()?.success(), "sh failed");
            let shell = began.elapsed();
            let began = Instant::now();
            self.send(&format!("trivial-{n}")).await?;
            let response = timeout(PATIENCE, responses.next()).await?.context("the broker has ended")?;
            ensure!(response.payload.windows(9).any(|window| window == b"\"success\""), "{:?}", response.payload);
            // The first waits for the worker's start.
            if n > 0 {
                jobs.push(began.elapsed());
                shells.push(shell);
            }
        }
        let (job, shell) = (median(jobs), median(shells));
        println!("  sh -c true            {:>9.2} ms", ms(shell));
        println!(
            "  trivial job, warm     {:>9.2} ms   {:.2} x sh -c true; aim 3 x, and 3 ms",
            ms(job),
            job.as_secs_f64() / shell.as_secs_f64()
        );
        Ok(())
    }

    async fn restart_loop(&self, n_jobs: usize) -> anyhow::Result<()> {
        for n in 0..n_jobs {
            self.job(&format!("loop-{n}"), "true")?;
            self.send(&format!("loop-{n}")).await?;
        }
        self.client.flush().await?;
        let began = Instant::now();
        for _ in 0..n_jobs {
            ensure!(self.worker(&[])?.wait(PATIENCE).await.success(), "a worker failed");
        }
        let each = began.elapsed() / u32::try_from(n_jobs)?;
        println!("  restart loop          {:>9.2} ms   a job; aim 20 ms", ms(each));
        Ok(())
    }

    /// Each line is the time at which it was made; a reader looks at the file all the time.
    async fn printed_lines(&self, n_lines: usize) -> anyhow::Result<()> {
        let script = format!("i=0; while [ $i -lt {n_lines} ]; do date +%s%N; sleep 0.005; i=$((i+1)); done");
        let log = self.job("lines", &script)?.join("results/step_0.log");
        let _worker = self.worker(&[])?;
        self.send("lines").await?;
        let mut times = tokio::task::spawn_blocking(move || latencies(&log, n_lines)).await??;
        times.sort_unstable();
        let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        println!("  printed to readable   {:>9.2} ms   p50; {:.2} ms p99, aim 20 ms", ms(p50), ms(p99));
        Ok(())
    }
}

fn latencies(log: &Path, n_lines: usize) -> anyhow::Result<Vec<Duration>> {
    let mut last = std::time::Instant::now();
    let mut times = Vec::new();
    let (mut file, mut text) = (None, String::new());
    while times.len() < n_lines {
        ensure!(last.elapsed() < PATIENCE, "the lines do not come");
        let read = match &mut file {
            Some(file) => std::io::Read::read_to_string(file, &mut text)?,
            None => {
                file = std::fs::File::open(log).ok();
                0
            }
        };
        if read == 0 {
            // Short beside what is measured, and leaves the processors to those who are.
            std::thread::park_timeout(Duration::from_micros(100));
            continue;
        }
        last = std::time::Instant::now();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        while let Some(end) = text.find('\n') {
            let printed = Duration::from_nanos(text[..end].parse()?);
            times.push(now.saturating_sub(printed));
            text.drain(..=end);
        }
    }
    Ok(times)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
