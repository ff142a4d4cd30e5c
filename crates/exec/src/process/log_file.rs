//! The log file of a step, which may be on a drive that hangs: then the step's end is not kept waiting for it.

use std::io;

use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::task::spawn_blocking;

use crate::drive::Watch;

/// A log file that is open. After a first fault nothing more is written: the step goes on, as its output still reaches the live log.
pub(crate) struct LogFile {
    file: File,
    /// Bytes that are in it by our doing.
    bytes: u64,
    watch: Watch,
    fault: Option<io::Error>,
    hangs: bool,
}

impl LogFile {
    /// For a file that is empty; the `watch` is that of the step.
    pub(crate) fn new(file: std::fs::File, watch: Watch) -> Self {
        Self { file: File::from_std(file), bytes: 0, watch, fault: None, hangs: false }
    }

    /// Appends. The bytes are in the file when this returns, unless there is a fault.
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        if self.fault.is_some() {
            return;
        }
        let file = &mut self.file;
        let writing = async {
            file.write_all(bytes).await?;
            file.flush().await
        };
        match self.watch.wait_for(writing).await {
            Ok(Ok(())) => self.bytes += bytes.len() as u64,
            Ok(Err(error)) => self.fault = Some(error),
            Err(hangs) => (self.fault, self.hangs) = (Some(hangs.into()), true),
        }
    }

    /// Closes it. Gives the first fault, if there was one.
    pub(super) async fn close(mut self) -> Option<io::Error> {
        if !self.hangs {
            let cut = self.cut().await;
            self.fault = self.fault.or(cut.err());
        }
        // Closing may have to wait for the drive; what is being written to still is closed by who writes.
        let Ok(file) = self.file.try_into_std() else { return self.fault };
        let closing = spawn_blocking(move || drop(file));
        match self.watch.wait_for(closing).await {
            Err(hangs) if !self.hangs => self.fault.or(Some(hangs.into())),
            Ok(_) | Err(_) => self.fault,
        }
    }

    /// A program may write to its log itself. What makes it longer than the output was goes: it is within no bound.
    async fn cut(&mut self) -> io::Result<()> {
        let (file, bytes) = (&mut self.file, self.bytes);
        let cutting =
            async { if file.metadata().await.is_ok_and(|metadata| metadata.len() > bytes) { file.set_len(bytes).await } else { Ok(()) } };
        self.watch.wait_for(cutting).await?
    }
}
