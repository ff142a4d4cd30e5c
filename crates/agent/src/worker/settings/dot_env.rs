//! The `.env` file: lines of `NAME=value`, also with `export`, quotes and a trailing comment.

/// Its pairs in order. Lines that are none are passed over, as the existing worker does.
pub(super) fn pairs(text: &str) -> Vec<(String, String)> {
    text.lines().filter_map(pair).collect()
}

fn pair(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, value) = line.split_once('=')?;
    let name = name.trim();
    if name.is_empty() || name.starts_with('#') {
        return None;
    }
    Some((name.to_owned(), unquoted(value.trim())))
}

fn unquoted(value: &str) -> String {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote)
            && let Some((inside, _)) = rest.split_once(quote)
        {
            return inside.to_owned();
        }
    }
    let end = value.find(" #").unwrap_or(value.len());
    value[..end].trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_quotes_and_comments_are_understood() {
        let rows = [
            ("A=1", Some(("A", "1"))),
            ("export A = x y ", Some(("A", "x y"))),
            ("A=\"x # y\" # z", Some(("A", "x # y"))),
            ("A='x'", Some(("A", "x"))),
            ("A=x#y # z", Some(("A", "x#y"))),
            ("A=", Some(("A", ""))),
            ("# A=1", None),
            ("", None),
            ("A", None),
            ("=1", None),
        ];
        for (line, expected) in rows {
            let found = pair(line);
            assert_eq!(found.as_ref().map(|(name, value)| (name.as_str(), value.as_str())), expected, "{line}");
        }
    }
}
