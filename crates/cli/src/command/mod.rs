//! The user's commands, one noun a module. Each takes its arguments and the [`App`](crate::app::App) and gives an exit code or a failure.

pub(crate) mod agent;
pub(crate) mod audit;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod dead_letter;
pub(crate) mod drain;
pub(crate) mod explain;
pub(crate) mod job;
pub(crate) mod key;
pub(crate) mod node;
pub(crate) mod operation;
pub(crate) mod package;
pub(crate) mod run;
pub(crate) mod secret;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod version;
pub(crate) mod workspace;
