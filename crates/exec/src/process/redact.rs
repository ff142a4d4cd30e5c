//! Takes secret values out of a program's output, also where one was written in several pieces.
//!
//! What may be the beginning of a secret is held back until the next piece, or the end, tells. Exact values only: one that a program
//! prints in another form, such as base64, is not found.

use std::collections::BTreeMap;

use longshore_model::limits::REDACTED_BYTES_MIN;
use longshore_model::wire::secret::MASK;

/// One stream's. Shows none of the values.
#[derive(Clone)]
pub struct Redactor {
    /// The longest first.
    secrets: Vec<Vec<u8>>,
    /// Whether a secret begins with this byte.
    begins: [bool; 256],
    held: Vec<u8>,
}

impl Redactor {
    /// For these values; `None` if none of them is long enough to be looked for.
    #[must_use]
    pub fn of(secrets: &BTreeMap<String, String>) -> Option<Self> {
        // Programs and shells drop line ends.
        let mut values: Vec<Vec<u8>> =
            secrets.values().flat_map(|text| [text.as_str(), text.trim_end()]).map(|text| text.as_bytes().to_vec()).collect();
        values.retain(|value| value.len() >= REDACTED_BYTES_MIN);
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        let mut begins = [false; 256];
        for value in &values {
            begins[usize::from(value[0])] = true;
        }
        (!values.is_empty()).then_some(Self { secrets: values, begins, held: Vec::new() })
    }

    /// Another for the same values, which holds nothing back yet.
    #[must_use]
    pub fn fresh(&self) -> Self {
        Self { secrets: self.secrets.clone(), begins: self.begins, held: Vec::new() }
    }

    /// Takes a piece and gives what may go on.
    pub fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let (ready, from) = self.scan(|secret, rest| secret.len() > rest.len() && secret.starts_with(rest));
        self.held.drain(..from);
        ready
    }

    /// Gives what was held back: nothing more will come.
    pub fn rest(&mut self) -> Vec<u8> {
        let (ready, _) = self.scan(|_, _| false);
        self.held.clear();
        ready
    }

    /// What of the held bytes is ready, and where it ends: at the first place that `is_open` for a secret.
    fn scan(&self, is_open: impl Fn(&[u8], &[u8]) -> bool) -> (Vec<u8>, usize) {
        let held = self.held.as_slice();
        let (mut ready, mut done, mut at) = (Vec::with_capacity(held.len()), 0, 0);
        while at < held.len() {
            if !self.begins[usize::from(held[at])] {
                at += 1;
                continue;
            }
            let rest = &held[at..];
            if self.secrets.iter().any(|secret| is_open(secret, rest)) {
                break;
            }
            match self.secrets.iter().find(|secret| rest.starts_with(secret)) {
                Some(secret) => {
                    ready.extend_from_slice(&held[done..at]);
                    ready.extend_from_slice(MASK.as_bytes());
                    at += secret.len();
                    done = at;
                }
                None => at += 1,
            }
        }
        ready.extend_from_slice(&held[done..at]);
        (ready, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor(values: &[&str]) -> Redactor {
        let secrets = values.iter().enumerate().map(|(n, value)| (n.to_string(), (*value).to_owned())).collect();
        Redactor::of(&secrets).unwrap()
    }

    #[test]
    fn secrets_are_masked_wherever_the_pieces_end() {
        let rows: &[(&[&str], &str, &str)] = &[
            (&["hunter2"], "the word is hunter2.\nhunter2hunter2", "the word is ***.\n******"),
            (&["hunter2"], "hunter hunter1 hunte", "hunter hunter1 hunte"),
            // One that begins another: the longer one is taken as a whole, and the shorter one where it stands alone.
            (&["abcdef", "abcdefghi"], "abcdefghi abcdefgh abcdef", "*** ***gh ***"),
            // A beginning that repeats.
            (&["aaaaab"], "aaaaaaaab aaaaa", "aaa*** aaaaa"),
            (&["p\u{e4}ssw\u{f6}rd"], "p\u{e4}ssw\u{f6}rd!", "***!"),
            // Of several lines, and with its line end dropped.
            (&["line one\nline two\n"], "line one\nline two\n|line one\nline two|", "***|***|"),
            (&["short"], "", ""),
        ];
        for (values, text, expected) in rows.iter().filter(|(values, ..)| values[0].len() >= REDACTED_BYTES_MIN) {
            for size in 1..=text.len() {
                let mut redactor = redactor(values);
                let mut shown: Vec<u8> = text.as_bytes().chunks(size).flat_map(|piece| redactor.pass(piece)).collect();
                shown.extend(redactor.rest());
                assert_eq!(String::from_utf8_lossy(&shown), *expected, "{values:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn what_cannot_be_a_secret_is_not_held_back() {
        let mut redactor = redactor(&["hunter2"]);
        assert_eq!(redactor.pass(b"hello, hunt"), b"hello, ");
        assert_eq!(redactor.pass(b"ing"), b"hunting");
        assert!(Redactor::of(&[("A".to_owned(), "short".to_owned())].into()).is_none());
    }
}
