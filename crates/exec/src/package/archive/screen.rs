//! What an entry of a package may be, whatever archive it comes in. Stricter than for a bundle: a package is code.
//!
//! Links stay inside whatever they go through: one begins with at most as many `..` as its own directory is deep, and has none after
//! that. Its directory is a real one, so the `..` climb as written; and nothing climbs after another link was followed.

use std::collections::BTreeSet;

use icu_normalizer::ComposingNormalizerBorrowed;

use crate::bundle::{Facts, Refusal};

const SET_USER_OR_GROUP: u32 = 0o6000;
/// Bytes of all names, those of directories that are only on the way included: they are kept in memory.
pub(super) const NAMES_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Looks at one entry after the other.
pub(super) struct Screen {
    /// Names as a file system that ignores case and form would know them, with every directory on their way.
    known: BTreeSet<String>,
    /// The same names as they are.
    exact: BTreeSet<String>,
    /// Bytes of content that may still come.
    honest: u64,
    /// Entries and directories on the way that there may be.
    entries_max: usize,
    /// Bytes of names so far.
    names_bytes: usize,
    normal: ComposingNormalizerBorrowed<'static>,
}

impl Screen {
    pub(super) fn new(honest: u64, entries_max: usize) -> Self {
        let normal = ComposingNormalizerBorrowed::new_nfc();
        Self { known: BTreeSet::new(), exact: BTreeSet::new(), honest, entries_max, names_bytes: 0, normal }
    }

    /// Takes an entry whose name is plainly below the root, and gives it the mode that it will have.
    pub(super) fn look(&mut self, name: &[u8], facts: &mut Facts, size: u64) -> Result<(), Refusal> {
        let name = std::str::from_utf8(name).map_err(|_| Refusal::Name)?;
        let on_another_system = |segment: &str| segment.as_bytes().get(1) == Some(&b':') && segment.as_bytes()[0].is_ascii_alphabetic();
        if name.contains('\\') || name.contains(char::is_control) || name.split('/').any(on_another_system) {
            return Err(Refusal::Name);
        }
        self.alike(name)?;
        if facts.mode & SET_USER_OR_GROUP != 0 && !facts.kind.is_dir() {
            return Err(Refusal::Privileged);
        }
        if facts.kind.is_symlink() {
            let depth = name.matches('/').count();
            if !inward(&facts.target, depth) {
                return Err(Refusal::Outward);
            }
        }
        // A plain file with a directory's name is a directory to some readers and a file to others.
        if !facts.kind.is_dir() && facts.name.ends_with(b"/") {
            return Err(Refusal::Contradiction);
        }
        self.honest = self.honest.checked_sub(size).ok_or(Refusal::Ratio)?;
        let runs = facts.kind.is_dir() || facts.mode & 0o100 != 0;
        facts.mode = if runs { 0o755 } else { 0o644 };
        Ok(())
    }

    /// Refuses a name of which some part differs from an earlier one in case or form alone.
    fn alike(&mut self, name: &str) -> Result<(), Refusal> {
        let ends = name.match_indices('/').map(|(at, _)| at).chain([name.len()]);
        for end in ends {
            let part = &name[..end];
            if !self.exact.contains(part) {
                if !self.known.insert(self.normal.normalize(&part.to_lowercase()).into_owned()) {
                    return Err(Refusal::Alike);
                }
                self.exact.insert(part.to_owned());
                self.names_bytes += part.len();
                if self.exact.len() > self.entries_max || self.names_bytes > NAMES_BYTES_MAX {
                    return Err(Refusal::Entries);
                }
            }
        }
        Ok(())
    }
}

/// Whether a link in a directory of that depth cannot lead outside.
fn inward(target: &[u8], depth: usize) -> bool {
    let mut climbing = true;
    let mut climbed = 0;
    for segment in target.split(|byte| *byte == b'/') {
        match segment {
            b".." if climbing => climbed += 1,
            b".." | b"" => return false,
            b"." => {}
            _name => climbing = false,
        }
    }
    !target.contains(&0) && !target.contains(&b'\\') && climbed <= depth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_inward_also_together() {
        for (target, depth) in [("x", 0), ("./x", 0), ("../x", 1), ("..", 1), ("../../x/y", 2), (".", 0)] {
            assert!(inward(target.as_bytes(), depth), "{target}");
        }
        // `a -> .` and `b -> a/..`: each looks harmless alone.
        for (target, depth) in
            [("/etc/passwd", 3), ("..", 0), ("../../x", 1), ("a/..", 0), ("x/../../y", 1), ("", 0), ("a//b", 0), ("a/", 0)]
        {
            assert!(!inward(target.as_bytes(), depth), "{target}");
        }
    }
}
