//! Live output: in order, once, from any place on.

use longshore_model::ExecutionId;
use longshore_model::limits::LOG_RECORD_BYTES_MAX;
use longshore_model::wire::log::{LogGap, LogRecord, LogStream};
use longshore_store::{Store, StoredLog};

use crate::harness::{A_WHILE, next, nothing_comes};
use crate::sample::{agent_id, job_id, then};

conformance!(GENEROUS:
    records_are_read_as_they_were_written,
    records_are_read_live,
    a_repeated_record_is_stored_once,
    what_is_missing_before_a_record_is_kept_with_it,
    the_newest_record_of_an_execution_is_known,
    a_reader_goes_on_after_a_place,
    one_jobs_output_is_not_anothers,
    deleted_output_is_gone,
);

async fn records_are_read_as_they_were_written(store: Store) {
    let stderr = LogRecord { stream: LogStream::Stderr, step: 3, bytes: (0..=255).collect(), ..record(1, 1) };
    let system = LogRecord { stream: LogStream::System, bytes: Vec::new(), ..record(1, 2) };
    let largest = LogRecord { bytes: vec![b'x'; LOG_RECORD_BYTES_MAX], execution: ExecutionId::Agent(agent_id(1)), ..record(1, 3) };
    let written = [record(1, 0), stderr, system, largest];
    store.logs.append(&written).await.unwrap();
    assert_eq!(records(&read(&store, 1, 0, written.len()).await), written);
}

async fn records_are_read_live(store: Store) {
    let mut follower = store.logs.follow(job_id(1), 0).await.unwrap();
    let mut newest = 0;
    for seq in 0..5 {
        store.logs.append(&[record(1, 2 * seq), record(1, 2 * seq + 1)]).await.unwrap();
        for seq in [2 * seq, 2 * seq + 1] {
            let stored = next(&mut follower).await.unwrap();
            assert_eq!(stored.record, record(1, seq));
            assert!(stored.place > newest);
            newest = stored.place;
        }
        assert_eq!(store.logs.last(job_id(1)).await.unwrap(), newest);
    }
}

async fn a_repeated_record_is_stored_once(store: Store) {
    let batch: Vec<_> = (0..10).map(|seq| record(1, seq)).collect();
    store.logs.append(&batch[..6]).await.unwrap();
    store.logs.append(&batch[..6]).await.unwrap();
    store.logs.append(&batch[4..]).await.unwrap();
    // Not a repeat: another attempt, another execution.
    let others =
        [LogRecord { attempt: 2, ..record(1, 0) }, LogRecord { execution: ExecutionId::Agent(agent_id(1)), ..record(1, 0) }, record(2, 0)];
    store.logs.append(&others).await.unwrap();
    let stored = records(&read(&store, 1, 0, 12).await);
    assert_eq!(stored[..10], batch);
    assert_eq!(stored[10..], others[..2]);
}

async fn what_is_missing_before_a_record_is_kept_with_it(store: Store) {
    let gap = |records, bytes| Some(LogGap { records, bytes });
    let written =
        [record(1, 0), LogRecord { gap: gap(Some(3), Some(700)), ..record(1, 4) }, LogRecord { gap: gap(Some(1), None), ..record(1, 6) }];
    store.logs.append(&written).await.unwrap();
    assert_eq!(records(&read(&store, 1, 0, 3).await), written);
}

async fn the_newest_record_of_an_execution_is_known(store: Store) {
    let other = ExecutionId::Agent(agent_id(1));
    assert_eq!(store.logs.newest(job_id(1), other).await.unwrap(), None);
    let batch: Vec<_> = (0..200).map(|seq| record(1, seq)).collect();
    store.logs.append(&batch).await.unwrap();
    store.logs.append(&[LogRecord { execution: other, attempt: 3, ..record(1, 7) }, record(2, 0)]).await.unwrap();
    assert_eq!(store.logs.newest(job_id(1), ExecutionId::Any).await.unwrap(), Some((1, 199)));
    assert_eq!(store.logs.newest(job_id(1), other).await.unwrap(), Some((3, 7)));
    let kept = store.logs.kept().await.unwrap();
    assert!(kept.start <= 1);
    let last = store.logs.last(job_id(2)).await.unwrap();
    assert_eq!(kept.end, last + 1, "the newest record of all");
}

async fn a_reader_goes_on_after_a_place(store: Store) {
    let batch: Vec<_> = (0..6).map(|seq| record(1, seq)).collect();
    store.logs.append(&batch).await.unwrap();
    let stored = read(&store, 1, 0, 6).await;
    for (told, one) in stored.iter().enumerate() {
        assert_eq!(read(&store, 1, one.place, 5 - told).await, stored[told + 1..]);
    }
    let mut follower = store.logs.follow(job_id(1), stored[5].place).await.unwrap();
    store.logs.append(&[record(1, 6)]).await.unwrap();
    assert_eq!(next(&mut follower).await.unwrap().record, record(1, 6));
}

async fn one_jobs_output_is_not_anothers(store: Store) {
    store.logs.append(&[record(1, 0), record(2, 0), record(1, 1), record(2, 1)]).await.unwrap();
    for job in [1, 2] {
        let stored = read(&store, job, 0, 2).await;
        assert_eq!(records(&stored), [record(job, 0), record(job, 1)]);
        assert_eq!(store.logs.last(job_id(job)).await.unwrap(), stored[1].place);
    }
    assert_eq!(store.logs.last(job_id(3)).await.unwrap(), 0);
    read(&store, 3, 0, 0).await;
}

async fn deleted_output_is_gone(store: Store) {
    store.logs.append(&[record(1, 0), record(2, 0), record(1, 1)]).await.unwrap();
    for _ in 0..2 {
        store.logs.delete(job_id(1)).await.unwrap();
        assert_eq!(store.logs.last(job_id(1)).await.unwrap(), 0);
    }
    read(&store, 1, 0, 0).await;
    assert_eq!(records(&read(&store, 2, 0, 1).await), [record(2, 0)]);
}

pub(crate) fn record(job: u64, seq: u64) -> LogRecord {
    LogRecord {
        job: job_id(job),
        execution: ExecutionId::Any,
        agent: agent_id(1),
        attempt: 1,
        step: 0,
        seq,
        time: then(),
        stream: LogStream::Stdout,
        gap: None,
        bytes: format!("line {seq}\n").into_bytes(),
    }
}

fn records(stored: &[StoredLog]) -> Vec<LogRecord> {
    stored.iter().map(|one| one.record.clone()).collect()
}

/// So many records after a place, of which nothing follows.
async fn read(store: &Store, job: u64, after: u64, n_records: usize) -> Vec<StoredLog> {
    let mut follower = store.logs.follow(job_id(job), after).await.unwrap();
    let mut read = Vec::new();
    for _ in 0..n_records {
        read.push(next(&mut follower).await.unwrap());
    }
    assert!(nothing_comes(&mut follower, A_WHILE).await, "more than {n_records}");
    read
}
