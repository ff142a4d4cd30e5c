//! Watching something of the store for as long as the controller lives.

use std::time::Duration;

use longshore_store::Error as StoreError;

use crate::app::{App, chain};

/// Pause before a watch is opened again.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// Reads until the controller drains; what ends is opened again after a pause.
pub(crate) async fn for_ever<F: Future<Output = Result<(), StoreError>>>(app: &App, what: &'static str, mut read: impl FnMut() -> F) {
    while !app.drain.is_cancelled() {
        let ended = tokio::select! {
            biased;
            () = app.drain.cancelled() => return,
            ended = read() => ended,
        };
        if let Err(error) = ended {
            tracing::warn!(what, error = %chain(&error), "a watch ended and is opened again");
        }
        tokio::select! {
            biased;
            () = app.drain.cancelled() => return,
            () = tokio::time::sleep(REOPEN_AFTER) => {}
        }
    }
}
