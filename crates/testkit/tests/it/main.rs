//! The kit against real processes: a launcher that leaves servers behind, or loses their files, would spoil every other suite.

mod nats;
mod process;
