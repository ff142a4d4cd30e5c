//! The task that writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::SinkExt;
use futures::stream::SplitSink;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::super::dial::WebSocket;
use super::Write;

/// Writes until it is to close, or cannot.
pub(super) async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    mut written: mpsc::Receiver<Write>,
    mut pings: mpsc::Receiver<()>,
    n_unwritten: Arc<AtomicUsize>,
) {
    loop {
        let write = tokio::select! {
            biased;
            write = written.recv() => write,
            Some(()) = pings.recv() => {
                if sink.send(Message::Ping(Bytes::new())).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let done = match write {
            Some(Write::Frame(text)) => {
                let mut n_fed = 1;
                let mut fed = sink.feed(Message::text(text)).await;
                // What waits as well goes out with it, in one write.
                while fed.is_ok() {
                    match written.try_recv() {
                        Ok(Write::Frame(text)) => {
                            n_fed += 1;
                            fed = sink.feed(Message::text(text)).await;
                        }
                        Ok(Write::Close(code, reason)) => {
                            let _ = sink.send(Message::Close(Some(CloseFrame { code: code.into(), reason: short(&reason).into() }))).await;
                            return;
                        }
                        Err(_) => break,
                    }
                }
                let flushed = if fed.is_ok() { sink.flush().await } else { fed };
                n_unwritten.fetch_sub(n_fed, Ordering::Relaxed);
                flushed
            }
            Some(Write::Close(code, reason)) => {
                let _ = sink.send(Message::Close(Some(CloseFrame { code: code.into(), reason: short(&reason).into() }))).await;
                return;
            }
            None => return,
        };
        if done.is_err() {
            return;
        }
    }
}

/// A close frame takes no more than this.
fn short(reason: &str) -> String {
    reason[..reason.floor_char_boundary(120)].to_owned()
}
