//! Use cases, one a file. They take parsed values and a [`Caller`], check what it may, decide from the
//! ledger, and write under its guard. No HTTP here.

pub(crate) mod artifacts;
pub(crate) mod bundles;
pub(crate) mod cancel;
pub(crate) mod delete;
pub(crate) mod drain;
mod error;
pub(crate) mod events;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod logs;
mod patience;
mod record;
pub(crate) mod retry;
mod search;
mod state;
pub(crate) mod status;
pub(crate) mod stream;
pub(crate) mod submit;

pub(crate) use error::Error;
pub(crate) use longshore_model::wire::problem::chain;
pub(crate) use record::{Place, Standing, fold, job_view, lines, shown_to, standing};
pub(crate) use state::App;

use longshore_model::access::Caller;

/// Refuses a caller that lacks a permission.
pub(crate) fn permit(caller: &Caller, permission: &'static str) -> Result<(), Error> {
    if caller.may(permission) { Ok(()) } else { Err(Error::Forbidden { permission }) }
}

#[cfg(test)]
mod tests;
