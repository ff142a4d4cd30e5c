//! How operations may refuse, for the API's description.

use std::collections::BTreeMap;

use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};

use super::problem::MEDIA_TYPE;

/// Responses that nearly every operation may give, for the API's description.
pub(crate) struct Refusals;

/// The controller cannot serve yet.
pub(crate) struct NotReady;

/// [`Refusals`], and that the job is not there.
pub(crate) struct JobRefusals;

/// [`JobRefusals`], and that the job's or the fleet's state does not allow it, or what was sent.
pub(crate) struct StateRefusals;

/// [`JobRefusals`], and that the state of the job or of its dead letter does not allow it.
pub(crate) struct LetterRefusals;

/// What a submission may be refused with.
pub(crate) struct SubmitRefusals;

type Responses = BTreeMap<String, RefOr<utoipa::openapi::Response>>;

fn problems(rows: &[(u16, &str)]) -> Responses {
    let content = || ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let row = |(status, text): &(u16, &str)| {
        let response = ResponseBuilder::new().description(*text).content(MEDIA_TYPE, content()).build();
        (status.to_string(), RefOr::T(response))
    };
    rows.iter().map(row).collect()
}

const COMMON: [(u16, &str); 5] = [
    (400, "The request is not well formed."),
    (401, "A valid bearer token is required."),
    (403, "The token does not allow this."),
    (500, "An error of ours."),
    (503, "The broker did not answer, a store is full, or the controller is still starting; `Retry-After` says when to try again."),
];
const NOT_FOUND: (u16, &str) = (404, "It is not there.");
const CONFLICT: (u16, &str) = (409, "The state of the job or the fleet does not allow this.");

impl utoipa::IntoResponses for Refusals {
    fn responses() -> Responses {
        problems(&COMMON)
    }
}

impl utoipa::IntoResponses for NotReady {
    fn responses() -> Responses {
        problems(&[(503, "What is missing; `Retry-After` says when to try again.")])
    }
}

impl utoipa::IntoResponses for JobRefusals {
    fn responses() -> Responses {
        let mut all = problems(&COMMON);
        all.extend(problems(&[NOT_FOUND]));
        all
    }
}

impl utoipa::IntoResponses for LetterRefusals {
    fn responses() -> Responses {
        let mut all = problems(&COMMON);
        all.extend(problems(&[NOT_FOUND, CONFLICT]));
        all
    }
}

impl utoipa::IntoResponses for StateRefusals {
    fn responses() -> Responses {
        let mut all = problems(&COMMON);
        all.extend(problems(&[
            NOT_FOUND,
            CONFLICT,
            (413, "The body is too large."),
            (415, "The body is not JSON."),
            (422, "A field has a value that cannot be."),
        ]));
        all
    }
}

impl utoipa::IntoResponses for SubmitRefusals {
    fn responses() -> Responses {
        let mut all = problems(&COMMON);
        all.extend(problems(&[
            CONFLICT,
            (413, "The body is too large."),
            (415, "The body is not JSON."),
            (422, "A field has a value that cannot be."),
        ]));
        all
    }
}
