//! What tests need and the product does not have: a real broker of their own, any program as a child, jobs to send, and a witness.
//!
//! Everything here belongs to the one test that made it: ports, directories and processes are its own and go with it, also when it
//! fails or is killed. Nothing here knows the product beyond `longshore-model`, so that what it finds out is evidence.

pub mod credentials;
mod disk;
mod eventually;
mod hanging;
mod lifeline;
mod nats;
mod process;
mod random;
mod role;
pub mod sample;
mod scheduler;
pub mod witness;

pub use disk::Disk;
pub use eventually::eventually;
pub use hanging::{FreezableDrive, SilentDrive};
pub use lifeline::{Lifeline, Scratch};
pub use nats::{NATS_SERVER_VERSION, NatsOptions, NatsServer, Tap, cluster, nats_server_binary};
pub use process::{Process, Stream};
pub use random::Random;
pub use role::{Role, free_address, longshore};
pub use rustix::process::Signal;
pub use scheduler::{Dispatched, Scheduler, SchedulerOptions};
