//! Answers that carry large results: their room in memory is given back when they are sent, and a reader that takes nothing any more
//! does not keep it.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::problem::Failed;
use super::sse;
use crate::app::{App, Error};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Bytes that most answers have room in.
const USUAL_BYTES: usize = 2048;
/// Bytes of a piece that is handed to the connection.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces that may wait for the connection.
const PIECES_WAITING: usize = 4;
/// How long a reader may take nothing.
const READER_STALLED_AFTER: Duration = Duration::from_secs(30);

/// `body` as JSON. With `room`, what it takes up is counted until the last of it is sent.
pub(crate) async fn json<T: Serialize + Send + 'static>(
    app: &App,
    body: T,
    room: Option<OwnedSemaphorePermit>,
) -> Result<Response, Failed> {
    let unreadable = |error: String| Failed::from(Error::Result { problem: error });
    let Some(room) = room else {
        let mut bytes = Vec::with_capacity(USUAL_BYTES);
        serde_json::to_writer(&mut bytes, &body).map_err(|error| unreadable(error.to_string()))?;
        return Ok(([(header::CONTENT_TYPE, JSON)], bytes).into_response());
    };
    let encoding = tokio::task::spawn_blocking(move || serde_json::to_vec(&body));
    let encoded = encoding.await.map_err(|error| unreadable(error.to_string()))?.map_err(|error| unreadable(error.to_string()))?;
    let mut left = Bytes::from(encoded);
    let length = left.len();
    let (tx, pieces) = mpsc::channel(PIECES_WAITING);
    app.streams.spawn(async move {
        let _held = room;
        while !left.is_empty() {
            let piece = Ok::<_, std::io::Error>(left.split_to(left.len().min(PIECE_BYTES)));
            // A reader that has gone or sleeps sees an answer that breaks off: its length was announced.
            if tx.send_timeout(piece, READER_STALLED_AFTER).await.is_err() {
                return;
            }
        }
    });
    let headers = [(header::CONTENT_TYPE, JSON), (header::CONTENT_LENGTH, HeaderValue::from(length))];
    Ok((headers, Body::from_stream(sse::stream(pieces))).into_response())
}
