//! Settings: one schema ([`Settings`]), read from layers that each remember where a value came from ([`Loaded`]).
//!
//! Later layers win: built-in defaults, `/etc/longshore/longshore.yaml`, the user's file, `--config`, `--env-file`, `LONGSHORE_*`
//! variables, flags. The invariant guarded here: a key that nobody reads is an error, never silence.

mod address;
mod bounds;
mod error;
mod keys;
mod layer;
mod load;
#[cfg(test)]
mod reference;
mod schema;
mod secret;
pub(crate) mod yaml;

pub(crate) use address::without_credentials;
pub(crate) use error::Error;
pub(crate) use keys::{Key, Keys, schema};
pub(crate) use layer::{Layer, Origin};
pub(crate) use load::{Loaded, Sources, user_dir};
pub(crate) use schema::{AuthKind, Nats, ReplayPolicy, Settings, Storage, VerifyKeyFile};
pub(crate) use secret::Secret;
