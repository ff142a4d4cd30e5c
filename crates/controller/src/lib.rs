//! The controller: the REST API, the index behind its lists, the event streams, and the reconcilers.
//!
//! What becomes of a job is decided from the ledger alone: loaded, folded, and written under its guard, so that any number of controllers
//! may stand side by side. What is kept in memory is rebuilt from the stores at start. The index and the event ring answer lists and
//! streams and hint at what to look at; the index also says whether a bundle is still needed. The fleet resolves targets, and says whose
//! agent is gone. The letters are the dead letters' stream in memory.
//!
//! `rest` parses and answers HTTP, `app` holds one use case a file, `index`, `hub` and `fleet` follow the stores, and `reconcile`
//! repairs. It runs nothing on hosts and does not link what could.

mod app;
mod audit;
mod fleet;
mod gateway;
mod headless;
mod hub;
mod index;
mod letters;
mod listener;
mod metrics;
mod reconcile;
mod rest;
mod server;
mod strangers;
mod timeline;
mod tls;
pub mod token;
mod wait;
mod watch;

pub use app::stream::Frame as StreamFrame;
pub use gateway::GatewayConfig;
pub use headless::{Headless, Refusal};
pub use rest::{is_origin, openapi};
pub use server::{BindError, Config, Controller, RunError, SigningKey};
pub use tls::{TlsError, TlsListen};
