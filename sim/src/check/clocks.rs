//! Durations: as long as the witness saw the work take, whatever the clocks of those who stamp records say.

use longshore_model::wire::record::Outcome;

use super::{Line, Violation};
use crate::history::{History, Run};

pub(super) fn check(history: &History, found: &mut Vec<Violation>) {
    for run in &history.runs {
        let line = Line::of(history, run.key);
        let Some((_, answer)) = line.answers.first().filter(|(_, answer)| is_of(answer.attempts, answer.agent, run)) else { continue };
        let Some((told, (ended, _))) = answer.duration_ms.zip(run.ended) else { continue };
        // One that was passed over did not run, and one that is told of as interrupted has no duration.
        let took = ended.duration_since(run.began).as_millis();
        if took != i128::from(told) && answer.outcome != Outcome::Expired {
            let what = format!("{} {}: {told} ms are told of {took}", run.key.0.short(), run.key.1);
            found.push(Violation::new("INV-57 a duration is how long it took, by no wall clock", what));
        }
    }
}

fn is_of(attempt: u32, agent: Option<longshore_model::AgentId>, run: &Run) -> bool {
    attempt == run.attempt && agent == Some(run.agent)
}
