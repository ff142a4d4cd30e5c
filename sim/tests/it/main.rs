//! Seeds, replayed, and bugs that have to be found.

mod planted;
mod seeds;
