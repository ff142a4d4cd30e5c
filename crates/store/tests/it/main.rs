//! The conformance suite: what every store promises, checked on the in-memory twin and on a real nats-server alike.
//!
//! A test is a function over a [`longshore_store::Store`] that nobody else uses; `conformance!` runs it on both. The twin runs with
//! tokio's clock paused, so that it waits for nothing; the broker's tests wait for conditions, each with a deadline.

#![expect(clippy::unwrap_used, reason = "these are tests, and their helpers are not marked as such")]

#[macro_use]
mod harness;

mod audit;
mod cluster;
mod connect;
mod dead_letters;
mod facts;
mod feed;
mod ledger;
mod logs;
mod namespace;
mod objects;
mod offers;
mod permissions;
mod reconnect;
mod registry;
mod retention;
mod sample;
mod set_back;
mod shares;
mod turns;
mod work;
