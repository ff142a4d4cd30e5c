//! The stores on NATS JetStream.

mod audit;
mod config;
mod connect;
mod consumers;
mod dead_letters;
mod delivery;
mod dial;
mod digest;
mod facts;
mod feed;
mod ledger;
mod link;
mod logs;
mod mux;
mod objects;
mod offered;
mod pass;
mod pieces;
mod pull;
mod read;
mod reconnect;
mod registry;
mod resumed;
mod rivals;
mod setup;
pub mod stand_alone;
mod streams;
mod tail;
mod time;
mod tls;
mod turns;
mod work;

pub use config::{Auth, ClientCertificate, Config, Consumer, DeadLetters, Facts, KeyValue, Objects, Registry, Storage, Stream, Tls};
pub use connect::{ConnectError, OLDEST_SERVER, connect};
pub use tls::TlsFault;
