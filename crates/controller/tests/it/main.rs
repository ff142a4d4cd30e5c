//! The controller over the in-memory stores, through real HTTP, with agents that the tests play.

#![expect(clippy::unwrap_used, reason = "a test's helper fails its test by panicking")]

mod access;
mod agents;
mod artifacts;
mod audit;
mod bodies;
mod broker;
mod cancel;
mod cors;
mod dead_letters;
mod delete;
mod drain;
mod earlier;
mod gateway;
mod health;
mod hostile;
mod large;
mod list;
mod nodes;
mod openapi;
mod refusals;
mod retry;
mod secrets;
mod streams;
mod submit;
mod support;
mod targets;
mod tokens;
