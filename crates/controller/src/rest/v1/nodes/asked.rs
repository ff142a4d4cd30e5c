//! What a door is asked: the target and the interface of its path, and the arguments in its body.

use axum::RequestExt as _;
use axum::extract::{FromRequest, Request};
use axum::http::Method;
use longshore_model::wire::problem::{ErrorCode, FieldError};
use serde_json::{Map, Value};

use crate::rest::extract::{Fields, FromQuery, Json, path_of};
use crate::rest::problem::Failed;
use crate::rest::v1::jobs::query::Wait;

/// A request to a door.
pub(super) struct Asked {
    pub(super) target: String,
    pub(super) args: Map<String, Value>,
    pub(super) origin: Origin,
}

/// How long the answers are waited for, and how long the work may take. The latter is read where that of any submission is.
pub(super) struct Times {
    pub(super) wait: Wait,
    pub(super) timeout: Option<String>,
}

impl FromQuery for Times {
    fn from_fields(fields: &mut Fields) -> Result<Self, Failed> {
        Ok(Self { wait: Wait::from_fields(fields)?, timeout: fields.one("timeout") })
    }
}

/// Where the arguments came from, so that a refusal can name the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Body,
    /// The interface from the path, the rest from the body.
    PathAndBody,
}

impl Origin {
    /// Where a field of the submission stands in the request: in its body, as `{target}` or `{interface}` in its path, or
    /// as `?timeout` in its query.
    pub(super) fn place(self, pointer: &str) -> String {
        match (pointer, self) {
            ("/target", _) => "{target}".to_owned(),
            ("/timeout", _) => "?timeout".to_owned(),
            ("/args/interface", Self::PathAndBody) => "{interface}".to_owned(),
            (other, _) => other.strip_prefix("/args").unwrap_or(other).to_owned(),
        }
    }
}

impl<S: Send + Sync> FromRequest<S> for Asked {
    type Rejection = Failed;

    async fn from_request(mut request: Request, state: &S) -> Result<Self, Failed> {
        let segments = request.extract_parts_with_state::<Segments, S>(state).await?;
        // A door that is read from takes no arguments but those in its path.
        let mut args = match *request.method() {
            Method::GET => Map::new(),
            _ => Json::from_request(request, state).await?.0,
        };
        let origin = match segments.interface {
            None => Origin::Body,
            Some(interface) => {
                let interface = Value::String(interface);
                if args.get("interface").is_some_and(|other| *other != interface) {
                    let field = FieldError { pointer: "/interface".to_owned(), detail: "differs from the path's".to_owned() };
                    return Err(Failed::new(ErrorCode::Validation, "the body's `interface` differs from the path's").fields(vec![field]));
                }
                args.insert("interface".to_owned(), interface);
                Origin::PathAndBody
            }
        };
        Ok(Self { target: segments.target, args, origin })
    }
}

struct Segments {
    target: String,
    interface: Option<String>,
}

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Segments {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self, Failed> {
        let mut segments = path_of::<Vec<(String, String)>, S>(parts, state).await?;
        let mut take = |name: &str| segments.iter().position(|(segment, _)| segment == name).map(|place| segments.swap_remove(place).1);
        Ok(Self { target: take("target").unwrap_or_default(), interface: take("interface") })
    }
}
