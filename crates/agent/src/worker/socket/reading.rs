//! The task that reads.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::SplitStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::super::dial::WebSocket;
use super::Received;
use super::meter::Meter;

/// When a connection is taken for gone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Between pings.
    ping_every: Duration,
    /// A connection over which nothing comes and nothing goes for this long is gone.
    silence_max: Duration,
}

/// Pings as often as the existing ends do.
pub(super) const USUAL: Patience = Patience { ping_every: Duration::from_secs(20), silence_max: Duration::from_secs(60) };

/// What has to go between two pings to count: more than the pings and heartbeats that a system takes for a peer that is gone.
const WRITTEN_MIN: u64 = 16 << 10;

/// Reads until the end, which it tells unless nobody takes it.
pub(super) async fn read(
    mut stream: SplitStream<WebSocket>,
    received: mpsc::Sender<Received>,
    pings: mpsc::Sender<()>,
    meter: Meter,
    patience: Patience,
) {
    let mut next_ping = tokio::time::interval(patience.ping_every);
    next_ping.tick().await;
    let mut life = Life { seen_at: Instant::now(), written: meter.written(), meter, silence_max: patience.silence_max };
    let mut pinged_at = None;
    loop {
        let message = tokio::select! {
            message = stream.next() => message,
            _ = next_ping.tick() => {
                if !life.goes_on() {
                    let reason = format!("timed out: nothing was heard for {} s", patience.silence_max.as_secs());
                    let _ = received.try_send(Received::Closed { code: None, reason });
                    return;
                }
                pinged_at = Some(Instant::now());
                let _ = pings.try_send(());
                continue;
            }
        };
        life.seen_at = Instant::now();
        let event = match message {
            Some(Ok(Message::Text(text))) => Received::Frame(text.into()),
            Some(Ok(Message::Binary(bytes))) => Received::Frame(bytes),
            Some(Ok(Message::Pong(_))) => match pinged_at.take() {
                Some(at) => Received::RoundTrip(at.elapsed()),
                None => continue,
            },
            Some(Ok(Message::Ping(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Close(frame))) => closed(frame),
            Some(Err(error)) => Received::Closed { code: None, reason: reason(&error) },
            None => Received::Closed { code: None, reason: "the connection was closed".to_owned() },
        };
        let is_end = matches!(event, Received::Closed { .. });
        // The session takes nothing while the peer takes nothing of it, and that must end as well.
        let place = loop {
            tokio::select! {
                place = received.reserve() => break place,
                _ = next_ping.tick() => {
                    if !life.goes_on() {
                        return;
                    }
                }
            }
        };
        let Ok(place) = place else { return };
        place.send(event);
        if is_end {
            return;
        }
    }
}

/// When the peer showed last that it is there: it said something, or took a good deal.
struct Life {
    seen_at: Instant,
    meter: Meter,
    written: u64,
    silence_max: Duration,
}

impl Life {
    fn goes_on(&mut self) -> bool {
        let written = self.meter.written();
        if written.saturating_sub(std::mem::replace(&mut self.written, written)) >= WRITTEN_MIN {
            self.seen_at = Instant::now();
        }
        self.seen_at.elapsed() <= self.silence_max
    }
}

fn closed(frame: Option<CloseFrame>) -> Received {
    match frame {
        Some(frame) => Received::Closed { code: Some(frame.code.into()), reason: frame.reason.as_str().to_owned() },
        None => Received::Closed { code: None, reason: "closed without a word".to_owned() },
    }
}

/// What the error says, without any of the frame: that may hold secrets.
fn reason(error: &Error) -> String {
    match error {
        Error::Capacity(capacity) => format!("too large: {capacity}"),
        Error::WriteBufferFull(_) => "the write buffer is full".to_owned(),
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Io(_)
        | Error::Tls(_)
        | Error::Protocol(_)
        | Error::Utf8(_)
        | Error::AttackAttempt
        | Error::Url(_)
        | Error::Http(_)
        | Error::HttpFormat(_) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use futures::SinkExt;

    use super::super::tests::ends;
    use super::*;

    const SOON: Patience = Patience { ping_every: Duration::from_millis(10), silence_max: Duration::from_millis(50) };

    #[tokio::test]
    async fn a_peer_that_says_nothing_is_let_go_of() {
        let (near, _far) = ends().await;
        let meter = near.get_ref().meter();
        let (received_tx, mut received) = mpsc::channel(1);
        read(near.split().1, received_tx, mpsc::channel(1).0, meter, SOON).await;
        assert!(matches!(received.recv().await, Some(Received::Closed { code: None, reason }) if reason.contains("timed out")));
    }

    #[tokio::test]
    async fn a_peer_is_let_go_of_that_is_not_listened_to_because_it_takes_nothing() {
        let (near, mut far) = ends().await;
        let meter = near.get_ref().meter();
        let (received_tx, mut received) = mpsc::channel(1);
        for text in ["one", "two"] {
            far.send(Message::text(text)).await.unwrap();
        }
        read(near.split().1, received_tx, mpsc::channel(1).0, meter, SOON).await;
        assert!(matches!(received.recv().await, Some(Received::Frame(_))));
        assert!(received.recv().await.is_none());
    }

    #[test]
    fn a_peer_that_takes_a_good_deal_is_there() {
        let seen_at = Instant::now().checked_sub(Duration::from_secs(100)).unwrap();
        let mut life = Life { seen_at, meter: Meter::default(), written: 0, silence_max: Duration::from_secs(60) };
        life.meter.add(600);
        assert!(!life.goes_on());
        life.meter.add(WRITTEN_MIN);
        assert!(life.goes_on());
    }
}
