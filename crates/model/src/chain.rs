//! The chain through the audit records of one writer, by which a record that was altered, removed or put in later is found.
//!
//! Each record carries a digest over itself and over the digest of the one before it. Nothing here is secret: who can write the whole
//! trail can write another one that fits together. It no longer fits with a copy that was exported before, so keep one elsewhere. What a
//! chain alone cannot show is the loss of its beginning or its end, of a whole chain, and a record in none.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use crate::wire::audit::{AuditLink, AuditRecord};

/// Records that may come before the one that they follow: those of one batch change places. And records that are known when they come
/// again: a write whose end was not heard of is repeated.
const NEAR_MAX: usize = 4096;
/// The same for all writers together: few write at the same time, but a long trail has those of many starts, and a forged one any number.
const NEAR_ALL_MAX: usize = 16 * NEAR_MAX;

/// The end of the chain of one writer, which is one run of one controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainEnd {
    writer: String,
    number: u64,
    digest: String,
}

impl ChainEnd {
    /// The chain of a new writer, without records.
    #[must_use]
    pub fn new(writer: impl Into<String>) -> Self {
        Self { writer: writer.into(), number: 0, digest: String::new() }
    }

    /// Puts a record at the end.
    pub fn add(&mut self, record: &mut AuditRecord) {
        self.number += 1;
        record.link = Some(AuditLink { writer: self.writer.clone(), number: self.number, digest: String::new() });
        self.digest = digest(&self.digest, record);
        if let Some(link) = &mut record.link {
            link.digest.clone_from(&self.digest);
        }
    }
}

/// Of a record whose own digest is empty, and of the digest before it.
fn digest(before: &str, record: &AuditRecord) -> String {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(serde_json::to_vec(record).expect("a record has string keys only"));
    HEXLOWER.encode(&hash.finalize())
}

/// Where the chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    /// A record or the one before it is not as it was written.
    #[error("record {id} (number {number} of {writer}) or the one before it was altered")]
    Altered {
        /// The record's id.
        id: String,
        /// Whose record it is.
        writer: String,
        /// Which of its records.
        number: u64,
    },
    /// Records are not there.
    #[error("{missing} records of {writer} are missing before its number {number}")]
    Missing {
        /// Whose records they are.
        writer: String,
        /// The first that is there again.
        number: u64,
        /// How many are not.
        missing: u64,
    },
    /// The same number comes again, with something else.
    #[error("record {id} was put in: number {number} of {writer} was there already")]
    Again {
        /// The record's id.
        id: String,
        /// Whose number it has.
        writer: String,
        /// The number.
        number: u64,
    },
}

/// Reads a trail, oldest record first, and finds where it is broken.
#[derive(Debug, Default)]
pub struct Verifier {
    writers: BTreeMap<Arc<str>, Chain>,
    /// Records that came before the one that they follow, of all writers.
    n_early: usize,
    /// The latest that were taken.
    known: Known,
    n_records: u64,
    n_without: u64,
}

#[derive(Debug, Default)]
struct Chain {
    begins_late: bool,
    end: Option<(u64, String)>,
    early: BTreeMap<u64, AuditRecord>,
}

/// Digests of the latest records that were taken, by which a repeat of a write is told from what was put in.
#[derive(Debug, Default)]
struct Known {
    digests: BTreeMap<(Arc<str>, u64), String>,
    order: VecDeque<(Arc<str>, u64)>,
}

impl Verifier {
    /// Takes the next record, and gives what it shows to be wrong.
    pub fn take(&mut self, record: AuditRecord) -> Vec<Break> {
        self.n_records += 1;
        let Some(AuditLink { writer, number, digest }) = record.link.clone() else {
            self.n_without += 1;
            return Vec::new();
        };
        let writer: Arc<str> = writer.into();
        let chain = self.writers.entry(Arc::clone(&writer)).or_default();
        let early = chain.early.get(&number).and_then(|early| early.link.as_ref()).map(|link| &link.digest);
        if early.is_some() || chain.end.as_ref().is_some_and(|(end, _)| number <= *end) {
            let is_repeat = early.or(self.known.digests.get(&(Arc::clone(&writer), number))) == Some(&digest);
            return if is_repeat { Vec::new() } else { vec![Break::Again { id: record.id, writer: writer.to_string(), number }] };
        }
        let n_early_others = self.n_early - chain.early.len();
        chain.early.insert(number, record);
        let mut breaks = chain.follow(&writer, &mut self.known);
        if chain.early.len() > NEAR_MAX || n_early_others + chain.early.len() > NEAR_ALL_MAX {
            breaks.extend(chain.leap(&writer, &mut self.known));
        }
        self.n_early = n_early_others + chain.early.len();
        breaks
    }

    /// There are no more records: gives what was still waited for.
    pub fn finish(&mut self) -> Vec<Break> {
        let mut breaks = Vec::new();
        for (writer, chain) in &mut self.writers {
            while !chain.early.is_empty() {
                breaks.extend(chain.leap(writer, &mut self.known));
            }
        }
        self.n_early = 0;
        breaks
    }

    /// Records that were read.
    #[must_use]
    pub fn n_records(&self) -> u64 {
        self.n_records
    }

    /// How many of them have no place in a chain: they are of agents, or of an earlier version.
    #[must_use]
    pub fn n_without(&self) -> u64 {
        self.n_without
    }

    /// Writers whose first records are not there, as far as is known before [`Verifier::finish`]: by their age, most likely.
    #[must_use]
    pub fn n_begin_late(&self) -> usize {
        self.writers.values().filter(|chain| chain.begins_late).count()
    }

    /// Writers that were seen.
    #[must_use]
    pub fn n_writers(&self) -> usize {
        self.writers.len()
    }
}

impl Known {
    fn add(&mut self, writer: &Arc<str>, number: u64, digest: String) {
        let key = (Arc::clone(writer), number);
        self.digests.insert(key.clone(), digest);
        self.order.push_back(key);
        if self.order.len() > NEAR_ALL_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.digests.remove(&oldest);
        }
    }
}

impl Chain {
    /// Goes on as far as numbers follow each other.
    fn follow(&mut self, writer: &Arc<str>, known: &mut Known) -> Vec<Break> {
        let mut breaks = Vec::new();
        loop {
            let (end, before) = match &self.end {
                Some((end, digest)) => (*end, digest.as_str()),
                None => (0, ""),
            };
            // No number follows the highest: only somebody who makes records up writes it.
            let Some(number) = end.checked_add(1) else { return breaks };
            let Some(mut record) = self.early.remove(&number) else { return breaks };
            let written = take_digest(&mut record);
            if digest(before, &record) != written {
                breaks.push(altered(&record, number));
            }
            self.took(writer, number, written, known);
        }
    }

    fn took(&mut self, writer: &Arc<str>, number: u64, digest: String, known: &mut Known) {
        known.add(writer, number, digest.clone());
        self.end = Some((number, digest));
    }

    /// Goes on after a hole. The trail keeps records for a time only, so whatever comes first is where it begins.
    fn leap(&mut self, writer: &Arc<str>, known: &mut Known) -> Vec<Break> {
        let Some((number, mut record)) = self.early.pop_first() else { return Vec::new() };
        let mut breaks = Vec::new();
        match self.end {
            Some((end, _)) => breaks.push(Break::Missing { writer: writer.to_string(), number, missing: number - end - 1 }),
            None => self.begins_late = true,
        }
        self.took(writer, number, take_digest(&mut record), known);
        breaks.extend(self.follow(writer, known));
        breaks
    }
}

fn take_digest(record: &mut AuditRecord) -> String {
    record.link.as_mut().map(|link| std::mem::take(&mut link.digest)).unwrap_or_default()
}

fn altered(record: &AuditRecord, number: u64) -> Break {
    let writer = record.link.as_ref().map(|link| link.writer.clone()).unwrap_or_default();
    Break::Altered { id: record.id.clone(), writer, number }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn record(n: usize) -> AuditRecord {
        AuditRecord {
            who: Some("ada".to_owned()),
            status: Some(200),
            ..AuditRecord::new(format!("r-{n}"), Timestamp::UNIX_EPOCH, "POST".to_owned(), format!("/api/v1/jobs/{n}"))
        }
    }

    fn trail(writer: &str, n_records: usize) -> Vec<AuditRecord> {
        let mut end = ChainEnd::new(writer);
        let mut records: Vec<_> = (1..=n_records).map(record).collect();
        records.iter_mut().for_each(|record| end.add(record));
        // As it comes back from where it was stored.
        records.iter().map(|record| serde_json::from_str(&serde_json::to_string(record).unwrap()).unwrap()).collect()
    }

    fn breaks(records: impl IntoIterator<Item = AuditRecord>) -> Vec<Break> {
        let mut verifier = Verifier::default();
        let mut breaks: Vec<_> = records.into_iter().flat_map(|record| verifier.take(record)).collect();
        breaks.extend(verifier.finish());
        breaks
    }

    #[test]
    fn a_trail_that_nobody_touched_is_whole_though_writers_mix_and_neighbours_change_places() {
        let (mut one, two) = (trail("one", 50), trail("two", 50));
        one.swap(3, 4);
        one.swap(10, 17);
        let mixed = one.into_iter().zip(two).flat_map(|(one, two)| [one, two]);
        assert_eq!(breaks(mixed.chain([record(1)])), []);
    }

    #[test]
    fn a_trail_whose_beginning_was_forgotten_is_whole_from_there_on() {
        let mut verifier = Verifier::default();
        trail("one", 50).into_iter().skip(20).chain(trail("two", 3)).for_each(|record| assert_eq!(verifier.take(record), []));
        assert_eq!((verifier.finish(), verifier.n_begin_late(), verifier.n_writers()), (vec![], 1, 2));
        let mut altered = trail("one", 50);
        altered[30].status = Some(500);
        assert_eq!(breaks(altered.into_iter().skip(20)).len(), 1);
    }

    #[test]
    fn what_was_altered_removed_or_put_in_is_found() {
        let whole = trail("one", 9);
        for n in 0..9 {
            let mut altered = whole.clone();
            altered[n].who = Some("eve".to_owned());
            let number = n as u64 + 1;
            assert_eq!(breaks(altered), [Break::Altered { id: format!("r-{number}"), writer: "one".to_owned(), number }]);
        }
        let mut shorter = whole.clone();
        shorter.drain(3..5);
        assert_eq!(breaks(shorter), [Break::Missing { writer: "one".to_owned(), number: 6, missing: 2 }]);
        let mut longer = whole.clone();
        longer.insert(5, whole[2].clone());
        assert_eq!(breaks(longer.clone()), [], "a repeat of a write is no harm");
        if let Some(link) = &mut longer[5].link {
            link.digest = "0".repeat(64);
        }
        assert_eq!(breaks(longer), [Break::Again { id: "r-3".to_owned(), writer: "one".to_owned(), number: 3 }]);
        // One that is put in the place of another fits neither what is before it nor what is after it.
        let mut replaced = whole.clone();
        replaced[4] = AuditRecord { link: whole[4].link.clone(), ..record(77) };
        assert_eq!(breaks(replaced).len(), 1);
    }

    #[test]
    fn numbers_that_nobody_counted_to_end_no_reader() {
        for numbers in [&[u64::MAX][..], &[0], &[0, u64::MAX], &[u64::MAX - 1, u64::MAX], &[u64::MAX, 1, 0]] {
            let forged = numbers.iter().map(|number| {
                let link = AuditLink { writer: "one".to_owned(), number: *number, digest: "0".repeat(64) };
                AuditRecord { link: Some(link), ..record(1) }
            });
            breaks(forged);
        }
    }

    #[test]
    fn a_trail_of_any_number_of_writers_is_read_in_bounded_memory() {
        let mut verifier = Verifier::default();
        let link = |writer: usize, number| AuditLink { writer: writer.to_string(), number, digest: "0".repeat(64) };
        // None of them is the next of its writer.
        for n in 0..NEAR_ALL_MAX + 1000 {
            verifier.take(AuditRecord { link: Some(link(n / 1000, 2 * (n % 1000) as u64 + 2)), ..record(n) });
        }
        let n_early: usize = verifier.writers.values().map(|chain| chain.early.len()).sum();
        assert_eq!(n_early, verifier.n_early);
        assert!(n_early <= NEAR_ALL_MAX);
        verifier.finish();
        assert!(verifier.known.order.len() <= NEAR_ALL_MAX && verifier.known.digests.len() <= NEAR_ALL_MAX);
    }
}
