//! The operations on a host, one file or directory per domain. Arguments come parsed; what goes wrong becomes a [`crate::Finished`].

pub(crate) mod command;
pub(crate) mod dns;
pub(crate) mod hostname;
pub(crate) mod node;
pub(crate) mod ping;
mod tool;

use longshore_model::operation::{InterfaceName, nearest};
use longshore_model::wire::problem::ErrorCode;
use serde::Serialize;

use crate::executor::Host;
use crate::finished::Finished;

/// What an operation gave, or how it ended otherwise.
type Ended<T> = Result<T, Box<Finished>>;

fn answer<T: Serialize>(changed: bool, result: &T) -> Finished {
    match serde_json::to_value(result) {
        Ok(json) => Finished::completed(Some(changed), json),
        Err(error) => Finished::failed(ErrorCode::Internal, format!("the result is not JSON: {error}")),
    }
}

/// For an interface that the host does not have: which it may have been.
fn no_interface(host: &Host, interface: &InterfaceName) -> Finished {
    let there = host.machine.interfaces();
    let near = nearest(interface.as_str(), there.iter().map(String::as_str));
    let hint = match (near.as_slice(), there.len()) {
        ([], 0) => "the host has none".to_owned(),
        ([], _) => format!("there are {}", there[..there.len().min(16)].join(", ")),
        (near, _) => format!("did you mean {}?", near.join(", ")),
    };
    Finished::failed(ErrorCode::Validation, format!("the host has no network interface {:?}: {hint}", interface.as_str()))
}
