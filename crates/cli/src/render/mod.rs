//! How things look on a terminal. Data for machines never passes through here.

mod job;
mod printable;
mod table;
mod time;

pub(crate) use job::{job, job_line, jobs};
pub(crate) use printable::{printable, printable_lines, shell_word};
pub(crate) use table::Table;
pub(crate) use time::ago;
