//! From a finished call to the audit trail: a bounded queue that nobody waits for, and one writer that waits for the broker.
//!
//! The first record after a pause is written at once; what follows it closely is written together.
//! The records of one writer are a chain, so that what is altered or removed in the trail is found (`longshore_model::chain`).
//! What finds no room is counted, and the next record that does says how many there were: a gap in the trail is never silent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use longshore_model::chain::ChainEnd;
use longshore_model::limits::AUDIT_RECORDS_WAITING_MAX;
use longshore_model::wire::audit::AuditRecord;
use longshore_store::Error as StoreError;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::app::{App, chain};

/// Records that are under way to the broker at once.
const BATCH: usize = 256;
/// From one batch to the next: each is a write that the broker syncs.
const BATCH_EVERY: Duration = Duration::from_millis(5);
/// How long one try of a batch may take.
const TRY_WITHIN: Duration = Duration::from_secs(10);
/// Between tries: the first wait, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Between lines in the log about records that were given up.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Where finished calls put their records.
pub(crate) struct Recorder {
    queue: mpsc::Sender<AuditRecord>,
    /// The other end, until the writer takes it.
    waiting: Mutex<Option<mpsc::Receiver<AuditRecord>>>,
    /// Given up, and not yet told by a record.
    n_dropped: AtomicU64,
    /// Given up since the controller runs.
    n_given_up: AtomicU64,
    complained_at: Mutex<Option<Instant>>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self::with_room(AUDIT_RECORDS_WAITING_MAX)
    }
}

impl Recorder {
    fn with_room(n_records: usize) -> Self {
        let (queue, waiting) = mpsc::channel(n_records);
        Self {
            queue,
            waiting: Mutex::new(Some(waiting)),
            n_dropped: AtomicU64::new(0),
            n_given_up: AtomicU64::new(0),
            complained_at: Mutex::default(),
        }
    }

    /// Puts a record in the queue, or counts it. Never waits.
    pub(crate) fn record(&self, mut record: AuditRecord) {
        record.dropped_before = self.n_dropped.swap(0, Ordering::Relaxed);
        if let Err(refused) = self.queue.try_send(record) {
            self.give_up(refused.into_inner().dropped_before + 1, "the queue is full, or the controller ends");
        }
    }

    pub(crate) fn n_given_up(&self) -> u64 {
        self.n_given_up.load(Ordering::Relaxed)
    }

    fn give_up(&self, n_records: u64, why: &str) {
        self.n_given_up.fetch_add(n_records, Ordering::Relaxed);
        let n_dropped = self.n_dropped.fetch_add(n_records, Ordering::Relaxed) + n_records;
        let mut complained_at = self.complained_at.lock().unwrap_or_else(PoisonError::into_inner);
        if complained_at.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            *complained_at = Some(Instant::now());
            tracing::error!(n_dropped, why, "audit records were given up");
        }
    }
}

/// Writes what is recorded, until `closing` is set and everything that waited then is written.
pub(crate) async fn write(app: App, closing: CancellationToken) {
    let taken = app.audit.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut waiting) = taken else { return };
    let new_chain = || ChainEnd::new(uuid::Uuid::now_v7().to_string());
    let mut chain = new_chain();
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let n_records = tokio::select! {
            biased;
            () = closing.cancelled(), if !waiting.is_closed() => {
                waiting.close();
                continue;
            }
            n_records = waiting.recv_many(&mut batch, BATCH) => n_records,
        };
        if n_records == 0 {
            return;
        }
        batch.iter_mut().for_each(|record| chain.add(record));
        if !store(&app, &batch).await {
            // Some of them may be stored. The next record says how many were given up, and numbers are never given twice.
            chain = new_chain();
        }
        batch.clear();
        tokio::select! {
            () = closing.cancelled() => {}
            () = tokio::time::sleep(BATCH_EVERY) => {}
        }
    }
}

/// Tries until the batch is stored, or can never be; says which.
async fn store(app: &App, batch: &[AuditRecord]) -> bool {
    let mut pause = PAUSE_MIN;
    loop {
        let tried = tokio::time::timeout(TRY_WITHIN, app.store.audit.append(batch)).await;
        let error = match tried {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error,
            Err(_) => StoreError::Unavailable { doing: "storing audit records", source: None },
        };
        if !error.is_retryable() {
            let n_records = batch.iter().map(|record| record.dropped_before + 1).sum();
            tracing::error!(error = %chain(&error), n_records, "audit records cannot be stored");
            app.audit.give_up(n_records, "they cannot be stored");
            return false;
        }
        tracing::debug!(error = %chain(&error), "audit records wait for the broker");
        // Of several controllers that wait for the same broker each comes at another time.
        let jitter = pause.mul_f64(f64::from(app.now().subsec_nanosecond().unsigned_abs() % 1000) / 2000.0);
        tokio::time::sleep(pause + jitter).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use async_trait::async_trait;

    use longshore_store::{Audit, AuditPage, Revision, Store, memory};
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::{Config, SigningKey};

    /// Fails until it is let, and keeps nothing meanwhile.
    struct Away {
        inner: Arc<dyn Audit>,
        is_back: AtomicBool,
    }

    #[async_trait]
    impl Audit for Away {
        async fn append(&self, records: &[AuditRecord]) -> Result<(), StoreError> {
            if self.is_back.load(Ordering::Relaxed) {
                return self.inner.append(records).await;
            }
            Err(StoreError::Unavailable { doing: "a test", source: None })
        }

        async fn before(&self, place: Option<Revision>, limit: usize) -> Result<AuditPage, StoreError> {
            self.inner.before(place, limit).await
        }

        async fn after(&self, place: Revision, limit: usize) -> Result<AuditPage, StoreError> {
            self.inner.after(place, limit).await
        }
    }

    fn record(n: usize) -> AuditRecord {
        AuditRecord { status: Some(200), ..AuditRecord::new(n.to_string(), jiff::Timestamp::UNIX_EPOCH, "POST".to_owned(), "/".to_owned()) }
    }

    #[tokio::test(start_paused = true)]
    async fn records_wait_for_the_broker_and_those_that_find_no_room_are_counted() {
        let sound = memory::open(memory::MemoryOptions::default());
        let away = Arc::new(Away { inner: Arc::clone(&sound.audit), is_back: AtomicBool::new(false) });
        let app = App::new(Config::new(SigningKey::new(Vec::new())), Store { audit: Arc::clone(&away) as Arc<dyn Audit>, ..sound.clone() });
        let n_sent = AUDIT_RECORDS_WAITING_MAX + 7;
        (0..n_sent).for_each(|n| app.audit.record(record(n)));
        let closing = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "the handle owns the task")]
        let mut writer = AbortOnDropHandle::new(tokio::spawn(write(app.clone(), closing.clone())));
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(sound.audit.after(0, n_sent).await.unwrap().items, []);

        away.is_back.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(60)).await;
        app.audit.record(record(n_sent));
        app.audit.record(record(n_sent + 1));
        // What waits when the end is near is written before it.
        closing.cancel();
        (&mut writer).await.unwrap();
        let stored: Vec<AuditRecord> = sound.audit.after(0, n_sent).await.unwrap().items.into_iter().map(|item| item.record).collect();
        assert_eq!(stored.len(), AUDIT_RECORDS_WAITING_MAX + 2);
        let gaps: Vec<_> =
            stored.iter().filter(|record| record.dropped_before > 0).map(|record| (&*record.id, record.dropped_before)).collect();
        assert_eq!(gaps, [(&*n_sent.to_string(), 7)]);
        assert_eq!(stored.last().unwrap().id, (n_sent + 1).to_string());
    }
}
