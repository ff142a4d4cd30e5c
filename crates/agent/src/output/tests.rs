//! Every byte, in order, once; or a gap of that size. Whatever the broker, the disk and kills do.

use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures::StreamExt as _;
use jiff::Timestamp;
use longshore_model::wire::record::Definition;
use longshore_store::{Error, LogStream as Followed, Logs, Revision, memory};
use longshore_testkit::{Disk, sample};
use proptest::prelude::*;

use super::*;

/// A store of logs behind a broker that is away at times, stores beginnings only, or does not say what it stored.
struct Broker {
    logs: Arc<dyn Logs>,
    is_away: AtomicBool,
    /// What becomes of the next writes; then all is well.
    faults: Mutex<Vec<Fault>>,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Stores(u8),
    StoresAllAndIsSilent,
    None,
}

fn unavailable() -> Error {
    Error::Unavailable { doing: "storing output", source: None }
}

#[async_trait]
impl Logs for Broker {
    async fn append(&self, records: &[LogRecord]) -> Result<(), Error> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(unavailable());
        }
        let fault = self.faults.lock().unwrap().pop();
        match fault {
            Some(Fault::Stores(n)) => {
                self.logs.append(&records[..records.len().min(n.into())]).await?;
                Err(unavailable())
            }
            Some(Fault::StoresAllAndIsSilent) => {
                self.logs.append(records).await?;
                Err(unavailable())
            }
            Some(Fault::None) | None => self.logs.append(records).await,
        }
    }

    async fn newest(&self, job: JobId, execution: ExecutionId) -> Result<Option<(u32, u64)>, Error> {
        self.logs.newest(job, execution).await
    }

    async fn kept(&self) -> Result<std::ops::Range<Revision>, Error> {
        self.logs.kept().await
    }

    async fn follow(&self, job: JobId, after: Revision) -> Result<Followed, Error> {
        self.logs.follow(job, after).await
    }

    async fn last(&self, job: JobId) -> Result<Revision, Error> {
        self.logs.last(job).await
    }

    async fn delete(&self, job: JobId) -> Result<(), Error> {
        self.logs.delete(job).await
    }
}

struct Bench {
    broker: Arc<Broker>,
    store: Store,
    dir: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let store = memory::open(memory::MemoryOptions::default());
        let job = sample::query_any(source().job, Timestamp::now());
        store.ledger.create(&Definition::from(&job)).await.unwrap();
        let broker = Arc::new(Broker { logs: store.logs.clone(), is_away: AtomicBool::new(false), faults: Mutex::default() });
        Self { store: Store { logs: broker.clone(), ..store }, broker, dir: tempfile::tempdir().unwrap() }
    }

    fn spools(&self) -> Spools {
        Spools::new(self.dir.path().join("output"), self.store.clone())
    }

    fn is_away(&self, is_away: bool) {
        self.broker.is_away.store(is_away, Ordering::Relaxed);
    }

    async fn stored(&self) -> Vec<LogRecord> {
        let last = self.store.logs.last(source().job).await.unwrap();
        let mut stored = Vec::new();
        let mut follower = self.store.logs.follow(source().job, 0).await.unwrap();
        let mut place = 0;
        while place < last {
            let log = follower.next().await.unwrap().unwrap();
            place = log.place;
            stored.push(log.record);
        }
        stored
    }

    fn files(&self) -> Vec<PathBuf> {
        let dir = fs::read_dir(self.dir.path().join("output"));
        dir.map_or_else(|_| Vec::new(), |entries| entries.map(|entry| entry.unwrap().path()).collect())
    }
}

fn source() -> Source {
    Source { job: sample::job_id(1), execution: ExecutionId::Any, agent: sample::agent_id(1), attempt: 1 }
}

fn bytes_of(records: &[LogRecord], stream: LogStream) -> Vec<u8> {
    records.iter().filter(|record| record.stream == stream).flat_map(|record| record.bytes.clone()).collect()
}

/// As a kill leaves it: nothing is closed, nothing is sent any more.
async fn kill(spools: Spools, sink: Arc<Sink>) {
    spools.stop.cancel();
    spools.pumps.close();
    spools.pumps.wait().await;
    std::mem::forget(sink);
}

#[derive(Debug, Clone)]
enum Happening {
    Prints {
        stream: LogStream,
        bytes: Vec<u8>,
    },
    NextStep,
    Fault(Fault),
    Away(bool),
    Passes(u16),
    /// The agent is killed, and its successor reads everything again from the beginning.
    KilledAndAdopted,
}

fn happening() -> impl Strategy<Value = Happening> {
    let stream = prop_oneof![Just(LogStream::Stdout), Just(LogStream::Stderr), Just(LogStream::System)];
    let fault = prop_oneof![(0..5u8).prop_map(Fault::Stores), Just(Fault::StoresAllAndIsSilent), Just(Fault::None)];
    let bytes = prop_oneof![
        6 => prop::collection::vec(any::<u8>(), 0..200),
        1 => (any::<u8>(), 1..80_000usize).prop_map(|(byte, n)| vec![byte; n]),
    ];
    prop_oneof![
        12 => (stream, bytes).prop_map(|(stream, bytes)| Happening::Prints { stream, bytes }),
        1 => Just(Happening::NextStep),
        3 => fault.prop_map(Happening::Fault),
        2 => any::<bool>().prop_map(Happening::Away),
        3 => (0..700u16).prop_map(Happening::Passes),
        2 => Just(Happening::KilledAndAdopted),
    ]
}

async fn every_byte_arrives(happenings: Vec<Happening>) {
    let bench = Bench::new().await;
    let mut printed: Vec<(u32, LogStream, Vec<u8>)> = Vec::new();
    let mut step = 0;
    let mut spools = bench.spools();
    let (mut sink, mut sending) = spools.open(source());
    for happening in happenings {
        match happening {
            Happening::Prints { stream, bytes } => {
                sink.write(step, stream, &bytes);
                printed.push((step, stream, bytes));
            }
            Happening::NextStep => step += 1,
            Happening::Fault(fault) => bench.broker.faults.lock().unwrap().push(fault),
            Happening::Away(is_away) => bench.is_away(is_away),
            Happening::Passes(ms) => tokio::time::sleep(Duration::from_millis(ms.into())).await,
            Happening::KilledAndAdopted => {
                kill(spools, sink).await;
                spools = bench.spools();
                (sink, sending) = spools.open(source());
                printed.iter().for_each(|(step, stream, bytes)| sink.write(*step, *stream, bytes));
            }
        }
    }
    bench.is_away(false);
    drop(sink);
    sending.end().await;
    let stored = bench.stored().await;
    for of_step in 0..=step {
        for stream in [LogStream::Stdout, LogStream::Stderr, LogStream::System] {
            let records: Vec<_> = stored.iter().filter(|record| record.step == of_step).cloned().collect();
            let printed = printed.iter().filter(|(step, of, _)| (*step, *of) == (of_step, stream));
            let printed: Vec<u8> = printed.flat_map(|(.., bytes)| bytes.clone()).collect();
            assert!(bytes_of(&records, stream) == printed, "step {of_step} {stream:?} differs");
        }
    }
    let seqs: Vec<_> = stored.iter().map(|record| record.seq).collect();
    assert_eq!(seqs, (0..stored.len() as u64).collect::<Vec<_>>(), "in order, without a hole");
    assert!(stored.iter().all(|record| record.gap.is_none() && record.bytes.len() <= LOG_RECORD_BYTES_MAX));
    assert_eq!(bench.files(), [] as [&Path; 0]);
    assert_eq!(spools.bounds.waiting.load(Ordering::Relaxed), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn every_byte_arrives_in_order_and_once_whatever_happens(happenings in prop::collection::vec(happening(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(every_byte_arrives(happenings));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_at_the_bound_is_a_gap_of_that_size_and_the_rest_is_whole() {
    for closes_early in [false, true] {
        let bench = Bench::new().await;
        let mut spools = bench.spools();
        spools.bounds.bytes = 100_000;
        let (sink, sending) = spools.open(source());
        bench.is_away(true);
        let line = [b'x'; 1000];
        for _ in 0..500 {
            sink.write(0, LogStream::Stdout, &line);
        }
        if !closes_early {
            bench.is_away(false);
            tokio::time::sleep(PAUSE * 2).await;
            sink.write(0, LogStream::Stdout, b"the end");
        }
        drop(sink);
        bench.is_away(false);
        sending.end().await;
        let stored = bench.stored().await;
        let last = stored.last().unwrap();
        let gap = last.gap.unwrap();
        let kept = bytes_of(&stored, LogStream::Stdout).len() as u64 - if closes_early { 0 } else { 7 };
        assert_eq!(kept + gap.bytes.unwrap(), 500_000);
        assert!((90_000..=100_000).contains(&kept), "{kept}");
        assert_eq!(last.bytes, if closes_early { &b""[..] } else { b"the end" });
        let before = stored[stored.len() - 2].seq;
        assert_eq!(last.seq, before + 1 + gap.records.unwrap(), "the hole in the numbers has that size too");
        assert_eq!(stored.iter().filter(|record| record.gap.is_some()).count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn who_can_wait_for_room_loses_nothing_at_the_bound() {
    let bench = Bench::new().await;
    let mut spools = bench.spools();
    spools.bounds.bytes = 100_000;
    let (sink, sending) = spools.open(source());
    bench.is_away(true);
    let writing = async {
        for _ in 0..500 {
            sink.ready().await;
            sink.write(0, LogStream::Stdout, &[b'x'; 1000]);
        }
    };
    let outage = async {
        tokio::time::sleep(PAUSE * 10).await;
        let waiting = spools.bounds.waiting.load(Ordering::Relaxed);
        assert!((50_000..=100_000).contains(&waiting), "{waiting}");
        bench.is_away(false);
    };
    tokio::join!(writing, outage);
    drop(sink);
    sending.end().await;
    let stored = bench.stored().await;
    assert_eq!(bytes_of(&stored, LogStream::Stdout).len(), 500_000);
    assert!(stored.iter().all(|record| record.gap.is_none()));
}

#[tokio::test(start_paused = true)]
async fn the_output_of_a_killed_agent_is_sent_by_the_next_and_says_that_its_end_is_missing() {
    let bench = Bench::new().await;
    let spools = bench.spools();
    let (sink, _) = spools.open(source());
    bench.is_away(true);
    sink.write(0, LogStream::Stdout, b"\xffbefore ");
    sink.write(0, LogStream::Stdout, b"the kill");
    kill(spools, sink).await;
    // A kill in the middle of a write leaves half of it.
    let [path] = bench.files().try_into().unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 5).unwrap();

    bench.is_away(false);
    let next = bench.spools();
    next.send_left_behind(source().agent, |found| found == source()).await;
    assert_eq!(bench.stored().await, [], "that of an attempt which goes on is its own");
    for _ in 0..2 {
        bench.is_away(true);
        next.send_left_behind(source().agent, |_| false).await;
        bench.is_away(false);
    }
    next.close().await;
    let stored = bench.stored().await;
    assert_eq!(bytes_of(&stored, LogStream::Stdout), b"\xffbefore the");
    let last = stored.last().unwrap();
    assert_eq!(last.stream, LogStream::System);
    assert!(String::from_utf8_lossy(&last.bytes).contains("the agent ended while this ran"));
    assert_eq!(bench.files(), [] as [&Path; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_ends_while_the_broker_is_away_leaves_whole_output_to_the_next() {
    let bench = Bench::new().await;
    let spools = bench.spools();
    bench.is_away(true);
    let (sink, sending) = spools.open(source());
    sink.write(0, LogStream::Stdout, b"all of it");
    drop(sink);
    sending.end_or_stall().await;
    spools.close().await;
    bench.is_away(false);
    let next = bench.spools();
    next.send_left_behind(source().agent, |_| false).await;
    next.close().await;
    let stored = bench.stored().await;
    assert_eq!(stored.iter().map(|record| record.bytes.clone()).collect::<Vec<_>>(), [b"all of it"]);
}

#[tokio::test(start_paused = true)]
async fn output_of_a_job_that_was_deleted_is_dropped_and_strange_files_are_left_alone() {
    let bench = Bench::new().await;
    let spools = bench.spools();
    bench.is_away(true);
    let (sink, _) = spools.open(source());
    sink.write(0, LogStream::Stdout, b"unwanted");
    kill(spools, sink).await;
    bench.is_away(false);
    bench.store.ledger.delete(source().job).await.unwrap();
    fs::write(bench.dir.path().join("output/a.b.c"), "somebody's").unwrap();
    fs::write(bench.dir.path().join("output").join(format!("{}.any.2", source().job)), [0; 300]).unwrap();
    let next = bench.spools();
    next.send_left_behind(source().agent, |_| false).await;
    next.close().await;
    assert_eq!(bench.stored().await, []);
    assert_eq!(bench.files(), [bench.dir.path().join("output/a.b.c")]);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_prints_for_days_has_a_small_file() {
    let bench = Bench::new().await;
    let spools = bench.spools();
    let (sink, sending) = spools.open(source());
    let piece = [b'x'; LOG_RECORD_BYTES_MAX];
    let (mut largest, n_pieces) = (0, 1000);
    for n in 0..n_pieces {
        sink.write(0, LogStream::Stdout, &piece);
        if n % 7 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            largest = largest.max(bench.files().iter().map(|path| fs::metadata(path).unwrap().blocks() * 512).sum());
        }
    }
    drop(sink);
    sending.end().await;
    assert!(largest < 4 << 20, "{largest} bytes on disk");
    assert_eq!(bytes_of(&bench.stored().await, LogStream::Stdout).len(), n_pieces * piece.len());
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_stops_nobody_and_is_a_gap_only_while_the_broker_is_away() {
    let disk = match Disk::mount("1m") {
        Ok(disk) => disk,
        Err(why) => return println!("not tested: {why}"),
    };
    for is_away in [false, true] {
        let bench = Bench::new().await;
        let dir = disk.path().join("output");
        let spools = Spools::new(dir, bench.store.clone());
        let (sink, sending) = spools.open(source());
        sink.write(0, LogStream::Stdout, b"begin ");
        disk.fill();
        bench.is_away(is_away);
        let piece = [b'x'; 10_000];
        for _ in 0..300 {
            sink.write(0, LogStream::Stdout, &piece);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        disk.make_room();
        bench.is_away(false);
        tokio::time::sleep(PAUSE * 2).await;
        sink.write(0, LogStream::Stdout, b" end");
        drop(sink);
        sending.end().await;
        let stored = bench.stored().await;
        let missing: u64 = stored.iter().filter_map(|record| record.gap?.bytes).sum();
        let there = bytes_of(&stored, LogStream::Stdout);
        assert_eq!(there.len() as u64 + missing, 3_000_010);
        assert!(there.starts_with(b"begin x") && there.ends_with(b" end"));
        assert_eq!(missing > 0, is_away, "{missing}");
    }
}
