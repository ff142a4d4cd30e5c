//! How things look on a terminal. Data for machines never passes through here.

mod agent;
mod answers;
mod audit;
mod job;
mod letter;
mod lines;
mod printable;
mod table;
mod time;

pub(crate) use agent::{agent, agents, alarms};
pub(crate) use answers::{Rows, answers};
pub(crate) use audit::audit_records;
pub(crate) use job::{change, job, job_line, jobs, outcome};
pub(crate) use letter::{dead_letter, dead_letters};
pub(crate) use lines::{Lines, Written};
pub(crate) use printable::{printable, printable_lines, shell_word};
pub(crate) use table::Table;
pub(crate) use time::ago;
