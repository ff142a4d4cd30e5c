//! The executor from outside: real processes, real files.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected may panic, also in its helpers")]

mod bundles;
mod carriers;
mod commands;
mod contained;
mod dns;
mod drive;
mod endings;
mod escapes;
mod hanging;
mod hostname;
mod hosts;
mod leftovers;
mod node;
mod packages;
mod ping;
mod real;
mod secrets;
mod shared;
mod staging;
mod support;
mod syncing;
mod tricks;
mod workspaces;
