//! The program as a user has it: run as a process, without any server.

#![expect(clippy::unwrap_used, reason = "these are tests; the lint sees only functions that are marked so")]

mod audit;
mod cli;
mod config;
mod fake;
mod job;
mod package;
mod token;
