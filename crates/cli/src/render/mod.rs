//! How things look on a terminal. Data for machines never passes through here.

mod job;
mod table;
mod time;

pub(crate) use job::{job, job_line, jobs};
pub(crate) use table::{Table, printable};
pub(crate) use time::ago;
