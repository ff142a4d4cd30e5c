//! Our own extractors, so that every refusal is a problem document that names the place.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRef, FromRequest, FromRequestParts, Path, Request};
use axum::http::{HeaderMap, Uri, header, request::Parts};
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use longshore_model::limits::{PAGE_MAX, REQUEST_BYTES_MAX};
use longshore_model::unit::Span;
use longshore_model::wire::problem::{ErrorCode, FieldError};
use longshore_model::wire::read::{Unreadable, read as read_json};
use longshore_model::{HostName, JobId};
use serde::de::DeserializeOwned;

use super::problem::Failed;
use crate::app::App;
use crate::app::delete::Running;
use crate::index::Moment;

/// Bytes of an oversized body that are read and dropped, so that a client that is still sending gets to read the answer.
const DRAINED_BYTES_MAX: usize = 8 * REQUEST_BYTES_MAX;
/// How long a JSON body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// A JSON body of at most [`REQUEST_BYTES_MAX`].
pub(crate) struct Json<T>(pub(crate) T);

/// Like [`Json`], but nothing at all stands for the default.
pub(crate) struct OptionalJson<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Failed;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failed> {
        check_media_type(request.headers())?;
        parse(&read(request).await?).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJson<T> {
    type Rejection = Failed;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failed> {
        let media_type = check_media_type(request.headers());
        let body = read(request).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        media_type?;
        parse(&body).map(Self)
    }
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Failed> {
    let found = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = found.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let found = if essence.is_empty() { "no media type".to_owned() } else { format!("{essence:?}") };
    Err(Failed::new(ErrorCode::UnsupportedMediaType, format!("the body has {found}; it takes application/json")))
}

async fn read(request: Request) -> Result<Vec<u8>, Failed> {
    tokio::time::timeout(BODY_WITHIN, read_bounded(request))
        .await
        .map_err(|_| Failed::new(ErrorCode::BadRequest, "the body did not arrive in time").retryable())?
}

async fn read_bounded(request: Request) -> Result<Vec<u8>, Failed> {
    let mut body = request.into_body().into_data_stream();
    let mut bytes = Vec::new();
    let mut total = 0;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|_| Failed::new(ErrorCode::BadRequest, "the body broke off").retryable())?;
        total += chunk.len();
        if total > DRAINED_BYTES_MAX {
            break;
        }
        if total <= REQUEST_BYTES_MAX {
            bytes.extend_from_slice(&chunk);
        }
    }
    if total > REQUEST_BYTES_MAX {
        return Err(Failed::new(ErrorCode::TooLarge, format!("the body has more than {REQUEST_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failed> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = read_json(&mut reader).map_err(|Unreadable { pointer, cause }| {
        let failed = Failed::new(ErrorCode::BadRequest, format!("the body cannot be read: {cause}"));
        if cause.is_data() { failed.fields(vec![FieldError { pointer, detail: cause.to_string() }]) } else { failed }
    })?;
    reader.end().map_err(|cause| Failed::new(ErrorCode::BadRequest, format!("the body cannot be read: {cause}")))?;
    Ok(value)
}

/// The job a path names.
pub(crate) struct JobPath(pub(crate) JobId);

impl<S: Send + Sync> FromRequestParts<S> for JobPath {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let segments = path_of::<Vec<(String, String)>, S>(parts, state).await?;
        let id = segments.into_iter().find(|(name, _)| name == "id").map(|(_, id)| id).unwrap_or_default();
        id.parse().map(Self).map_err(|error| Failed::new(ErrorCode::NotFound, format!("there is no such job: {error}")))
    }
}

/// The agent a path names, by its id or its host's name.
pub(crate) struct AgentPath(pub(crate) HostName);

impl<S: Send + Sync> FromRequestParts<S> for AgentPath {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let name: String = path_of(parts, state).await?;
        name.parse().map(Self).map_err(|error| Failed::new(ErrorCode::NotFound, format!("there is no such agent: {error}")))
    }
}

/// A path's segments as text.
pub(crate) async fn path_of<T, S>(parts: &mut Parts, state: &S) -> Result<T, Failed>
where
    T: DeserializeOwned + Send,
    S: Send + Sync,
{
    let Path(segments) = Path::<T>::from_request_parts(parts, state)
        .await
        .map_err(|_| Failed::new(ErrorCode::NotFound, "there is no such path: it is not valid UTF-8"))?;
    Ok(segments)
}

/// What can be read from a query's fields.
pub(crate) trait FromQuery: Sized {
    /// Takes its fields; whatever is left over is refused.
    fn from_fields(fields: &mut Fields) -> Result<Self, Failed>;
}

/// What a delete does with a job that has not ended.
pub(crate) struct Force(pub(crate) Running);

impl FromQuery for Force {
    fn from_fields(fields: &mut Fields) -> Result<Self, Failed> {
        let is_forced = fields.flag("force")?.unwrap_or(false);
        Ok(Self(if is_forced { Running::CancelFirst } else { Running::Refuse }))
    }
}

/// A query, every field of it known and readable.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: FromQuery> FromRequestParts<S> for Query<T>
where
    App: FromRef<S>,
{
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        let mut fields = Fields::of(&parts.uri, App::from_ref(state).store.clock.now())?;
        let value = T::from_fields(&mut fields)?;
        match fields.first() {
            None => Ok(Self(value)),
            Some(name) => Err(bad_query(name, "is not a field of this query, or was given twice")),
        }
    }
}

/// The fields of a query that nobody has taken yet.
pub(crate) struct Fields {
    left: Vec<(String, String)>,
    /// What ages count from.
    now: Timestamp,
}

impl Fields {
    pub(crate) fn of(uri: &Uri, now: Timestamp) -> Result<Self, Failed> {
        axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map(|axum::extract::Query(left)| Self { left, now })
            .map_err(|error| Failed::new(ErrorCode::BadRequest, format!("the query cannot be read: {error}")))
    }

    /// The name of one that is left, if any is.
    pub(crate) fn first(&self) -> Option<&str> {
        self.left.first().map(|(name, _)| name.as_str())
    }

    /// The value of a field; of one that was given several times the first, and the next one then.
    pub(crate) fn one(&mut self, name: &str) -> Option<String> {
        let place = self.left.iter().position(|(field, _)| field == name)?;
        Some(self.left.remove(place).1)
    }

    /// The value of a field, read.
    pub(crate) fn read<T, E: ToString>(&mut self, name: &str, read: impl FnOnce(&str) -> Result<T, E>) -> Result<Option<T>, Failed> {
        let Some(text) = self.one(name) else { return Ok(None) };
        read(&text).map(Some).map_err(|error| bad_query(name, &error.to_string()))
    }

    /// A time, or how long ago.
    pub(crate) fn moment(&mut self, name: &str) -> Result<Option<Moment>, Failed> {
        let now = self.now;
        self.read(name, |text| moment(text, now))
    }

    /// How many items a page has.
    pub(crate) fn limit(&mut self) -> Result<Option<usize>, Failed> {
        self.read("limit", |text| match text.parse() {
            Ok(limit @ 1..=PAGE_MAX) => Ok(limit),
            Ok(_) | Err(_) => Err(format!("takes 1 to {PAGE_MAX}")),
        })
    }

    /// A field that is `true` or `false`. Without a value it is neither: a variable of a script that is empty must not force anything.
    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, Failed> {
        self.read(name, |text| text.parse().map_err(|_| "takes `true` or `false`"))
    }
}

fn moment(text: &str, now: Timestamp) -> Result<Moment, &'static str> {
    let ago = |Span(span): Span| now.checked_sub(SignedDuration::try_from(span).ok()?).ok();
    let at = text.parse().ok().or_else(|| ago(text.parse().ok()?)).ok_or("takes an RFC 3339 time, or how long ago such as `1h`")?;
    Ok(Moment { asked: text.to_owned(), at })
}

/// A query's field has a value that cannot be.
pub(crate) fn bad_query(name: &str, detail: &str) -> Failed {
    let name: String = name.chars().take(64).collect();
    let field = FieldError { pointer: format!("?{name}"), detail: detail.to_owned() };
    Failed::new(ErrorCode::BadRequest, format!("the query's field {name:?} {detail}")).fields(vec![field])
}

/// A body as it arrives.
pub(crate) fn content(body: Body) -> impl futures::Stream<Item = std::io::Result<bytes::Bytes>> + Send + 'static {
    body.into_data_stream().map(|chunk| chunk.map_err(std::io::Error::other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_counts_from_the_stores_time_and_a_moment_stands_for_itself() {
        // A host whose own clock is hours away from it.
        let now: Timestamp = "2001-02-03T04:05:06Z".parse().unwrap();
        let read = |query: &str| {
            let uri = format!("/jobs?since={query}").parse().unwrap();
            Fields::of(&uri, now).unwrap().moment("since").map(|moment| moment.unwrap().at)
        };
        assert_eq!(read("1h").unwrap(), now - SignedDuration::from_hours(1));
        assert_eq!(read("2020-01-01T00:00:00Z").unwrap(), "2020-01-01T00:00:00Z".parse().unwrap());
        for nonsense in ["", "yesterday", "-1h", "99999999999h"] {
            assert!(read(nonsense).is_err(), "{nonsense}");
        }
    }
}
