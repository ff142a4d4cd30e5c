//! File work on drives that may hang: it has threads of its own, and is waited for no longer than its job may last.
//!
//! A call about a drive that hangs does not return, and neither a signal nor the end of the process makes it. So somebody else watches the
//! time: work that was to end and shows no sign of life since then is left alone. What it holds (a lock, a name, a workspace) it goes on
//! holding until the drive answers or its process is gone, which keeps others away from what it may still touch.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use longshore_model::unit::Span;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::process::Stops;

/// Work that was left alone and still hangs, in this process; from there on none is begun. Each has a thread, of which there are not many.
const LEFT_MAX: isize = 16;
static LEFT: AtomicIsize = AtomicIsize::new(0);

/// Watches file work, for somebody who has a deadline.
#[derive(Debug, Clone)]
pub struct Watch {
    stops: Stops,
    patience: Duration,
}

/// The sign of life of file work.
#[derive(Debug, Default)]
pub struct Pulse {
    beats: AtomicU64,
    state: AtomicU8,
}

const RUNS: u8 = 0;
const ENDED: u8 = 1;
const IS_LEFT: u8 = 2;

/// Why nobody knows what became of file work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfinished {
    /// It was to end, and shows no sign of life.
    #[error("the drive does not answer: nothing moved there for {} after the work was to end", Span(*.0))]
    Hangs(Duration),
    /// It was not begun, as other work hangs.
    #[error("the drive does not answer: earlier work there hangs still")]
    StillHangs,
    /// A fault of ours.
    #[error("it ended in a fault of ours; the log has more")]
    Fault,
}

impl From<Unfinished> for io::Error {
    fn from(unfinished: Unfinished) -> Self {
        Self::other(unfinished)
    }
}

impl Pulse {
    /// Shows that the work goes on. Cheap enough for every file, and every piece of a large one.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }
}

impl Watch {
    /// Watches work that is to end at the `deadline`, or when `stop` is cancelled, and that may be still for as long as `patience` after that.
    #[must_use]
    pub fn new(deadline: Instant, stop: CancellationToken, patience: Duration) -> Self {
        Self { stops: Stops { cancel: stop, abandon: CancellationToken::new(), deadline }, patience }
    }

    pub(crate) fn of(stops: &Stops, patience: Duration) -> Self {
        Self { stops: stops.clone(), patience }
    }

    /// Does `work` off the runtime's threads and waits for it: until its end, or after it was to end until its pulse stands still. It is not
    /// stopped by this; work that is left alone, or whose caller is gone, goes on as far as its drive lets it.
    ///
    /// # Errors
    /// The drive hangs, or the work panicked.
    pub async fn over<T: Send + 'static>(&self, work: impl FnOnce(&Pulse) -> T + Send + 'static) -> Result<T, Unfinished> {
        if LEFT.load(Ordering::Relaxed) >= LEFT_MAX {
            return Err(Unfinished::StillHangs);
        }
        let pulse = Arc::new(Pulse::default());
        let mut working = {
            let ending = Ending(Arc::clone(&pulse));
            spawn_blocking(move || work(&ending.0))
        };
        tokio::select! {
            biased;
            done = &mut working => return done.map_err(fault),
            _ = self.stops.first() => {}
        }
        let mut seen = pulse.beats.load(Ordering::Relaxed);
        loop {
            if let Ok(done) = timeout(self.patience, &mut working).await {
                return done.map_err(fault);
            }
            let beats = pulse.beats.load(Ordering::Relaxed);
            if std::mem::replace(&mut seen, beats) == beats
                && pulse.state.compare_exchange(RUNS, IS_LEFT, Ordering::AcqRel, Ordering::Acquire).is_ok()
            {
                LEFT.fetch_add(1, Ordering::Relaxed);
                tracing::error!("file work does not end, as its drive does not answer; it is left alone");
                return Err(Unfinished::Hangs(self.patience));
            }
        }
    }

    /// Waits for `work` of other threads, which shows no sign of life, until it ends or `patience` after it was to end.
    ///
    /// # Errors
    /// The drive hangs.
    pub(crate) async fn wait_for<T>(&self, work: impl Future<Output = T>) -> Result<T, Unfinished> {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            _ = self.stops.first() => {}
        }
        timeout(self.patience, work).await.map_err(|_| Unfinished::Hangs(self.patience))
    }
}

/// Tells at its end that work has ended, however it did.
struct Ending(Arc<Pulse>);

impl Drop for Ending {
    fn drop(&mut self) {
        if self.0.state.swap(ENDED, Ordering::AcqRel) == IS_LEFT {
            LEFT.fetch_sub(1, Ordering::Relaxed);
            tracing::info!("file work that was left alone has ended");
        }
    }
}

fn fault(error: JoinError) -> Unfinished {
    tracing::error!(%error, "file work of a job failed");
    Unfinished::Fault
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::mpsc;
    use std::task::Poll;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    async fn is_pending(work: &mut (impl Future<Output = Result<(), Unfinished>> + Unpin)) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut *work).poll(cx).is_pending())).await
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_goes_on_is_waited_for_beyond_its_time_and_work_that_hangs_is_left_alone() {
        let watch = Watch::new(Instant::now() + PATIENCE, CancellationToken::new(), PATIENCE);
        let (order, orders) = mpsc::channel::<()>();
        let (beaten, beats) = mpsc::channel();
        let mut working = pin!(watch.over(move |pulse| {
            while orders.recv().is_ok() {
                pulse.beat();
                beaten.send(()).unwrap();
            }
        }));
        assert!(is_pending(&mut working).await);
        for _ in 0..20 {
            order.send(()).unwrap();
            beats.recv().unwrap();
            tokio::time::advance(PATIENCE).await;
            assert!(is_pending(&mut working).await);
        }
        for _ in 0..3 {
            tokio::time::advance(PATIENCE).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(working.await, Err(Unfinished::Hangs(PATIENCE)));
        assert_eq!(watch.over(|_| panic!("on purpose")).await, Err::<(), _>(Unfinished::Fault));

        // Of those that hang there are not many, and when they end there is room again.
        let over = Watch { patience: Duration::from_millis(1), ..watch.clone() };
        let mut held = Vec::new();
        for _ in 0..LEFT_MAX + 4 {
            let (hold, hangs) = mpsc::channel::<()>();
            held.push(hold);
            let mut hanging = pin!(over.over(move |_| hangs.recv().unwrap_or_default()));
            // Its blocking thread keeps the clock from going on by itself.
            while is_pending(&mut hanging).await {
                tokio::time::advance(Duration::from_millis(1)).await;
            }
        }
        assert_eq!(over.over(|_| ()).await, Err(Unfinished::StillHangs));
        drop((held, order));
        while over.over(|_| ()).await == Err(Unfinished::StillHangs) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_shows_no_sign_of_life_is_waited_for_a_while_beyond_its_time() {
        let stop = CancellationToken::new();
        let watch = Watch::new(Instant::now() + 100 * PATIENCE, stop.clone(), PATIENCE);
        let began = Instant::now();
        assert_eq!(watch.wait_for(tokio::time::sleep(50 * PATIENCE)).await, Ok(()));
        stop.cancel();
        assert_eq!(watch.wait_for(tokio::time::sleep(PATIENCE / 2)).await, Ok(()));
        assert_eq!(watch.wait_for(std::future::pending::<()>()).await, Err(Unfinished::Hangs(PATIENCE)));
        assert_eq!(began.elapsed().as_secs(), (50 * PATIENCE + PATIENCE / 2 + PATIENCE).as_secs());
    }
}
