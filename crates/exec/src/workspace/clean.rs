//! Removes workspaces.

use std::os::fd::AsFd;

use super::stage::Place;
use crate::files;

/// Removes a workspace. What resists, such as a mount inside it, is reported and left for the next start to try again.
pub(crate) fn clean(place: &Place) {
    if let Err(error) = files::remove(place.parent.as_fd(), &place.name) {
        tracing::warn!(%error, workspace = %place.name.to_string_lossy(), "a workspace could not be removed");
    }
}
