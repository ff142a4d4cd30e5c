//! The index beside a list that is searched from end to end: random histories, filters and pages must find the same jobs.

use std::collections::BTreeMap;

use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{EventKind, Failure, Outcome, SCHEMA};
use longshore_model::{AgentId, ExecutionState};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const OPERATIONS: [&str; 3] = ["node.uptime.get", "node.hostname.get", "command.exec"];
const TARGETS: [&str; 3] = ["_any", "_all", "Web-01"];
const PEOPLE: [&str; 3] = ["ada", "Bob", "ÄNNE"];
const HOSTS: [&str; 4] = ["web-01", "WEB-02", "db", "ada"];
const VALUES: [&str; 4] = ["red", "Blue", "web", "größe"];
const FAULTS: [&str; 3] = ["the disk is full", "Größe passt nicht", "no route to web-01"];
const TEXTS: [&str; 14] =
    ["", "web", "WEB-0", "ada", "a", "größe", "GRÖSSE", "änne", "disk is", "no such text", "j-0", "-0", "0000000", "1"];

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    Define { id: u128, operation: usize, target: usize, by: usize, annotations: Vec<(usize, usize)>, agents: Vec<u128>, due: Option<i64> },
    Start { id: u128, execution: Option<u128>, attempt: u32, agent: u128, host: usize },
    Retry { id: u128, execution: Option<u128>, attempt: u32, fault: usize },
    End { id: u128, execution: Option<u128>, kind: usize },
    Answer { id: u128, execution: Option<u128>, outcome: usize, agent: u128, host: usize, fault: Option<usize> },
    Delete { id: u128 },
    Pass { seconds: i64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = || 1..40_u128;
    let execution = || proptest::option::weighted(0.3, 1..4_u128);
    let annotations = proptest::collection::vec((0..2_usize, 0..VALUES.len()), 0..3);
    let agents = prop_oneof![3 => Just(Vec::new()), 1 => proptest::collection::vec(1..4_u128, 1..4)];
    let define =
        (id(), 0..OPERATIONS.len(), 0..TARGETS.len(), 0..PEOPLE.len(), annotations, agents, proptest::option::weighted(0.2, 0..200_i64));
    let step = prop_oneof![
        6 => define.prop_map(|(id, operation, target, by, annotations, agents, due)| Step::Define { id, operation, target, by, annotations, agents, due }),
        4 => (id(), execution(), 1..3_u32, 1..4_u128, 0..HOSTS.len())
            .prop_map(|(id, execution, attempt, agent, host)| Step::Start { id, execution, attempt, agent, host }),
        1 => (id(), execution(), 1..3_u32, 0..FAULTS.len()).prop_map(|(id, execution, attempt, fault)| Step::Retry { id, execution, attempt, fault }),
        1 => (id(), execution(), 0..4_usize).prop_map(|(id, execution, kind)| Step::End { id, execution, kind }),
        3 => (id(), execution(), 0..5_usize, 1..4_u128, 0..HOSTS.len(), proptest::option::of(0..FAULTS.len()))
            .prop_map(|(id, execution, outcome, agent, host, fault)| Step::Answer { id, execution, outcome, agent, host, fault }),
        1 => id().prop_map(|id| Step::Delete { id }),
        1 => (1..60_i64).prop_map(|seconds| Step::Pass { seconds }),
    ];
    proptest::collection::vec(step, 1..120)
}

fn filters() -> impl Strategy<Value = Filter> {
    let rare = |values: &'static [&'static str]| proptest::option::weighted(0.15, select(values).prop_map(str::to_owned));
    let host = prop_oneof![
        6 => Just(None),
        1 => select(&HOSTS[..]).prop_map(|host| Some(host.to_owned())),
        1 => (0..5_u128).prop_map(|agent| Some(AgentId::from_bits(agent).to_string())),
    ];
    let annotations = prop_oneof![
        4 => Just(Vec::new()),
        1 => proptest::collection::vec((0..2_usize, select(&VALUES[..])).prop_map(|(key, value)| (key_of(key), value.to_owned())), 1..3),
    ];
    let statuses = prop_oneof![3 => Just(Vec::new()), 1 => proptest::collection::vec(select(&JobStatus::ALL[..]), 1..4)];
    let moment = || proptest::option::weighted(0.1, (0..300_i64).prop_map(|second| Moment { asked: String::new(), at: at(second) }));
    let text = prop_oneof![
        3 => Just(None),
        2 => select(&TEXTS[..]).prop_map(|text| Some(text.to_owned())),
        1 => (1..40_u128).prop_map(|id| Some(id_of(id).to_string())),
        1 => (1..40_u128).prop_map(|id| Some(id_of(id).to_string()[20..].to_uppercase())),
    ];
    (statuses, rare(&OPERATIONS), rare(&TARGETS), host, rare(&PEOPLE), annotations, moment(), moment(), text).prop_map(
        |(statuses, operation, target, host, submitter, annotations, since, until, text)| Filter {
            statuses: statuses.into_iter().collect(),
            operation,
            target,
            host,
            submitter,
            annotations,
            since,
            until,
            text,
        },
    )
}

fn key_of(key: usize) -> String {
    ["team", "Colour"][key].to_owned()
}

/// Ids that are made at once, in another order than they are submitted.
fn id_of(id: u128) -> JobId {
    JobId::from_bits((id * 7 % 40 * 5) << 80 | id)
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A job as the reference has it: the folded states come from the index's own model of an execution, everything else is its own.
struct Known {
    definition: Definition,
    stored_at: Timestamp,
    executions: BTreeMap<ExecutionId, longshore_model::job::Execution>,
    filed: JobStatus,
}

#[derive(Default)]
struct Reference {
    jobs: BTreeMap<JobId, Known>,
}

impl Reference {
    fn touch(&mut self, id: JobId, execution: ExecutionId, now: Timestamp, apply: impl FnOnce(&mut longshore_model::job::Execution)) {
        let Some(known) = self.jobs.get_mut(&id) else { return };
        if let Some(execution) = known.executions.get_mut(&execution) {
            apply(execution);
        }
        known.filed = status(known, now);
    }

    fn found(&self, filter: &Filter) -> Vec<JobId> {
        self.jobs.values().rev().filter(|known| is_shown(known, filter)).map(|known| known.definition.id).collect()
    }
}

fn status(known: &Known, now: Timestamp) -> JobStatus {
    let states = known.executions.values().map(longshore_model::job::Execution::state);
    longshore_model::job::status(states, known.definition.not_before, now)
}

fn is_shown(known: &Known, filter: &Filter) -> bool {
    let Known { definition, executions, filed, .. } = known;
    let is = |wanted: &Option<String>, found: &String| wanted.as_ref().is_none_or(|wanted| wanted == found);
    let holders = || executions.values().filter_map(|execution| execution.holder());
    let of_host = |host: &String| {
        executions.iter().any(|(id, execution)| match execution.holder() {
            Some((agent, name)) => name == host || &agent.to_string() == host,
            None => id.agent().is_some_and(|agent| &agent.to_string() == host),
        })
    };
    let has = |text: &String| {
        let shown = [definition.id.to_string(), definition.operation.clone(), definition.target.clone(), definition.submitted_by.clone()];
        let annotations = definition.annotations.iter().flat_map(|(key, value)| [key.clone(), value.clone()]);
        let faults = executions.values().filter_map(|execution| execution.last_failure().map(|failure| failure.message.clone()));
        let hosts = holders().map(|(_, name)| name.to_owned());
        shown.into_iter().chain(annotations).chain(faults).chain(hosts).any(|shown| shown.to_lowercase().contains(&text.to_lowercase()))
    };
    (filter.statuses.is_empty() || filter.statuses.contains(filed))
        && is(&filter.operation, &definition.operation)
        && is(&filter.target, &definition.target)
        && is(&filter.submitter, &definition.submitted_by)
        && filter.annotations.iter().all(|(key, value)| definition.annotations.get(key) == Some(value))
        && filter.since.as_ref().is_none_or(|since| definition.submitted_at >= since.at)
        && filter.until.as_ref().is_none_or(|until| definition.submitted_at < until.at)
        && filter.host.as_ref().is_none_or(of_host)
        && filter.text.as_ref().is_none_or(has)
}

/// Both of them after all steps, and the time.
fn history(steps: Vec<Step>) -> (Index, Reference, Timestamp) {
    let mut index = Index { jobs: Blocks::with_room(4), ..Index::default() };
    let mut reference = Reference::default();
    let mut second = 0;
    for step in steps {
        let now = at(second);
        let of = |execution: Option<u128>| execution.map_or(ExecutionId::Any, |agent| AgentId::from_bits(agent).into());
        match step {
            Step::Define { id, operation, target, by, annotations, agents, due } => {
                let executions: std::collections::BTreeSet<ExecutionId> =
                    if agents.is_empty() { [ExecutionId::Any].into() } else { agents.into_iter().map(|agent| of(Some(agent))).collect() };
                let definition = Definition {
                    operation: OPERATIONS[operation].to_owned(),
                    target: TARGETS[target].to_owned(),
                    submitted_by: PEOPLE[by].to_owned(),
                    submitted_at: now,
                    annotations: annotations.into_iter().map(|(key, value)| (key_of(key), VALUES[value].to_owned())).collect(),
                    executions: executions.iter().copied().collect(),
                    not_before: due.map(at),
                    max_attempts: 2,
                    retry_of: None,
                    ..super::tests::definition(id_of(id).bits())
                };
                index.define(&definition, now, now);
                let fresh = || {
                    let executions = executions.into_iter().map(|execution| (execution, Default::default())).collect();
                    let mut known = Known { executions, definition: definition.clone(), stored_at: now, filed: JobStatus::Pending };
                    known.filed = status(&known, now);
                    known
                };
                // Told again, it is stored again and nothing else.
                reference.jobs.entry(definition.id).or_insert_with(fresh).stored_at = now;
            }
            Step::Start { id, execution, attempt, agent, host } => {
                let kind = EventKind::Started {
                    attempt,
                    agent: AgentId::from_bits(execution.unwrap_or(agent)),
                    hostname: HOSTS[host].to_owned(),
                    delivery: None,
                };
                happen(&mut index, &mut reference, (id, of(execution)), kind, now);
            }
            Step::Retry { id, execution, attempt, fault } => {
                let kind = EventKind::Retrying { attempt, error: failure(fault), not_before: now };
                happen(&mut index, &mut reference, (id, of(execution)), kind, now);
            }
            Step::End { id, execution, kind } => {
                let by = PEOPLE[0].to_owned();
                let kinds = [
                    EventKind::Cancelled { by: by.clone() },
                    EventKind::Expired,
                    EventKind::Lost { attempt: 1 },
                    EventKind::CancelRequested { by },
                ];
                happen(&mut index, &mut reference, (id, of(execution)), kinds[kind].clone(), now);
            }
            Step::Answer { id, execution, outcome, agent, host, fault } => {
                // What comes before its definition is kept aside by the index, which other tests show.
                if !reference.jobs.contains_key(&id_of(id)) {
                    continue;
                }
                let outcomes = [Outcome::Completed, Outcome::Failed, Outcome::Skipped, Outcome::Cancelled, Outcome::Expired];
                let answer = Answer {
                    execution: of(execution),
                    agent: Some(AgentId::from_bits(execution.unwrap_or(agent))),
                    hostname: Some(HOSTS[host].to_owned()),
                    error: fault.map(failure),
                    ..super::tests::answer(id_of(id).bits(), outcomes[outcome])
                };
                index.answer(&answer, 1, now);
                reference.touch(answer.job, answer.execution, now, |execution| {
                    let _ = execution.apply_answer(&answer);
                });
            }
            Step::Delete { id } => {
                index.delete(id_of(id));
                reference.jobs.remove(&id_of(id));
            }
            Step::Pass { seconds } => {
                second += seconds;
                pass(&mut index, &mut reference, at(second));
            }
        }
        index.jobs.check();
    }
    (index, reference, at(second))
}

fn failure(fault: usize) -> Failure {
    Failure { code: ErrorCode::HostFault, message: FAULTS[fault].to_owned() }
}

fn happen(index: &mut Index, reference: &mut Reference, (id, execution): (u128, ExecutionId), kind: EventKind, now: Timestamp) {
    let id = id_of(id);
    if reference.jobs.contains_key(&id) {
        let event = Event { schema: SCHEMA, at: now, kind };
        index.happen(id, execution, &event, now, now);
        reference.touch(id, execution, now, |execution| {
            let _ = execution.apply(&event);
        });
    }
}

const KEPT: i64 = 100;

/// The oldest by id go first, as long as they are too old.
fn pass(index: &mut Index, reference: &mut Reference, now: Timestamp) {
    index.pass_time(Duration::from_secs(KEPT.unsigned_abs()), now);
    for known in reference.jobs.values_mut() {
        if known.filed == JobStatus::Scheduled {
            known.filed = status(known, now);
        }
    }
    while let Some(oldest) = reference.jobs.first_entry()
        && now.duration_since(oldest.get().stored_at) > SignedDuration::from_secs(KEPT)
    {
        oldest.remove();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn pages_find_what_a_search_from_end_to_end_finds(steps in steps(), filters in proptest::collection::vec(filters(), 8), limit in 1..7_usize) {
        let (index, reference, now) = history(steps);
        for filter in filters {
            let (mut found, mut before) = (Vec::new(), None);
            loop {
                let page = index.list(&filter, before, limit, now);
                prop_assert!(page.items.len() <= limit);
                found.extend(page.items.iter().map(|item| item.id));
                prop_assert!(page.last.is_none() || before.is_none() || page.last < before, "a page goes on behind the one before");
                before = page.last;
                if before.is_none() {
                    break;
                }
            }
            prop_assert_eq!(found, reference.found(&filter), "{:?}", filter);
        }
        let counted: usize = index.counts().values().map(|count| *count as usize).sum();
        prop_assert_eq!(counted, reference.jobs.len());
        for status in JobStatus::ALL {
            let expected = reference.jobs.values().filter(|known| known.filed == status).count();
            prop_assert_eq!(index.counts()[status.as_str()] as usize, expected, "{}", status.as_str());
        }
        let (unfinished, _) = index.unfinished(None, (100, 100), |_| true);
        let expected: Vec<JobId> = reference.jobs.iter().filter(|(_, known)| !known.filed.is_final()).map(|(id, _)| *id).collect();
        prop_assert_eq!(unfinished, expected);
        let is_claimed = |execution: &&longshore_model::job::Execution| execution.state() == ExecutionState::Running;
        let due = reference.jobs.values().filter(|known| !known.filed.is_final() && known.filed != JobStatus::Scheduled);
        prop_assert_eq!(index.depth().1, due.flat_map(|known| known.executions.values()).filter(is_claimed).count() as u64);
    }

    #[test]
    fn what_is_deleted_or_too_old_leaves_nothing_behind(steps in steps()) {
        let (mut index, reference, _) = history(steps);
        for id in reference.jobs.into_keys() {
            index.delete(id);
            index.jobs.check();
        }
        prop_assert!(index.texts.is_empty());
        prop_assert!(index.jobs.all().is_empty());
        prop_assert!(index.counts().values().all(|count| *count == 0));
        prop_assert!(index.scheduled.is_empty() && index.owed.is_empty() && index.dead.is_empty());
    }
}
