//! Sessions from outside: frames as they are on the wire, and two ends with a hostile link between them.
#![expect(clippy::unwrap_used, reason = "these are tests, and their helpers are not marked as such")]

mod bounds;
mod codec;
mod cut;
mod ends;
mod existing;
mod frames;
mod gateway;
mod mutate;
mod pair;
mod races;
mod worker;
mod world;
