//! Which changed files a job wants back.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Which changed files come back.
#[derive(Debug)]
pub struct Globs(GlobSet);

impl Globs {
    /// `*` and `?` stop at slashes, `**` does not; a pattern that names a directory means all that is in it.
    ///
    /// # Errors
    /// A pattern that makes no sense, which is named.
    pub fn new(patterns: &[String]) -> Result<Self, globset::Error> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            let pattern = pattern.trim_start_matches("./").trim_end_matches('/');
            for pattern in [pattern.to_owned(), format!("{pattern}/**")] {
                set.add(GlobBuilder::new(&pattern).literal_separator(true).backslash_escape(true).build()?);
            }
        }
        Ok(Self(set.build()?))
    }

    pub(crate) fn want(&self, name: &[u8]) -> bool {
        self.0.is_match(OsStr::from_bytes(name))
    }
}
