//! The chain through the audit records of one writer, by which a record that was altered, removed or put in later is found.
//!
//! Each record carries a digest over itself and over the digest of the one before it. Nothing here is secret: who can write the whole
//! trail can write another one that fits together. It no longer fits with a copy that was exported before, so keep one elsewhere. What a
//! chain alone cannot show is the loss of its beginning or its end, of a whole chain, and a record in none.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::wire::audit::{AuditLink, AuditRecord};

/// Records that may come before the one that they follow: those of one batch change places. And records that are known when they come
/// again: a write whose end was not heard of is repeated.
const NEAR_MAX: usize = 4096;

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
    format!("{:x}", hash.finalize())
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
    writers: BTreeMap<String, Chain>,
    n_records: u64,
    n_without: u64,
}

#[derive(Debug, Default)]
struct Chain {
    begins_late: bool,
    end: Option<(u64, String)>,
    early: BTreeMap<u64, AuditRecord>,
    /// Digests of the latest that were taken.
    taken: BTreeMap<u64, String>,
}

impl Verifier {
    /// Takes the next record, and gives what it shows to be wrong.
    pub fn take(&mut self, record: AuditRecord) -> Vec<Break> {
        self.n_records += 1;
        let Some(AuditLink { writer, number, digest }) = record.link.clone() else {
            self.n_without += 1;
            return Vec::new();
        };
        let chain = self.writers.entry(writer.clone()).or_default();
        let early = chain.early.get(&number).and_then(|early| early.link.as_ref()).map(|link| &link.digest);
        if early.is_some() || chain.end.as_ref().is_some_and(|(end, _)| number <= *end) {
            let is_repeat = early.or(chain.taken.get(&number)) == Some(&digest);
            return if is_repeat { Vec::new() } else { vec![Break::Again { id: record.id, writer, number }] };
        }
        chain.early.insert(number, record);
        let mut breaks = chain.follow();
        if chain.early.len() > NEAR_MAX {
            breaks.extend(chain.leap(&writer));
        }
        breaks
    }

    /// There are no more records: gives what was still waited for.
    pub fn finish(&mut self) -> Vec<Break> {
        let mut breaks = Vec::new();
        for (writer, chain) in &mut self.writers {
            while !chain.early.is_empty() {
                breaks.extend(chain.leap(writer));
            }
        }
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

impl Chain {
    /// Goes on as far as numbers follow each other.
    fn follow(&mut self) -> Vec<Break> {
        let mut breaks = Vec::new();
        loop {
            let (end, before) = match &self.end {
                Some((end, digest)) => (*end, digest.as_str()),
                None => (0, ""),
            };
            let Some(mut record) = self.early.remove(&(end + 1)) else { return breaks };
            let written = take_digest(&mut record);
            if digest(before, &record) != written {
                breaks.push(altered(&record, end + 1));
            }
            self.took(end + 1, written);
        }
    }

    fn took(&mut self, number: u64, digest: String) {
        self.taken.insert(number, digest.clone());
        if self.taken.len() > NEAR_MAX {
            self.taken.pop_first();
        }
        self.end = Some((number, digest));
    }

    /// Goes on after a hole. The trail keeps records for a time only, so whatever comes first is where it begins.
    fn leap(&mut self, writer: &str) -> Vec<Break> {
        let Some((number, mut record)) = self.early.pop_first() else { return Vec::new() };
        let mut breaks = Vec::new();
        match self.end {
            Some((end, _)) => breaks.push(Break::Missing { writer: writer.to_owned(), number, missing: number - end - 1 }),
            None => self.begins_late = true,
        }
        self.took(number, take_digest(&mut record));
        breaks.extend(self.follow());
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
}
