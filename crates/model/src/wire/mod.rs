//! Everything that is written to a wire or a bucket, as it is written.
//!
//! [`record`] is what the ledger keeps (versioned by `schema`), [`rest`] what the API says, [`args`] and [`result`] what operations
//! take and give, [`log`] live output, [`agent`] heartbeats, [`attached`] what a gateway hands to a worker, [`facts`] what an agent knows of its host, [`dead_letter`] what is kept of
//! jobs whose attempts are used up, [`stand_alone`] what workspace workers without a fleet read and write, [`turn`] of concurrency keys, [`audit`] who changed what, [`problem`] errors. Domain types convert with `TryFrom` and `From`.
//! What others wrote comes in through [`read`].

pub mod agent;
pub mod args;
pub mod attached;
pub mod audit;
pub mod dead_letter;
pub mod facts;
pub mod log;
pub mod problem;
pub mod read;
pub mod record;
pub mod rest;
pub mod result;
pub mod secret;
pub mod stand_alone;
pub mod turn;
