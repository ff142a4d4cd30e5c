//! What a list is asked for, and the cursor that says where its next page begins.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use jiff::Timestamp;
use longshore_model::{JobId, JobStatus};
use sha2::{Digest, Sha256};

use super::entry::Entry;

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
    pub(crate) since: Option<Timestamp>,
    /// Submitted before this time.
    pub(crate) until: Option<Timestamp>,
    /// Somewhere in what lists show.
    pub(crate) text: Option<String>,
}

impl Filter {
    /// Whether everything but the status holds; the index looks that up by itself.
    pub(crate) fn matches(&self, entry: &Entry) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        is(&self.operation, &entry.operation)
            && is(&self.target, &entry.target)
            && is(&self.submitter, &entry.submitted_by)
            && self.since.is_none_or(|since| entry.submitted_at >= since)
            && self.until.is_none_or(|until| entry.submitted_at < until)
            && self.annotations.iter().all(|(key, value)| entry.annotations.get(key) == Some(value))
            && self.host.as_deref().is_none_or(|host| entry.is_of_host(host))
            && self.text.as_deref().is_none_or(|text| entry.has_text(&text.to_lowercase()))
    }

    /// The cursor of the page after `last`.
    pub(crate) fn cursor(&self, last: JobId) -> String {
        format!("{:032x}{}", last.bits(), self.digest())
    }

    /// Where the page of this cursor begins; `None` if it was not made for this filter.
    pub(crate) fn resume(&self, cursor: &str) -> Option<JobId> {
        let (place, digest) = cursor.split_at_checked(32)?;
        if digest != self.digest() || !place.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        u128::from_str_radix(place, 16).ok().map(JobId::from_bits)
    }

    fn digest(&self) -> String {
        // The debug form names and quotes every field, so that two filters share it only if they are equal.
        Sha256::digest(format!("{self:?}")).iter().take(8).fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_fits_the_filter_it_was_made_for_and_no_other() {
        let filter = Filter { operation: Some("command.exec".to_owned()), ..Filter::default() };
        let cursor = filter.cursor(JobId::from_bits(7));
        assert_eq!(filter.resume(&cursor), Some(JobId::from_bits(7)));
        assert_eq!(Filter::default().resume(&cursor), None);
        for forged in ["", "x", &cursor[..40], &cursor.replacen('0', "+", 1), &"é".repeat(24)] {
            assert_eq!(filter.resume(forged), None, "{forged}");
        }
    }
}
