//! Quantities people write with a unit: `30s`, `2m`, `100MiB`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// A duration written with its unit. Reads `30s`, `1h 30m`, `250ms` and ISO 8601 (`PT30S`); never a bare number, never negative.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

/// A number of bytes. Reads a bare integer, or one with `B`, `KiB`, `MiB`, `GiB`, `TiB` (`KB` … are the same powers of 1024).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "String")]
pub struct ByteSize(pub u64);

/// The text was not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseUnitError {
    /// Not a duration.
    #[error("{0:?} is not a duration: write it with a unit, such as `30s`, `5m`, `1h30m`")]
    Duration(String),
    /// Not a size.
    #[error("{0:?} is not a size: write it such as `512KiB`, `100MiB`, `4GiB`, or in bytes")]
    Size(String),
}

impl FromStr for Span {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        text.trim()
            .parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|span| Duration::try_from(span).ok())
            .map(Self)
            .ok_or_else(|| ParseUnitError::Duration(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::SignedDuration::try_from(self.0) {
            Ok(span) => write!(f, "{span:#}"),
            Err(_) => write!(f, "{}s", self.0.as_secs()),
        }
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Span {
    type Error = ParseUnitError;

    fn try_from(text: String) -> Result<Self, ParseUnitError> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Bytes(u64),
    Words(String),
}

const UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for ByteSize {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let refused = || ParseUnitError::Size(text.chars().take(64).collect());
        let trimmed = text.trim();
        let digits = trimmed.len() - trimmed.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = trimmed.split_at(digits);
        let number: u64 = number.parse().map_err(|_| refused())?;
        let factor = match unit.trim() {
            "" => 1,
            unit => UNITS
                .iter()
                .find(|(name, _)| unit.eq_ignore_ascii_case(name) || unit.eq_ignore_ascii_case(&name.replace('i', "")))
                .map(|(_, factor)| *factor)
                .ok_or_else(refused)?,
        };
        number.checked_mul(factor).map(Self).ok_or_else(refused)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, factor) = UNITS.iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor)).unwrap_or(&UNITS[4]);
        write!(f, "{}{name}", self.0 / factor)
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<Text> for ByteSize {
    type Error = ParseUnitError;

    fn try_from(text: Text) -> Result<Self, ParseUnitError> {
        match text {
            Text::Bytes(bytes) => Ok(Self(bytes)),
            Text::Words(words) => words.parse(),
        }
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> Self {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print() {
        for (text, ms, printed) in [
            ("30s", 30_000, "30s"),
            ("2m", 120_000, "2m"),
            ("1h30m", 5_400_000, "1h 30m"),
            ("250ms", 250, "250ms"),
            ("PT30S", 30_000, "30s"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0.as_millis(), ms, "{text}");
            assert_eq!(span.to_string(), printed);
            assert_eq!(printed.parse::<Span>(), Ok(span));
        }
        for text in ["", "30", "-5s", "5 parsecs", "1e9s"] {
            assert!(text.parse::<Span>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_read_and_print() {
        for (text, bytes, printed) in
            [("0", 0, "0B"), ("1024", 1024, "1KiB"), ("100MiB", 104_857_600, "100MiB"), ("2 gb", 2 << 30, "2GiB"), ("1500", 1500, "1500B")]
        {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, printed), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5MiB", "99999999999TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text:?}");
        }
    }
}
