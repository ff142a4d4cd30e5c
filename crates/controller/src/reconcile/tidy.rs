//! Keeps the index in step with the clock: scheduled jobs become pending, and jobs whose records the stores dropped by age go.

use crate::app::App;

/// Tidies until the controller drains.
pub(super) async fn run(app: App) {
    let mut turns = tokio::time::interval(app.config.reconcile_every.max(std::time::Duration::from_millis(1)));
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = app.drain.cancelled() => return,
            _ = turns.tick() => app.index_mut().pass_time(app.config.retention, app.now()),
        }
    }
}
