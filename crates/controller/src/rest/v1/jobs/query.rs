//! Query fields that several verbs take.

use std::time::Duration;

use longshore_model::limits::WAIT_MAX;
use longshore_model::unit::Span;

use crate::rest::extract::{Fields, FromQuery, bad_query};
use crate::rest::problem::Failed;

/// How long to wait for the job's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    No,
    /// `?wait` without a value: as long as the configuration says.
    Default,
    For(Duration),
}

impl Wait {
    pub(crate) fn duration(self, default: Duration) -> Option<Duration> {
        match self {
            Self::No => None,
            Self::Default => Some(default),
            Self::For(span) => Some(span),
        }
    }
}

impl FromQuery for Wait {
    fn from_fields(fields: &mut Fields) -> Result<Self, Failed> {
        let wait =
            fields.read("wait", |text| if text.is_empty() { Ok(Self::Default) } else { text.parse().map(|Span(span)| Self::For(span)) })?;
        match wait {
            Some(Self::For(span)) if span > WAIT_MAX => Err(bad_query("wait", &format!("takes at most {}", Span(WAIT_MAX)))),
            other => Ok(other.unwrap_or(Self::No)),
        }
    }
}
