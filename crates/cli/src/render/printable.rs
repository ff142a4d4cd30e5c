//! What other people wrote, made harmless for a terminal: nothing in it may steer, hide or turn around what is read.

/// One line: the first, if there are several, so that no line can be forged in the middle of one of ours.
pub(crate) fn printable(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

/// Every line of a text, each made harmless.
pub(crate) fn printable_lines(text: &str) -> String {
    text.chars().map(|c| if steers(c) && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c }).collect()
}

/// A word as a shell reads it back.
pub(crate) fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%+".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Control characters of both blocks, separators of lines, and what changes the direction of text.
fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_printed_steers_a_terminal() {
        let hostile = "a\u{1b}[31m\u{9b}2J\u{7f}\r\u{202e}\u{2066}\u{200f}\u{61c}\u{2028}z\nsecond\tline";
        assert_eq!(printable(hostile), "a\u{fffd}[31m\u{fffd}2J\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}z");
        assert_eq!(printable_lines(hostile), format!("{}\nsecond\tline", printable(hostile)));
        assert_eq!(["a-b=c", "", "it's *"].map(shell_word), ["a-b=c", "''", r"'it'\''s *'"]);
        assert_eq!(printable_lines("größe \u{2714} 日本\n"), "größe \u{2714} 日本\n");
    }
}
