//! One connection of the stand-in.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};

use super::state::frame;
use super::strict::check;
use super::{Order, Orders, Shared};

static NEXT: AtomicUsize = AtomicUsize::new(1);

type Socket = WebSocketStream<TcpStream>;

/// Why a connection ends from here.
enum End {
    /// With these words first, if any.
    Close(u16, String),
    Cut,
}

pub(super) async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let (refuses_with, closes_at_once) = {
        let state = shared.state();
        (state.refuses_with, state.closes_at_once)
    };
    if let Some(status) = refuses_with {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(format!("HTTP/1.1 {status} Refused\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes()).await;
        return;
    }
    let max = shared.options.frame_bytes_max;
    let config = WebSocketConfig::default().max_message_size(Some(max)).max_frame_size(Some(max));
    let Ok(mut socket) = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await else { return };
    if closes_at_once {
        let _ = socket.close(None).await;
        return;
    }
    let connection = NEXT.fetch_add(1, Ordering::Relaxed);
    let (orders, mut todo) = mpsc::unbounded_channel();
    let (stall, stalled) = watch::channel(Instant::now());
    let (mut sink, stream) = socket.split();
    // Side by side, as the existing scheduler has it: whoever reads only when nothing is left to be said waits for a worker that does the same.
    let end = tokio::select! {
        end = say_all(&mut sink, &mut todo, &stall) => end,
        end = hear_all(stream, stalled, connection, &orders, &shared) => end,
    };
    if let End::Close(code, reason) = end {
        // What was to be said before the close is said.
        while let Ok(Order::Send(text)) = todo.try_recv() {
            let _ = sink.send(Message::text(text)).await;
        }
        let _ = sink.send(Message::Close(Some(CloseFrame { code: code.into(), reason: reason.into() }))).await;
    }
    shared.state().gone(connection);
}

async fn say_all(sink: &mut SplitSink<Socket, Message>, todo: &mut mpsc::UnboundedReceiver<Order>, stall: &watch::Sender<Instant>) -> End {
    loop {
        match todo.recv().await {
            Some(Order::Send(text)) => {
                if sink.send(Message::text(text)).await.is_err() {
                    return End::Cut;
                }
            }
            Some(Order::Close(code, reason)) => return End::Close(code, reason),
            Some(Order::Cut) | None => return End::Cut,
            Some(Order::Stall(time)) => drop(stall.send_replace(Instant::now() + time)),
        }
    }
}

async fn hear_all(
    mut stream: SplitStream<Socket>,
    mut stalled: watch::Receiver<Instant>,
    connection: usize,
    orders: &Orders,
    shared: &Shared,
) -> End {
    loop {
        let until = *stalled.borrow_and_update();
        tokio::select! {
            biased;
            _ = stalled.changed() => {}
            () = tokio::time::sleep_until(until.into()), if until > Instant::now() => {}
            message = stream.next(), if until <= Instant::now() => match message {
                Some(Ok(Message::Text(text))) => {
                    if let Err(end) = take(text.as_str(), connection, orders, shared) {
                        return end;
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Binary(_) | Message::Frame(_))) => return End::Close(1011, "internal error".to_owned()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return End::Cut,
            },
        }
    }
}

fn take(text: &str, connection: usize, orders: &Orders, shared: &Shared) -> Result<(), End> {
    let mut state = shared.state();
    if shared.options.keeps {
        state.received.push(text.to_owned());
    }
    let complain = |state: &mut super::state::State, problem: String| {
        state.complaints.push(problem);
        Err(End::Close(1011, "internal error".to_owned()))
    };
    let envelope: Value = match serde_json::from_str(text) {
        Ok(envelope) => envelope,
        Err(error) => return complain(&mut state, error.to_string()),
    };
    if let Err(problem) = check(&envelope) {
        return complain(&mut state, format!("{problem}: {text}"));
    }
    let say = |kind: &str, payload: &Value, more: Value| {
        let _ = orders.send(Order::Send(frame(kind, payload, more)));
    };
    let reset = |code: &str| {
        say("control.reset", &json!({"code": code, "reason": "refused"}), json!({}));
        Err(End::Close(1011, "refused".to_owned()))
    };
    let (id, payload) = (envelope["id"].clone(), &envelope["payload"]);
    let acknowledge = || say("control.ack", &json!({"ok": true, "for": id}), json!({"ack": {"for": id}}));
    let instance = envelope["sender"]["id"].as_str().unwrap_or_default();
    let kind = envelope["type"].as_str().unwrap_or_default();
    *state.n_received.entry(kind.to_owned()).or_default() += 1;
    match kind {
        "control.handshake" => {
            let token = payload["auth"]["token"].as_str().unwrap_or_default();
            let proof = if payload["auth"]["mode"] == "mtls" { payload["auth"]["fingerprint"].as_str().unwrap_or_default() } else { token };
            if proof.is_empty() {
                return reset("E.AUTH.MISSING_TOKEN");
            }
            if shared.options.token.as_deref().is_some_and(|wanted| wanted != proof) {
                return reset("E.AUTH.INVALID_TOKEN");
            }
            state.begin(connection, orders, instance);
            acknowledge();
        }
        "control.resume" => {
            let accepted =
                if shared.options.resumes { state.resume(connection, orders, instance, payload) } else { Err("E.SESSION.UNKNOWN") };
            match accepted {
                Ok(accept) => {
                    acknowledge();
                    say("control.session.accept", &accept, json!({}));
                }
                Err(code) => return reset(code),
            }
        }
        _ if !state.is_current(connection) => return reset("E.AUTH.HANDSHAKE_REQUIRED"),
        "control.register" => {
            acknowledge();
            if let Some(accept) = state.register(payload).filter(|_| shared.options.accepts) {
                say("control.session.accept", &accept, json!({}));
                state.send_waiting(shared.options.window);
            }
        }
        "control.ack" => {
            state.acknowledged(&envelope, &shared.options);
        }
        _ if kind.starts_with("control.") => state.frames.push(envelope),
        _ => state.numbered(envelope, &shared.options),
    }
    Ok(())
}
