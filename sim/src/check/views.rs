//! What the controllers and the stores say in the end, against what happened.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use longshore_model::wire::rest::AgentCondition;
use longshore_model::{ExecutionState, JobId};
use longshore_store::{Fact, FeedItem, Position};

use super::{Line, Violation, dead, status};
use crate::controllers::Controllers;
use crate::history::History;
use crate::world::{Actor, World, agent_id};

/// More than there are.
const EVERYTHING: usize = 10_000;

/// A job as it must be shown.
struct Expected {
    states: BTreeMap<longshore_model::ExecutionId, (ExecutionState, u32)>,
}

pub(super) async fn check(world: &World, controllers: &Controllers, n_agents: usize, found: &mut Vec<Violation>) {
    let expected = expected(&world.history());
    for n in 0..controllers.n() {
        let Some(controller) = controllers.ready(n) else {
            found.push(Violation::new("a controller is ready after the healing", n));
            continue;
        };
        let caller = &controllers.caller;
        let mut broken = |promise, what: String| found.push(Violation::new(promise, format!("controller-{n}: {what}")));
        for (job, expected) in &expected {
            match controller.job(caller, *job).await {
                Ok(view) => {
                    let states: BTreeMap<_, _> =
                        view.executions.iter().map(|execution| (execution.id, (execution.state, execution.attempts))).collect();
                    if states != expected.states || view.status != expected.status() {
                        broken("INV-13 a job is what its records say", format!("{} is {:?} {states:?}", job.short(), view.status));
                    }
                }
                Err(problem) => broken("INV-05 what is on record can be read", format!("{}: {}", job.short(), problem.detail)),
            }
        }
        // Who missed that a job was deleted finds it gone when it reads it, and lists it no more.
        let stale = controller.jobs(caller, EVERYTHING).map(|list| list.items).unwrap_or_default();
        for job in stale.iter().map(|job| job.id).filter(|job| !expected.contains_key(job)) {
            if let Ok(view) = controller.job(caller, job).await {
                broken("a deleted job is gone", format!("{} is {:?}", job.short(), view.status));
            }
        }
        let listed = controller.jobs(caller, EVERYTHING).map(|list| list.items).unwrap_or_default();
        let listed: BTreeMap<JobId, _> = listed.into_iter().map(|job| (job.id, job)).collect();
        if !listed.keys().eq(expected.keys()) {
            broken("INV-12 the list has what there is", format!("{:?}, not {:?}", listed.keys(), expected.keys()));
        }
        for (job, summary) in &listed {
            let attempts = expected.get(job).map(|expected| expected.states.values().map(|(_, attempts)| attempts).sum::<u32>());
            if let Some(expected) = expected.get(job)
                && (summary.status != expected.status() || Some(summary.attempts) != attempts)
            {
                broken(
                    "INV-13 the list says what the ledger says",
                    format!("{} is {:?}, {} attempts", job.short(), summary.status, summary.attempts),
                );
            }
        }
        let letters = controller.dead_letters(caller, EVERYTHING).map(|list| list.items).unwrap_or_default();
        let letters: BTreeMap<JobId, usize> = letters.into_iter().map(|letter| (letter.id, letter.dead)).collect();
        let dead = dead(&world.history());
        if letters != dead {
            broken("INV-36 the dead letters are what used its attempts up", format!("{letters:?}, not {dead:?}"));
        }
        let agents = controller.agents(caller).unwrap_or_default();
        let up: Vec<_> = agents.iter().filter(|agent| agent.state == AgentCondition::Ready).map(|agent| &agent.hostname).collect();
        let n_ready = n_agents - world.history().gone.len();
        if up.len() != n_ready || agents.len() != n_agents {
            broken("INV-33 the agents are shown as they are", format!("{up:?} of {n_ready} are ready"));
        }
    }
    leftovers(world, n_agents, found).await;
}

impl Expected {
    fn status(&self) -> longshore_model::JobStatus {
        status(&self.states.values().map(|(state, _)| *state).collect::<Vec<_>>())
    }
}

fn expected(history: &History) -> BTreeMap<JobId, Expected> {
    let mut expected: BTreeMap<JobId, Expected> = BTreeMap::new();
    for (definition, id) in super::executions(history) {
        let line = Line::of(history, (definition.id, id));
        let states = &mut expected.entry(definition.id).or_insert_with(|| Expected { states: BTreeMap::new() }).states;
        states.insert(id, (line.state(), line.attempts()));
    }
    expected
}

/// What a deleted job leaves, and what nobody will ever fetch.
async fn leftovers(world: &World, n_agents: usize, found: &mut Vec<Violation>) {
    let (deleted, kept): (Vec<JobId>, Vec<JobId>) = {
        let history = world.history();
        (history.deletes.iter().map(|delete| delete.job).collect(), history.defined.keys().copied().collect())
    };
    let mut left =
        |what: &str, job: JobId| found.push(Violation::new("a deleted job leaves nothing", format!("{what} of {}", job.short())));
    let raw = &world.raw;
    let mut feed = raw.feed.follow(Position::default()).await.expect("the twin does not fail");
    while let Some(Ok(FeedItem::Fact { fact, .. })) = feed.next().await {
        let (what, job) = match fact {
            Fact::Defined(definition) => ("the definition", definition.id),
            Fact::Happened { job, .. } => ("an event", job),
            Fact::Answered(answer) => ("an answer", answer.job),
            Fact::Deleted(_) => continue,
        };
        if deleted.contains(&job) {
            left(what, job);
        }
    }
    for job in &deleted {
        if raw.dead_letters.load(*job).await.is_ok_and(|letter| letter.is_some()) {
            left("the dead letter", *job);
        }
        if raw.logs.last(*job).await.is_ok_and(|place| place != 0) {
            left("output", *job);
        }
    }
    let dead = dead(&world.history());
    for job in dead.keys() {
        if raw.dead_letters.load(*job).await.is_ok_and(|letter| letter.is_none()) {
            found.push(Violation::new("INV-36 a dead letter is on record", job.short()));
        }
    }
    // Fewer than a page in a run.
    for (_, waiter) in raw.turns.page(0).await.expect("the twin does not fail").items {
        if kept.contains(&waiter.job) {
            found.push(Violation::new("INV-58 nothing waits for what has ended", format!("the turn of {}", waiter.job.short())));
        }
    }
    for n in 0..n_agents {
        // What is left of one that is gone is removed with the agent, once it is forgotten.
        if world.history().gone.contains_key(&agent_id(n)) {
            continue;
        }
        let page = raw.work.inbox(agent_id(n), 0).await.expect("the twin does not fail");
        // An agent whose clock is behind has put it off until its time, and sees then that it has ended.
        let is_behind = world.history().errors.get(&Actor::Agent(n)).is_some_and(|error| error.is_negative());
        for delivery in page.deliveries.into_iter().filter(|_| !is_behind) {
            let job = delivery.definition.id;
            if kept.contains(&job) {
                found.push(Violation::new("INV-58 nothing waits for what has ended", format!("{} in the inbox of agent-{n}", job.short())));
            }
        }
    }
}
