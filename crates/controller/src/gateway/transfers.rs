//! Bundles to workers, and archives from them: HTTP beside the session, for whoever shows the pass of an attempt that runs.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use longshore_model::ExecutionState;
use longshore_model::job::{Execution, Job};
use longshore_model::operation::is_sha256;
use longshore_model::wire::problem::ErrorCode;
use longshore_store::{Objects, archive_name, bundle_name};
use tokio_util::io::{ReaderStream, StreamReader};

use super::ticket::Pass;
use crate::app::{App, Error, bundles};
use crate::rest::{Failed, content};

/// Where a worker fetches a bundle.
const BUNDLE: &str = "/ws/worker/bundle";
/// Where it brings an archive.
const ARCHIVE: &str = "/ws/worker/archive";
/// What says of an archive what it hashes to.
const DIGEST: &str = "longshore-sha256";

/// Whether a path is one of these.
pub(crate) fn is_transfer(path: &str) -> bool {
    path == BUNDLE || path == ARCHIVE
}

/// Answers a request for one of them.
pub(crate) async fn serve(app: &App, request: Request) -> Response<Body> {
    let answer = match (request.uri().path(), request.method()) {
        (BUNDLE, &Method::GET) => bundle(app, request.headers()).await,
        (ARCHIVE, &Method::PUT) => archive(app, request).await,
        _ => Err(Failed::new(ErrorCode::MethodNotAllowed, "a bundle is got, an archive is put".to_owned())),
    };
    answer.unwrap_or_else(|failed| failed.into_response())
}

/// The pass of an attempt that runs, by the ledger.
async fn pass(app: &App, headers: &HeaderMap) -> Result<Pass, Failed> {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("Bearer "));
    let known = shown.and_then(|text| Pass::check(&app.config.signing_key, text.trim(), app.now()));
    let pass = known.ok_or_else(|| Failed::new(ErrorCode::Unauthenticated, "there is no pass, or it is wrong or too old".to_owned()))?;
    let record = app.store.ledger.load_execution(pass.job, pass.execution).await.map_err(Error::from)?;
    let execution = record.and_then(|record| Execution::fold(&record.events, record.answer.as_ref()).ok());
    let runs = execution.is_some_and(|execution| {
        let is_held = execution.holder().is_some_and(|(agent, _)| agent == pass.agent);
        let is_open = matches!(execution.state(), ExecutionState::Running | ExecutionState::Lost) && !execution.is_answered();
        is_held && is_open && execution.attempts() == pass.attempt
    });
    if runs { Ok(pass) } else { Err(Failed::new(ErrorCode::NotFound, "the attempt of the pass is over".to_owned())) }
}

async fn bundle(app: &App, headers: &HeaderMap) -> Result<Response<Body>, Failed> {
    let pass = pass(app, headers).await?;
    let absent = || Failed::new(ErrorCode::NotFound, "the bundle is not in the object store any more".to_owned());
    let record = app.store.ledger.load(pass.job).await.map_err(Error::from)?.ok_or_else(absent)?;
    let job = Job::try_from(record.definition).map_err(|_| absent())?;
    let name = bundle_name(job.call.bundle().ok_or_else(absent)?);
    let objects = &app.store.objects;
    let info = objects.info(&name).await.map_err(Error::from)?.ok_or_else(absent)?;
    let bytes = objects.get(&name).await.map_err(Error::from)?.ok_or_else(absent)?;
    let headers = [(header::CONTENT_LENGTH, info.size.to_string()), (header::CONTENT_TYPE, "application/zstd".to_owned())];
    Ok((headers, Body::from_stream(ReaderStream::with_capacity(bundles::patient(bytes), 128 * 1024))).into_response())
}

async fn archive(app: &App, request: Request) -> Result<Response<Body>, Failed> {
    let pass = pass(app, request.headers()).await?;
    let digest = request.headers().get(DIGEST).and_then(|value| value.to_str().ok()).filter(|text| is_sha256(text)).map(str::to_owned);
    let digest = digest.ok_or_else(|| Failed::new(ErrorCode::BadRequest, format!("{DIGEST} says what the archive hashes to")))?;
    store(&app.store.objects, app, &archive_name(pass.job, pass.execution), &digest, request.into_body()).await?;
    tracing::info!(job.id = %pass.job, agent.id = %pass.agent, "a worker brought an archive");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Stores it whole, or not at all.
async fn store(objects: &Arc<dyn Objects>, app: &App, name: &str, digest: &str, body: Body) -> Result<(), Failed> {
    let verdict = Arc::new(Mutex::new(None));
    let checked = bundles::checked(content(body), digest.to_owned(), Arc::clone(&verdict));
    // In a task of its own: a worker that goes away ends the content, and the store then removes what it had taken of it.
    let (objects, name) = (Arc::clone(objects), name.to_owned());
    let storing = app.streams.spawn(async move { objects.put(&name, Box::pin(StreamReader::new(checked))).await });
    let outcome = storing.await.map_err(|error| Error::Upload(std::io::Error::other(error)))?;
    // The store saw a broken stream; why it broke was noted.
    if let Some(refused) = verdict.lock().expect("no holder of this lock panics").take() {
        return Err(refused.into());
    }
    outcome.map_err(Error::from)?;
    Ok(())
}
