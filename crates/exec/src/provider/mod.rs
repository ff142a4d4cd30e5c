//! The operations on a host, one file per domain. Arguments come parsed; what goes wrong becomes a [`crate::Finished`].

pub(crate) mod command;
pub(crate) mod node;
