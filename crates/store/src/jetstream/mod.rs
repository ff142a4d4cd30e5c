//! The stores on NATS JetStream.

mod audit;
mod config;
mod connect;
mod dead_letters;
mod feed;
mod ledger;
mod link;
mod logs;
mod mux;
mod objects;
mod pull;
mod read;
mod registry;
mod setup;
mod tail;
mod turns;
mod work;

pub use config::{Auth, Config, Consumer, KeyValue, Objects, Registry, Stream};
pub use connect::{ConnectError, OLDEST_SERVER, connect};
