//! Targets of symbolic links that would point into a workspace when that is gone.
//!
//! By the names alone, as nothing is followed: what other links on the way would make of them is not looked at.

/// What a link is to point to instead of `target`, if it points into one of `roots` in a way that ends with the workspace: by an
/// absolute path, or by climbing out of `root` and back in. The new target is relative to the link and means the same place seen
/// from the results.
///
/// The link lies in the directory `dir` below `root`; both roots are absolute paths, `dir` has no slash at its ends.
pub(super) fn repointed(target: &[u8], root: &str, dir: &[u8], roots: &[&str]) -> Option<Vec<u8>> {
    let absolute = if target.starts_with(b"/") {
        normal(&[target])
    } else if climbs_out(target, dir) {
        normal(&[root.as_bytes(), dir, target])
    } else {
        return None;
    };
    let rest = roots.iter().find_map(|root| absolute.strip_prefix(normal(&[root.as_bytes()]).as_slice()))?;
    let up = segments(dir).map(|_| &b".."[..]);
    let path: Vec<_> = up.chain(rest.iter().copied()).collect();
    Some(if path.is_empty() { b".".to_vec() } else { path.join(&b'/') })
}

/// Whether a relative target leads above the root on its way.
fn climbs_out(target: &[u8], dir: &[u8]) -> bool {
    let mut depth = segments(dir).count();
    for segment in segments(target) {
        match (segment, depth) {
            (b"..", 0) => return true,
            (b"..", _) => depth -= 1,
            (_, _) => depth += 1,
        }
    }
    false
}

/// The segments of a path that is put together from `parts`, without what `..` takes back.
fn normal<'a>(parts: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let mut path = Vec::new();
    for segment in parts.iter().flat_map(|part| segments(part)) {
        if segment == b".." {
            path.pop();
        } else {
            path.push(segment);
        }
    }
    path
}

fn segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|segment| !matches!(*segment, b"" | b"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_targets_that_end_with_the_workspace_are_changed() {
        let check = |dir: &str, target: &str, expected: Option<&str>| {
            let given = repointed(target.as_bytes(), "/w/job", dir.as_bytes(), &["/w/job", "/w/job-results"]);
            assert_eq!(given.map(|given| String::from_utf8(given).unwrap()).as_deref(), expected, "{target} in {dir:?}");
        };
        check("", "/w/job/a/b", Some("a/b"));
        check("x/y", "/w/job/a/b", Some("../../a/b"));
        check("", "/w/job", Some("."));
        check("x", "/w/job/", Some(".."));
        check("", "//w/./job//a", Some("a"));
        check("", "/w/other/../job/a", Some("a"));
        check("", "/w/job-results/a", Some("a"));
        check("x", "../../job/a", Some("../a"));
        check("x", "../../job-results/a", Some("../a"));

        check("", "/w/job2/a", None);
        check("", "/w/job/../job2/a", None);
        check("", "/etc/passwd", None);
        check("x/y", "../../a", None);
        check("", "a/b", None);
        check("", "../elsewhere", None);
        check("", "../../../../../../etc", None);
    }
}
