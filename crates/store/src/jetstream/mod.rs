//! The stores on NATS JetStream.

mod config;

pub use config::{Auth, Config, Consumer, KeyValue, Objects, Registry, Stream};
