//! How far something long is: a bar on a terminal, else a plain line every ten seconds.

use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::output::Output;

const EVERY: Duration = Duration::from_secs(10);

/// One long thing.
pub(crate) struct Progress {
    out: Output,
    what: &'static str,
    total: Option<u64>,
    bar: Option<ProgressBar>,
    told: Instant,
}

impl Progress {
    /// `what` is done to `total` bytes, if that is known.
    pub(crate) fn new(out: Output, what: &'static str, total: Option<u64>) -> Self {
        let bar = out.draws_progress().then(|| {
            let template = match total {
                Some(_) => "{prefix:<12} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}",
                None => "{prefix:<12} {bytes} {bytes_per_sec}",
            };
            let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.with_style(style.progress_chars("=> ")).with_prefix(what)
        });
        Self { out, what, total, bar, told: Instant::now() }
    }

    /// So many bytes are done.
    pub(crate) fn at(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            return;
        }
        if self.told.elapsed() < EVERY {
            return;
        }
        self.told = Instant::now();
        match self.total {
            Some(total) => self.out.say(format!("{} {} of {}", self.what, HumanBytes(bytes), HumanBytes(total))),
            None => self.out.say(format!("{} {}", self.what, HumanBytes(bytes))),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
