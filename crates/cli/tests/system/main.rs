//! The whole program on a real broker: processes are started, fed, killed and looked at from outside.
#![expect(clippy::print_stdout, reason = "seeds and counts belong in a test's output")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its fleet ends here")]

mod agents;
mod attached;
mod audit;
mod concurrency;
mod controllers;
mod disk_full;
mod drive;
mod fleet;
mod forms;
mod guide;
mod hostile;
mod job;
mod kill;
mod large;
mod letters;
mod login;
mod node;
mod output;
mod packages;
mod promises;
mod resumed;
mod run;
mod secrets;
mod settings;
mod start;
mod targets;
mod worker;
mod worker_package_settings;
mod worker_packages;
mod workers;
mod workspace_worker;
