//! Ages and durations in few characters.

use std::time::Duration;

use jiff::Timestamp;

use crate::output::Output;

/// How long ago on a terminal, the time itself elsewhere.
pub(crate) fn ago(out: &Output, at: Timestamp, now: Timestamp) -> String {
    if out.stdout_is_terminal { duration(now.duration_since(at).try_into().unwrap_or_default()) } else { format!("{at:.3}") }
}

/// Two units at most: `41ms`, `3.1s`, `2m14s`, `5h12m`, `3d4h`.
pub(crate) fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{}ms", span.as_millis()),
        1..10 => format!("{seconds}.{}s", span.subsec_millis() / 100),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        for (ms, text) in
            [(0, "0ms"), (41, "41ms"), (3_149, "3.1s"), (38_000, "38s"), (134_000, "2m14s"), (18_720_000, "5h12m"), (273_600_000, "3d4h")]
        {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
    }
}
