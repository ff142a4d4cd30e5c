//! Results that are lost when connections break: a way to the scheduler that is cut after any number of bytes, again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use longshore_testkit::{Scheduler, SchedulerOptions};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::site::{PATIENCE, Site, Whose, task};

/// Tasks that are under way while connections are cut.
const IN_FLIGHT: usize = 8;
/// What a connection says until it has registered and answered several tasks: cuts are spread over so many bytes.
const SPAN_BYTES: usize = 8192;
/// Between looks at what has been answered.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What became of tasks over broken connections.
pub(super) struct Lost {
    pub(super) cuts: usize,
    pub(super) tasks: usize,
    /// Without any answer at the end.
    pub(super) lost: usize,
    /// Started more than once, by the handlers' own word.
    pub(super) twice: usize,
}

/// Cuts so many connections, the nth of them after n equal parts of [`SPAN_BYTES`], and lets the last one be.
pub(super) async fn measure(whose: &Whose, cuts: usize) -> anyhow::Result<Lost> {
    // What was not acknowledged is sent again, as there, but sooner.
    let options =
        SchedulerOptions { ack_within: Duration::from_millis(300), redispatch_after: Duration::from_millis(50), ..Default::default() };
    let site = Site::new(whose.clone(), options).await?;
    // A first one that is whole: the existing worker ends if its first connection breaks.
    let way = Way::open(site.scheduler.address(), cuts).await?;
    let settings = [("RECONNECT_BASE_DELAY_SECONDS", "0.01"), ("RECONNECT_MAX_DELAY_SECONDS", "0.05"), ("DISPATCH_MAX_INFLIGHT", "64")];
    let url = format!("ws://{}/ws/worker", way.address);
    let (_worker, _) = site.start(&url, &settings).await?;
    way.begin_to_cut();
    let file = site.path().join("marks");
    let answered = || {
        let results = site.scheduler.frames("biz.exec.result").into_iter().chain(site.scheduler.frames("biz.exec.error"));
        results.filter_map(|frame| Scheduler::answered(&frame).map(str::to_owned)).collect::<BTreeSet<_>>().len()
    };
    let (mut n_tasks, began) = (0, Instant::now());
    while way.n_cut() < cuts && began.elapsed() < PATIENCE {
        while n_tasks < answered() + IN_FLIGHT {
            site.scheduler.dispatch(&task(&format!("cut-{n_tasks}"), "mark", &json!({"file": file})));
            n_tasks += 1;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let healed = Instant::now();
    while answered() < n_tasks && healed.elapsed() < PATIENCE {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let mut starts = BTreeMap::<String, usize>::new();
    for line in std::fs::read_to_string(&file).unwrap_or_default().lines() {
        *starts.entry(line.to_owned()).or_default() += 1;
    }
    let twice = starts.values().filter(|n| **n > 1).count();
    Ok(Lost { cuts: way.n_cut(), tasks: n_tasks, lost: n_tasks - answered(), twice })
}

/// A way to the scheduler that breaks.
struct Way {
    address: SocketAddr,
    count: Arc<Count>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Count {
    /// Connections that were cut; the first is cut when it is told to be.
    cut: AtomicUsize,
    begin: tokio_util::sync::CancellationToken,
}

impl Way {
    async fn open(to: SocketAddr, cuts: usize) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let count = Arc::<Count>::default();
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&count);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            let mut n = 0;
            while let Ok((from, _)) = listener.accept().await {
                connections.spawn(pass(from, to, n, cuts, Arc::clone(&shared)));
                n += 1;
            }
        });
        Ok(Self { address, count, _tasks: tasks })
    }

    fn begin_to_cut(&self) {
        self.count.begin.cancel();
    }

    fn n_cut(&self) -> usize {
        self.count.cut.load(Ordering::Relaxed)
    }
}

/// Passes bytes on, both ways, until the connection's share of them is used up.
async fn pass(mut from: TcpStream, to: SocketAddr, n: usize, cuts: usize, count: Arc<Count>) {
    let Ok(mut to) = TcpStream::connect(to).await else { return };
    let _ = (from.set_nodelay(true), to.set_nodelay(true));
    let mut left = match n {
        0 => usize::MAX,
        n if n < cuts => n * SPAN_BYTES / cuts,
        _ => usize::MAX,
    };
    let (mut up, mut down) = (vec![0; 4096], vec![0; 4096]);
    loop {
        let (mut n_up, mut n_down) = (0, 0);
        tokio::select! {
            () = count.begin.cancelled(), if n == 0 => break,
            read = from.read(&mut up) => n_up = read.unwrap_or(0),
            read = to.read(&mut down) => n_down = read.unwrap_or(0),
        }
        if n_up + n_down == 0 {
            return;
        }
        let share = (n_up + n_down).min(left);
        let passed = if n_up > 0 { to.write_all(&up[..share]).await } else { from.write_all(&down[..share]).await };
        left = left.saturating_sub(share);
        if passed.is_err() {
            return;
        }
        if left == 0 {
            break;
        }
    }
    count.cut.fetch_add(1, Ordering::Relaxed);
}
