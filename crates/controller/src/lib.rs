//! The controller: the REST API, the index behind its lists, the event streams, and the reconcilers.
//!
//! It decides nothing from memory: every decision loads the ledger, folds, and writes under the ledger's guard, so that any number of
//! controllers may stand side by side. What is kept in memory (index, fleet, event ring) is rebuilt from the stores at start and only
//! answers lists or hints at what to look at.
//!
//! `rest` parses and answers HTTP, `app` holds one use case a file, `index`, `hub` and `fleet` follow the stores, and `reconcile`
//! repairs. It runs nothing on hosts and does not link what could.

mod app;
mod fleet;
mod hub;
mod index;
mod reconcile;
mod rest;
mod server;
mod timeline;
pub mod token;
mod wait;

pub use rest::openapi;
pub use server::{BindError, Config, Controller, RunError, SigningKey};
