//! `/ws/worker`: from an HTTP request to a connection of a session, or to a refusal.
//!
//! Whoever has not been let in is one of few, says little, and has little time.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use longshore_model::wire::audit::AuditRecord;
use longshore_model::wire::problem::ErrorCode;
use longshore_session::{Greeting, LinkConfig, Refusal};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::attachment::Knock;
use super::socket::{self, Allowance, FRAMES_WAITING_MAX, Out};
use super::{admit, now};
use crate::app::App;
use crate::listener::{Certified, Remote};
use crate::rest::Failed;
use crate::tls::Shown;

/// Where workers attach.
pub(crate) const PATH: &str = "/ws/worker";

/// Answers a request for [`PATH`]; what follows an upgrade is the gateway's own task.
pub(crate) fn open(app: &App, mut request: Request) -> Response<Body> {
    if request.method() != Method::GET {
        return Failed::new(ErrorCode::MethodNotAllowed, "workers attach with a GET that asks for a WebSocket".to_owned()).into_response();
    }
    if !app.config.gateway.is_on {
        let detail = "this controller takes no workers: `controller.gateway.enabled` is off".to_owned();
        return Failed::new(ErrorCode::NotFound, detail).into_response();
    }
    let Some(key) = key_of(request.headers()) else {
        let detail = "this path is for workers: ask for a WebSocket, version 13".to_owned();
        return Failed::new(ErrorCode::BadRequest, detail).into_response();
    };
    let Ok(place) = app.gateway.strangers().try_acquire_owned() else {
        let detail = "too many connections wait to be let in".to_owned();
        return Failed::new(ErrorCode::Unavailable, detail).retryable().into_response();
    };
    if app.drain.is_cancelled() {
        return Failed::new(ErrorCode::Unavailable, "the controller is stopping".to_owned()).retryable().into_response();
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let remote = request.extensions().get::<Remote>().map(|remote| remote.0.ip().to_canonical().to_string());
    let shown = request.extensions().get::<Certified>().map(|certified| Arc::clone(&certified.0));
    app.gateway.spawn(converse(app.clone(), upgrade, place, (remote, shown)));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// The key of a request that asks for a WebSocket.
fn key_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let says = |name, word: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(word))
    };
    let is_asked = says(header::CONNECTION, "upgrade") && says(header::UPGRADE, "websocket") && says(header::SEC_WEBSOCKET_VERSION, "13");
    headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| is_asked).cloned()
}

/// One record for each new session and each refusal; those of strangers are counted where they are many. A resume goes on with what was recorded.
fn audit(app: &App, remote: Option<String>, judged: Result<(&str, &str), &str>) {
    let (id, path) = (uuid::Uuid::now_v7().to_string(), PATH.to_owned());
    let record = AuditRecord { remote, ..AuditRecord::new(id, app.now(), "ATTACH".to_owned(), path) };
    let record = match judged {
        Ok((who, hostname)) => AuditRecord { who: Some(who.to_owned()), targets: vec![hostname.to_owned()], status: Some(101), ..record },
        Err(reason) => {
            let (status, code) = (Some(401), Some(ErrorCode::Unauthenticated));
            AuditRecord { status, code, reason: Some(reason.to_owned()), ..record }
        }
    };
    app.strangers.take(record, Instant::now()).for_each(|record| app.audit.record(record));
}

/// Where a connection comes from, and what it has shown of itself.
type Origin = (Option<String>, Option<Arc<Shown>>);

async fn converse(app: App, upgrade: OnUpgrade, place: OwnedSemaphorePermit, (remote, shown): Origin) {
    let within = app.config.gateway.greeting_within;
    let Ok(Ok(upgraded)) = timeout(within, upgrade).await else { return };
    let left = Allowance::of_a_stranger();
    let mut socket = socket::of(TokioIo::new(upgraded), left.clone(), app.config.gateway.frame_bytes_max).await;
    let link =
        LinkConfig { frame_bytes_in_max: usize::try_from(socket::STRANGER_BYTES_MAX).unwrap_or(usize::MAX), ..app.gateway.link(&app) };
    let Ok(Some(first)) = timeout(within, socket::next_text(&mut socket)).await else {
        return socket::refuse(socket, None, "no greeting in time").await;
    };
    let greeted = Greeting::read(first.as_bytes(), &link).and_then(|greeting| {
        let admitted = admit::judge(&app, &greeting, shown.as_ref(), app.now())?;
        Ok((greeting, admitted))
    });
    let joined = match greeted {
        Err(refusal) => Err(refusal),
        Ok((greeting, admitted)) => {
            if let Some(identity) = &admitted.identity {
                audit(&app, remote.clone(), Ok((&identity.subject, &identity.hostname)));
            }
            let (out, outgoing) = mpsc::channel(FRAMES_WAITING_MAX);
            app.gateway.join(&app, Knock { greeting, admitted, line: out }).await.map(|(binding, heard)| (binding, heard, outgoing))
        }
    };
    match joined {
        Ok((binding, heard, outgoing)) => {
            left.lift();
            drop(place);
            socket::pump(socket, binding, outgoing, heard).await;
        }
        Err(refusal) => {
            audit(&app, remote, Err(&format!("{}: {}", refusal.code, refusal.reason)));
            tracing::info!(code = refusal.code, reason = refusal.reason, "a worker was refused");
            socket::refuse(socket, Some(said(&app, &refusal)), &refusal.reason).await;
        }
    }
}

fn said(app: &App, refusal: &Refusal) -> longshore_session::Text {
    let link = app.gateway.link(app);
    refusal.frame(&link.tenant, &link.sender_id, now(app, app.gateway.began()), uuid::Uuid::now_v7().as_u128())
}

/// What goes out to a worker.
pub(super) type Line = mpsc::Sender<Out>;

/// How many may wait to be let in.
pub(super) fn places() -> Arc<tokio::sync::Semaphore> {
    Arc::new(tokio::sync::Semaphore::new(64))
}
