//! What a list is asked for, and the cursor that says where its next page begins.

use std::collections::BTreeSet;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use longshore_model::{JobId, JobStatus};
use sha2::{Digest, Sha256};

/// A moment as a list was asked for it, such as `1h`, and what that means: on every page what it meant on the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) asked: String,
    pub(crate) at: Timestamp,
}

/// Which jobs. Everything that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Filter {
    /// Any of these; empty is all.
    pub(crate) statuses: BTreeSet<JobStatus>,
    pub(crate) operation: Option<String>,
    pub(crate) target: Option<String>,
    /// A host name or agent id that has or had it.
    pub(crate) host: Option<String>,
    pub(crate) submitter: Option<String>,
    /// Each with this value.
    pub(crate) annotations: Vec<(String, String)>,
    /// Submitted at this time or later.
    pub(crate) since: Option<Moment>,
    /// Submitted before this time.
    pub(crate) until: Option<Moment>,
    /// Somewhere in what lists show.
    pub(crate) text: Option<String>,
}

impl Filter {
    /// The cursor of the page after `last`: the place, what was asked for, and what its moments meant.
    pub(crate) fn cursor(&self, last: JobId) -> String {
        let place = format!("{:032x}{}", last.bits(), self.digest());
        let moments = [&self.since, &self.until].into_iter().flatten();
        moments.fold(place, |cursor, moment| format!("{cursor}_{}", moment.at.as_nanosecond()))
    }

    /// Takes the moments from a cursor, and gives where its page begins; `None` if it was not made for this filter.
    pub(crate) fn resume(&mut self, cursor: &str) -> Option<JobId> {
        let mut parts = cursor.split('_');
        let (place, digest) = parts.next()?.split_at_checked(32)?;
        if digest != self.digest() || !place.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        for moment in [&mut self.since, &mut self.until].into_iter().flatten() {
            moment.at = Timestamp::from_nanosecond(parts.next()?.parse().ok()?).ok()?;
        }
        let place = u128::from_str_radix(place, 16).ok()?;
        parts.next().is_none().then(|| JobId::from_bits(place))
    }

    /// Tells filters apart that were asked for differently.
    fn digest(&self) -> String {
        let Self { statuses, operation, target, host, submitter, annotations, since, until, text } = self;
        let asked = |moment: &Option<Moment>| moment.as_ref().map(|moment| moment.asked.clone());
        // The debug form quotes every field, so that two filters share it only if they are equal.
        let asked = (statuses, operation, target, host, submitter, annotations, asked(since), asked(until), text);
        HEXLOWER.encode(&Sha256::digest(format!("{asked:?}"))[..8])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_fits_the_filter_it_was_made_for_and_no_other() {
        let mut filter = Filter { operation: Some("command.exec".to_owned()), ..Filter::default() };
        let cursor = filter.cursor(JobId::from_bits(7));
        assert_eq!(filter.resume(&cursor), Some(JobId::from_bits(7)));
        assert_eq!(Filter::default().resume(&cursor), None);
        for forged in ["", "x", &cursor[..40], &cursor.replacen('0', "+", 1), &"é".repeat(24)] {
            assert_eq!(filter.resume(forged), None, "{forged}");
        }
    }

    #[test]
    fn a_relative_time_means_on_every_page_what_it_meant_on_the_first() {
        let asked_at = |second: i64| {
            let moment = |asked: &str, ago: i64| Moment { asked: asked.to_owned(), at: Timestamp::from_second(second - ago).unwrap() };
            Filter { since: Some(moment("1h", 3600)), until: Some(moment("1m", 60)), ..Filter::default() }
        };
        let first = asked_at(1_000_000);
        let mut second = asked_at(1_000_007);
        assert_eq!(second.resume(&first.cursor(JobId::from_bits(7))), Some(JobId::from_bits(7)));
        assert_eq!(second, first);
        for forged in ["_x_1", "_1", "_1_2_3", "__"] {
            let cursor = format!("{}{forged}", &first.cursor(JobId::from_bits(7))[..48]);
            assert_eq!(second.resume(&cursor), None, "{cursor}");
        }
        let mut other = Filter { since: Some(Moment { asked: "2h".to_owned(), ..first.since.clone().unwrap() }), ..first.clone() };
        assert_eq!(other.resume(&first.cursor(JobId::from_bits(7))), None);
    }
}
