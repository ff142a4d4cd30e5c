//! What keeps jobs safe from whoever can read or write the broker: secrets are sealed for the fleet's agents, and definitions are signed.
//!
//! A controller holds a [`SealingKey`], which cannot open what it sealed, and a [`JobSigner`]. Agents hold the [`OpeningKeys`] and the
//! [`TrustedKeys`]. What is bound and what is signed is said by `model` (`sealing_context`, `signed_text`); here are the keys, their text
//! forms, and the calls into the one cryptographic library. No files, no clock, no broker.

mod fingerprint;
mod key;
mod sealing;
mod signing;

pub use fingerprint::{fingerprint, is_fingerprint};
pub use key::KeyError;
pub use sealing::{OpenError, OpeningKeys, SealError, SealingKey, generate_opening_key};
pub use signing::{JobSigner, TrustedKeys, Untrusted, generate_signing_key};
