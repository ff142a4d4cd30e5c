//! Waiting for a condition instead of for a while.

use std::time::{Duration, Instant};

/// How long to leave a condition alone between two looks.
pub(crate) const PAUSE: Duration = Duration::from_millis(5);

/// Calls `poll` until it gives a value, with a few milliseconds between calls.
///
/// The first call is made at once, and one more after the deadline has passed, so a slow machine gets its last chance. A poll that never
/// returns is not interrupted.
///
/// # Panics
/// `deadline` passed without a value; the message names `what` was waited for.
#[track_caller]
pub fn eventually<T, P: AsyncFnMut() -> Option<T>>(what: &str, deadline: Duration, mut poll: P) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let began = Instant::now();
        loop {
            let is_last = began.elapsed() > deadline;
            if let Some(value) = poll().await {
                return value;
            }
            assert!(!is_last, "waited {deadline:?} in vain for {what} (at {caller})");
            tokio::time::sleep(PAUSE).await;
        }
    }
}
