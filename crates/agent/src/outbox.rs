//! Answers on their way to the ledger. A result that is too large for a record is first put into a file, then into the object store, and
//! its answer says where it is.
//!
//! The order is what survives a kill anywhere: file, journal, object, answer, and only then the file goes. An answer in the journal without
//! its file means that the ledger had it already, or that the file is lost; the object store tells which.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use longshore_model::limits::{RESULT_BYTES_MAX, RESULT_INLINE_BYTES_MAX};
use longshore_model::unit::ByteSize;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Answer, Failure, Outcome, ResultObject};
use longshore_store::{Answered, Error, Store, result_name};
use sha2::{Digest, Sha256};

/// Where answers leave. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Outbox {
    store: Store,
    dir: PathBuf,
}

impl Outbox {
    /// `dir` is made when something is put there.
    pub(crate) fn new(store: Store, dir: PathBuf) -> Self {
        Self { store, dir }
    }

    /// Takes a result that is too large out of its answer and into a file.
    pub(crate) async fn pack(&self, mut answer: Answer) -> Answer {
        let inline_max = RESULT_INLINE_BYTES_MAX.min(self.store.broker.record_bytes_max() / 2);
        if answer.result.as_ref().is_none_or(|result| bytes_at_most(result) <= inline_max) {
            return answer;
        }
        let result = answer.result.take();
        let (dir, path) = (self.dir.clone(), self.path(&answer));
        let packing = move || {
            let packed = Spill::new(dir, path, inline_max).pack(&result);
            (result, packed)
        };
        // Encoding many megabytes takes a moment, and so does their disk; what is small stays here.
        let (result, packed) = tokio::task::spawn_blocking(packing).await.unwrap_or_else(|fault| (None, Err(io::Error::other(fault))));
        match packed {
            Ok(None) => answer.result = result,
            Ok(Some(object)) => answer.result_object = Some(object),
            Err(fault) if fault.kind() == io::ErrorKind::FileTooLarge => {
                let message =
                    format!("its result has more than the {} that a result may have; its output is in the log", ByteSize(RESULT_BYTES_MAX));
                answer = without_result(answer, ErrorCode::TooLarge, message);
            }
            Err(fault) => {
                let message = format!(
                    "it was done, but its result could not be kept on the host until it is stored: {fault}; its output is in the log"
                );
                answer = without_result(answer, ErrorCode::HostFault, message);
            }
        }
        answer
    }

    /// Stores an answer, and its result before it. Safe to repeat, also by another process.
    ///
    /// # Errors
    /// Those of the stores: the answer is still to be stored. Its file stays.
    pub(crate) async fn deliver(&self, answer: &Answer) -> Result<Answered, Error> {
        let Some(object) = &answer.result_object else { return self.store.ledger.answer(answer).await };
        let answered = match self.upload(answer, object).await? {
            Ok(()) => self.store.ledger.answer(answer).await?,
            Err(fault) => {
                tracing::error!(job.id = %answer.job, fault, "a result is lost before it was stored");
                let message = format!("it was done, but its result of {} bytes is lost: {fault}; its output is in the log", object.bytes);
                self.store.ledger.answer(&without_result(answer.clone(), ErrorCode::HostFault, message)).await?
            }
        };
        self.drop_unneeded(answer).await?;
        if let Err(error) = fs::remove_file(self.path(answer))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, job.id = %answer.job, "a stored result's file stays until the next start");
        }
        Ok(answered)
    }

    /// Puts the result where the answer says it is. The inner error is for good.
    async fn upload(&self, answer: &Answer, object: &ResultObject) -> Result<Result<(), &'static str>, Error> {
        let objects = &self.store.objects;
        let name = result_name(answer.job, answer.execution, answer.attempts);
        if objects.info(&name).await?.is_some_and(|stored| stored.sha256 == object.sha256) {
            return Ok(Ok(()));
        }
        let Ok(file) = tokio::fs::File::open(self.path(answer)).await else { return Ok(Err("its file is gone")) };
        let stored = objects.put(&name, Box::pin(file)).await?;
        if stored.sha256 == object.sha256 {
            return Ok(Ok(()));
        }
        objects.delete(&name).await?;
        Ok(Err("its file is damaged"))
    }

    /// Removes the object if no answer leads to it: another answer was first, or the job was deleted meanwhile.
    async fn drop_unneeded(&self, answer: &Answer) -> Result<(), Error> {
        let (job, execution) = (answer.job, answer.execution);
        let stored = self.store.ledger.load_execution(job, execution).await?.and_then(|record| record.answer);
        let leads_to_it = stored.is_some_and(|stored| stored.result_object.is_some() && stored.attempts == answer.attempts);
        if leads_to_it { Ok(()) } else { self.store.objects.delete(&result_name(job, execution, answer.attempts)).await }
    }

    /// Removes files that belong to no answer that is still owed.
    pub(crate) fn sweep<'a>(&self, owed: impl Iterator<Item = &'a Answer>) {
        let kept: Vec<PathBuf> = owed.filter(|answer| answer.result_object.is_some()).map(|answer| self.path(answer)).collect();
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| !kept.contains(path)) {
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(%error, path = %path.display(), "a file of an earlier process could not be removed");
            }
        }
    }

    fn path(&self, answer: &Answer) -> PathBuf {
        self.dir.join(format!("{}.{}.{}", answer.job, answer.execution, answer.attempts))
    }
}

/// No less than the JSON of a value has.
fn bytes_at_most(value: &serde_json::Value) -> usize {
    use serde_json::Value;
    // Six bytes for one that needs an escape; brackets, quotes, a comma and a colon.
    let text = |text: &str| 6 * text.len() + 8;
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 32,
        Value::String(content) => text(content),
        Value::Array(items) => 8 + items.iter().map(bytes_at_most).sum::<usize>(),
        Value::Object(fields) => 8 + fields.iter().map(|(name, field)| text(name) + bytes_at_most(field)).sum::<usize>(),
    }
}

fn without_result(answer: Answer, code: ErrorCode, message: String) -> Answer {
    Answer { result: None, result_object: None, outcome: Outcome::Failed, error: Some(Failure { code, message }), ..answer }
}

/// Takes a result as JSON: the first bytes into memory, and from a bound on all of it into a file.
struct Spill {
    dir: PathBuf,
    path: PathBuf,
    inline_max: usize,
    start: Vec<u8>,
    file: Option<File>,
    sha256: Sha256,
    bytes: u64,
}

impl Spill {
    fn new(dir: PathBuf, path: PathBuf, inline_max: usize) -> Self {
        Self { dir, path, inline_max, start: Vec::new(), file: None, sha256: Sha256::new(), bytes: 0 }
    }

    /// `None` if it fits. Leaves no file behind where it fails.
    fn pack(mut self, result: &impl serde::Serialize) -> io::Result<Option<ResultObject>> {
        let mut writer = io::BufWriter::with_capacity(128 << 10, &mut self);
        let written = serde_json::to_writer(&mut writer, result).map_err(io::Error::from).and_then(|()| writer.flush());
        // What it still holds after a fault is of no use to anybody.
        let _ = writer.into_parts();
        if let Err(fault) = written {
            let _ = fs::remove_file(&self.path);
            return Err(fault);
        }
        let Self { file, sha256, bytes, .. } = self;
        Ok(file.map(|_| ResultObject { bytes, sha256: HEXLOWER.encode(&sha256.finalize()) }))
    }

    fn open(dir: &Path, path: &Path) -> io::Result<File> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)
    }
}

impl Write for Spill {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len() as u64;
        if self.bytes > RESULT_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if self.file.is_none() && self.start.len() + bytes.len() <= self.inline_max {
            self.start.extend_from_slice(bytes);
            return Ok(bytes.len());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none @ None => {
                let mut file = Self::open(&self.dir, &self.path)?;
                file.write_all(&self.start)?;
                self.sha256.update(&self.start);
                self.start = Vec::new();
                none.insert(file)
            }
        };
        self.sha256.update(bytes);
        file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use longshore_model::wire::record::Definition;
    use longshore_model::{ExecutionId, JobId};
    use longshore_store::{ObjectInfo, memory};
    use serde_json::{Value, json};

    use super::*;

    const JOB: JobId = JobId::from_bits(7);

    struct Bench {
        outbox: Outbox,
        dir: tempfile::TempDir,
    }

    impl Bench {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = memory::open(memory::MemoryOptions::default());
            let now = Timestamp::now();
            let job = longshore_testkit::sample::query_any(JOB, now);
            store.ledger.create(&Definition::from(&job)).await.unwrap();
            Self { outbox: Outbox::new(store, dir.path().join("answers")), dir }
        }

        async fn object(&self, attempt: u32) -> Option<ObjectInfo> {
            self.outbox.store.objects.info(&result_name(JOB, ExecutionId::Any, attempt)).await.unwrap()
        }

        async fn answer(&self) -> Answer {
            self.outbox.store.ledger.load_answer(JOB, ExecutionId::Any).await.unwrap().unwrap()
        }

        fn files(&self) -> usize {
            fs::read_dir(self.dir.path().join("answers")).map_or(0, Iterator::count)
        }
    }

    fn answer(attempts: u32, result: Value) -> Answer {
        Answer { result: Some(result), ..Answer::new(JOB, ExecutionId::Any, Outcome::Completed, attempts, Timestamp::now()) }
    }

    fn large(text: char) -> Value {
        json!({ "stdout": text.to_string().repeat(RESULT_INLINE_BYTES_MAX) })
    }

    #[tokio::test]
    async fn what_fits_a_record_stays_in_its_answer() {
        let bench = Bench::new().await;
        let edge = RESULT_INLINE_BYTES_MAX - json!({ "stdout": "" }).to_string().len();
        for (bytes, is_large) in [(0, false), (edge, false), (edge + 1, true)] {
            let result = json!({ "stdout": "x".repeat(bytes) });
            let packed = bench.outbox.pack(answer(1, result.clone())).await;
            assert_eq!(
                (packed.result.is_none(), packed.result_object.is_some(), bench.files()),
                (is_large, is_large, usize::from(is_large))
            );
            if let Some(object) = packed.result_object {
                assert_eq!(object.bytes, result.to_string().len() as u64);
            }
        }
    }

    #[tokio::test]
    async fn of_two_answers_one_is_stored_with_its_result_and_nothing_is_left_of_the_other() {
        let bench = Bench::new().await;
        let (first, second) = (bench.outbox.pack(answer(1, large('a'))).await, bench.outbox.pack(answer(2, large('b'))).await);
        let delivered = tokio::join!(bench.outbox.deliver(&second), bench.outbox.deliver(&first));
        let (second_is, first_is) = (delivered.0.unwrap(), delivered.1.unwrap());
        assert_ne!(first_is, second_is);
        let stored = bench.answer().await;
        assert_eq!(stored, if first_is == Answered::Stored { first } else { second });
        for attempt in [1, 2] {
            assert_eq!(bench.object(attempt).await.is_some(), attempt == stored.attempts);
        }
        assert_eq!(bench.files(), 0);
    }

    #[tokio::test]
    async fn a_delivery_may_be_repeated_from_anywhere() {
        let bench = Bench::new().await;
        let packed = bench.outbox.pack(answer(1, large('a'))).await;
        let object = packed.result_object.clone().unwrap();
        // Killed after the object, and again after the answer, when the file is gone already.
        assert_eq!(bench.outbox.upload(&packed, &object).await.unwrap(), Ok(()));
        for _ in 0..3 {
            assert_eq!(bench.outbox.deliver(&packed).await.unwrap(), Answered::Stored);
            assert_eq!(bench.answer().await, packed);
            assert_eq!(bench.object(1).await.unwrap().sha256, object.sha256);
        }
    }

    #[tokio::test]
    async fn a_result_whose_file_is_lost_or_damaged_is_said_to_be_lost_and_the_work_counts_as_done() {
        for content in [None, Some("something else")] {
            let bench = Bench::new().await;
            let packed = bench.outbox.pack(answer(1, large('a'))).await;
            let path = bench.outbox.path(&packed);
            match content {
                None => fs::remove_file(&path).unwrap(),
                Some(content) => fs::write(&path, content).unwrap(),
            }
            assert_eq!(bench.outbox.deliver(&packed).await.unwrap(), Answered::Stored);
            let stored = bench.answer().await;
            assert_eq!((stored.outcome, stored.result_object), (Outcome::Failed, None));
            assert!(stored.error.unwrap().message.starts_with("it was done, but its result of "));
            assert_eq!((bench.object(1).await, bench.files()), (None, 0));
        }
    }

    #[tokio::test]
    async fn a_result_that_comes_after_its_job_was_deleted_leaves_nothing() {
        let bench = Bench::new().await;
        let packed = bench.outbox.pack(answer(1, large('a'))).await;
        bench.outbox.store.ledger.delete(JOB).await.unwrap();
        bench.outbox.deliver(&packed).await.unwrap();
        assert_eq!((bench.object(1).await, bench.files()), (None, 0));
    }

    #[tokio::test]
    async fn files_that_nobody_owes_are_swept() {
        let bench = Bench::new().await;
        let kept = bench.outbox.pack(answer(1, large('a'))).await;
        bench.outbox.pack(answer(2, large('b'))).await;
        bench.outbox.sweep([&kept].into_iter());
        assert_eq!(bench.files(), 1);
        assert!(bench.outbox.path(&kept).exists());
    }

    #[tokio::test]
    async fn a_result_beyond_all_bounds_is_refused_and_leaves_no_file() {
        let bench = Bench::new().await;
        let text = "x".repeat(usize::try_from(RESULT_BYTES_MAX).unwrap());
        let packed = bench.outbox.pack(answer(1, Value::String(text))).await;
        assert_eq!((packed.outcome, packed.error.unwrap().code), (Outcome::Failed, ErrorCode::TooLarge));
        assert_eq!(bench.files(), 0);
    }
}
