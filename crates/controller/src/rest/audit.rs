//! What surrounds every call for the audit trail: calls that may change something or have somebody do something, and calls that are refused,
//! are recorded once their answer is known, or once it is known that nobody waits for one.
//!
//! Looks at the method, the path and the answer's head, and never at a body, a query or a token.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use axum::http::{Response, StatusCode, header, request::Parts};
use longshore_model::limits::AUDIT_TEXT_BYTES_MAX;
use longshore_model::operation::Operation;
use longshore_model::wire::audit::AuditRecord;
use longshore_model::wire::problem::Problem;
use longshore_model::{JobId, Target};
use tokio::time::Instant;

use super::observe::RequestId;
use super::problem;
use crate::app::App;
use crate::listener::Remote;

/// What is found out about a call while it is served, by whoever finds it out.
#[derive(Clone, Default)]
pub(crate) struct Known(Arc<Found>);

#[derive(Default)]
struct Found {
    name: OnceLock<String>,
    asked: OnceLock<(String, Option<String>)>,
}

impl Known {
    /// Who the token stands for.
    pub(super) fn is(&self, name: &str) {
        let _ = self.0.name.set(cut(name));
    }

    /// What is to be done, and by whom, whether or not it will be. What is no operation and no target could be anything, and is left out.
    pub(super) fn asks(&self, operation: &str, target: Option<&str>) {
        let Some(operation) = Operation::by_name(operation) else { return };
        let target = target.filter(|target| target.parse::<Target>().is_ok()).map(cut);
        let _ = self.0.asked.set((operation.name().to_owned(), target));
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Known {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or_default())
    }
}

/// Records the call.
pub(super) async fn record<F>(app: App, mut request: Request, answer: impl FnOnce(Request) -> F) -> Response<Body>
where
    F: Future<Output = Response<Body>>,
{
    let known = Known::default();
    let call = Call::new(app, &request, known.clone());
    request.extensions_mut().insert(known);
    let response = answer(request).await;
    call.answered(&response);
    response
}

/// A call under way. One that could change something leaves a record although its caller hangs up.
struct Call {
    app: App,
    known: Known,
    /// Whether its method says that it only reads.
    is_safe: bool,
    record: Option<AuditRecord>,
}

impl Call {
    fn new(app: App, request: &Request, known: Known) -> Self {
        let (path, extensions) = (request.uri().path(), request.extensions());
        let is_safe = request.method().is_safe();
        let job = path.split('/').find_map(|segment| segment.parse().ok());
        let named = ["/agents/", "/nodes/"].iter().find_map(|noun| path.split_once(noun));
        let target = named.map(|(_, rest)| cut(rest.split('/').next().unwrap_or_default()));
        let mut record = AuditRecord {
            request_id: extensions.get::<RequestId>().map(|RequestId(id)| id.clone()).unwrap_or_default(),
            remote: extensions.get::<Remote>().map(|Remote(address)| address.ip().to_string()),
            targets: target.into_iter().collect(),
            ..AuditRecord::new(uuid::Uuid::now_v7().to_string(), app.now(), cut(request.method().as_str()), cut(path))
        };
        // Before it is done: a delete leaves nothing to look at.
        if let Some(job) = job.filter(|_| !is_safe) {
            describe(&app, &mut record, job);
        } else {
            record.job = job;
        }
        Self { app, known, is_safe, record: Some(record) }
    }

    /// Whether it does no more than read. A door that is read from makes a job all the same, and says what that is to do.
    fn only_reads(&self) -> bool {
        self.is_safe && self.known.0.asked.get().is_none()
    }

    fn answered(mut self, response: &Response<Body>) {
        let status = response.status();
        let is_refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let Some(mut record) = self.record.take() else { return };
        let problem = response.extensions().get::<Box<Problem>>();
        // Outside the API nobody's handler answered: there is no such path, or not with this method.
        let is_nowhere = problem.is_none() && status.is_client_error() && !record.path.starts_with("/api/");
        if is_nowhere || (self.only_reads() && !is_refused) {
            return;
        }
        record.status = Some(status.as_u16());
        if status.is_client_error() || status.is_server_error() {
            record.code = Some(problem.map_or_else(|| problem::of_status(status).code, |problem| problem.code));
        }
        if is_refused {
            // These say what the token lacks. Others may repeat what was sent.
            record.reason = problem.map(|problem| cut(&problem.detail));
        }
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        if let Some(job) = location.and_then(|location| location.split('/').find_map(|segment| segment.parse().ok())) {
            describe(&self.app, &mut record, job);
        }
        self.finish(record);
    }

    fn finish(&self, mut record: AuditRecord) {
        record.at = self.app.now();
        let Found { name, asked } = &*self.known.0;
        record.who = name.get().cloned();
        // What was asked for is what was done, unless the job itself has said it.
        if let Some((operation, target)) = asked.get().filter(|_| record.operation.is_none()) {
            record.operation = Some(operation.clone());
            record.targets.extend(target.clone());
        }
        self.app.strangers.take(record, Instant::now()).for_each(|record| self.app.audit.record(record));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(record) = self.record.take().filter(|_| !self.only_reads()) {
            self.finish(record);
        }
    }
}

/// What the index knows of a job that a call is about.
fn describe(app: &App, record: &mut AuditRecord, job: JobId) {
    record.job = Some(job);
    if let Some((operation, target)) = app.index().asked(job) {
        record.operation = Some(operation);
        record.targets = vec![target];
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(AUDIT_TEXT_BYTES_MAX)].to_owned()
}
