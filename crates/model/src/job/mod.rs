//! The life of a job: parsed submissions ([`submission`]), the accepted job ([`definition`]), each execution's state as a fold over
//! what was recorded ([`state`]), what an agent may do with a delivery ([`mod@claim`]), whose turn it is under a
//! concurrency key ([`turn`]), the job's status as a function of its executions ([`aggregate`]), and what of it a
//! controller vouches for ([`vouched`]).

mod aggregate;
mod claim;
mod definition;
mod state;
mod submission;
pub mod turn;
mod vouched;

pub use aggregate::{JobStatus, Tally, status};
pub use claim::{Claim, Claimant, DropReason, claim};
pub use definition::{InvalidDefinition, Job};
pub use state::{Applied, Execution, ExecutionState, Refused};
pub use submission::{InvalidSubmission, Submission};
pub use vouched::{Shares, signed_text};

#[cfg(test)]
pub(crate) mod tests {
    //! Histories in a few words, shared by the tests of this module; and the fold against a reference model.

    use std::collections::BTreeMap;
    use std::time::Duration;

    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::operation::Call;
    use crate::retry::RetryPolicy;
    use crate::wire::problem::ErrorCode;
    use crate::wire::record::{Answer, Definition, Event, EventKind, Failure, Outcome, SCHEMA};
    use crate::{AgentId, ExecutionId, JobId, Target};

    pub(crate) fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    pub(crate) fn agent(bits: u128) -> AgentId {
        AgentId::from_bits(bits)
    }

    pub(crate) fn job() -> Job {
        Job {
            id: JobId::from_bits(1),
            call: Call::NodeHostnameGet,
            target: Target::Any,
            executions: vec![ExecutionId::Any],
            timeout: Duration::from_secs(30),
            not_before: None,
            expires_at: at(1000),
            retry: RetryPolicy::once(),
            concurrency_key: None,
            annotations: BTreeMap::new(),
            submitted_by: "test".into(),
            submitted_at: at(0),
            retry_of: None,
            sealed_for: None,
        }
    }

    fn event(kind: EventKind) -> Event {
        Event { schema: SCHEMA, at: at(10), kind }
    }

    fn failure() -> Failure {
        Failure { code: ErrorCode::HostFault, message: "disk full".into() }
    }

    pub(crate) fn started(attempt: u32, by: u128) -> Event {
        event(EventKind::Started { attempt, agent: agent(by), hostname: format!("host-{by}"), delivery: None })
    }

    pub(crate) fn retrying(attempt: u32, not_before: i64) -> Event {
        event(EventKind::Retrying { attempt, error: failure(), not_before: at(not_before) })
    }

    pub(crate) fn lost(attempt: u32) -> Event {
        event(EventKind::Lost { attempt })
    }

    pub(crate) fn cancel_requested() -> Event {
        event(EventKind::CancelRequested { by: "ana".into() })
    }

    pub(crate) fn answer(outcome: Outcome) -> Answer {
        Answer {
            agent: Some(agent(1)),
            hostname: Some("host-1".into()),
            error: (outcome != Outcome::Completed).then(failure),
            started_at: Some(at(10)),
            duration_ms: Some(5),
            ..Answer::new(JobId::from_bits(1), ExecutionId::Any, outcome, 1, at(20))
        }
    }

    #[test]
    fn definitions_survive_the_ledger() {
        let mut job = job();
        job.retry = RetryPolicy::standard();
        job.not_before = Some(at(5));
        job.executions = vec![agent(7).into()];
        let text = serde_json::to_string(&Definition::from(&job)).unwrap();
        assert_eq!(Job::try_from(serde_json::from_str::<Definition>(&text).unwrap()).unwrap(), job);
    }

    #[test]
    fn a_newer_definition_is_refused_by_name() {
        let record = Definition { schema: SCHEMA + 1, ..Definition::from(&job()) };
        assert_eq!(Job::try_from(record), Err(InvalidDefinition::Schema(SCHEMA + 1)));
    }

    #[test]
    fn a_late_answer_replaces_lost_and_nothing_replaces_an_answer() {
        let mut execution = Execution::fold(&[started(1, 1), lost(1)], None).unwrap();
        assert_eq!(execution.state(), ExecutionState::Lost);
        assert_eq!(execution.apply_answer(&answer(Outcome::Completed)), Ok(Applied::Changed));
        assert_eq!(execution.state(), ExecutionState::Completed);
        assert_eq!(execution.apply_answer(&answer(Outcome::Completed)), Ok(Applied::Duplicate));
        assert!(execution.apply_answer(&answer(Outcome::Failed)).is_err());
        assert_eq!(execution.apply(&started(2, 2)), Ok(Applied::Duplicate));
        assert_eq!(execution.state(), ExecutionState::Completed);
    }

    #[test]
    fn an_attempt_rests_on_what_its_own_start_says() {
        let started_on = |attempt, delivery: Option<&str>| {
            let (agent, hostname) = (agent(1), "host-1".to_owned());
            event(EventKind::Started { attempt, agent, hostname, delivery: delivery.map(str::to_owned) })
        };
        let events = [started_on(1, Some("7.1.1")), retrying(1, 20), started_on(2, Some("7.2.1")), started_on(2, Some("9.9.9"))];
        let rests_on = |events: &[Event]| Execution::fold(events, None).unwrap().rests_on(events).map(str::to_owned);
        assert_eq!(rests_on(&[]), None);
        assert_eq!(rests_on(&events[..1]).as_deref(), Some("7.1.1"));
        // The one that counted; what came again changed nothing.
        assert_eq!(rests_on(&events).as_deref(), Some("7.2.1"));
        assert_eq!(rests_on(&[started_on(1, Some("7.1.1")), started_on(2, None)]), None, "one that does not say");
    }

    #[test]
    fn an_answer_may_be_seen_before_the_events_that_led_to_it() {
        let mut execution = Execution::default();
        execution.apply_answer(&answer(Outcome::Failed)).unwrap();
        execution.apply(&started(1, 1)).unwrap();
        assert_eq!((execution.state(), execution.attempts()), (ExecutionState::Failed, 1));
    }

    #[test]
    fn what_ended_before_any_start_keeps_its_time_and_its_word_when_the_owed_answer_comes() {
        let decided = event(EventKind::Cancelled { by: "ana".into() });
        let error = Some(Failure { code: ErrorCode::Cancelled, message: "cancelled by ana".into() });
        // By an agent that was offered it, ten seconds later.
        let owed = Answer { attempts: 0, started_at: None, error, ..answer(Outcome::Cancelled) };
        let before = Execution::fold([&decided], None).unwrap();
        let after = Execution::fold([&decided], Some(&owed)).unwrap();
        for execution in [&before, &after] {
            assert_eq!((execution.state(), execution.ended_at(), execution.holder()), (ExecutionState::Cancelled, Some(at(10)), None));
            assert_eq!(execution.last_failure().map(|failure| failure.message.as_str()), Some("cancelled by ana"));
        }
        let mut turned = Execution::default();
        turned.apply_answer(&owed).unwrap();
        turned.apply(&decided).unwrap();
        assert_eq!(turned, after, "in either order");
    }

    /// The reference: what a ledger with guards can hold, as a writer sees it.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Model {
        Open { attempts: u32, running: bool, lost: bool },
        Ended(ExecutionState),
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Start,
        Retry,
        RequestCancel,
        Cancel,
        Expire,
        Lose,
        Answer(Outcome),
        Repeat,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let outcome = prop_oneof![
            Just(Outcome::Completed),
            Just(Outcome::Failed),
            Just(Outcome::Skipped),
            Just(Outcome::Cancelled),
            Just(Outcome::Expired)
        ];
        let step = prop_oneof![
            4 => Just(Step::Start),
            2 => Just(Step::Retry),
            1 => Just(Step::RequestCancel),
            1 => Just(Step::Cancel),
            1 => Just(Step::Expire),
            1 => Just(Step::Lose),
            2 => outcome.prop_map(Step::Answer),
            2 => Just(Step::Repeat),
        ];
        prop::collection::vec(step, 0..24)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn the_fold_agrees_with_the_reference_and_final_states_stay(steps in steps()) {
            let mut execution = Execution::default();
            let mut model = Model::Open { attempts: 0, running: false, lost: false };
            let mut answered = false;
            let mut last: Option<Event> = None;
            for step in steps {
                let before = execution.clone();
                let (event, next) = match (step, model) {
                    (Step::Start, Model::Open { attempts, lost: false, .. }) => (Some(started(attempts + 1, 1)), Some(Model::Open { attempts: attempts + 1, running: true, lost: false })),
                    (Step::Retry, Model::Open { attempts, running: true, lost: false }) => (Some(retrying(attempts, 50)), Some(Model::Open { attempts, running: false, lost: false })),
                    (Step::Lose, Model::Open { attempts, running: true, lost: false }) => (Some(event(EventKind::Lost { attempt: attempts })), Some(Model::Open { attempts, running: true, lost: true })),
                    (Step::Cancel, Model::Open { running: false, .. }) => (Some(event(EventKind::Cancelled { by: "ana".into() })), Some(Model::Ended(ExecutionState::Cancelled))),
                    (Step::Expire, Model::Open { running: false, .. }) => (Some(event(EventKind::Expired)), Some(Model::Ended(ExecutionState::Expired))),
                    (Step::RequestCancel, _) => (Some(cancel_requested()), Some(model)),
                    (Step::Repeat, _) => (last.clone(), Some(model)),
                    (Step::Answer(outcome), _) => {
                        let to = ExecutionState::from(outcome);
                        let admitted = !answered && match model { Model::Open { .. } => true, Model::Ended(state) => state == to };
                        let applied = execution.apply_answer(&answer(outcome));
                        if admitted {
                            prop_assert_eq!(applied, Ok(Applied::Changed));
                            model = Model::Ended(to);
                            answered = true;
                        } else {
                            prop_assert_ne!(applied, Ok(Applied::Changed));
                            prop_assert_eq!(&execution, &before);
                        }
                        (None, None)
                    }
                    // What the guards make impossible is refused, and changes nothing.
                    (Step::Start, Model::Ended(_) | Model::Open { lost: true, .. }) => (Some(started(execution.attempts() + 1, 1)), None),
                    (Step::Retry, _) => (Some(retrying(execution.attempts().max(1), 50)), None),
                    (Step::Cancel, _) => (Some(event(EventKind::Cancelled { by: "ana".into() })), None),
                    (Step::Expire, _) => (Some(event(EventKind::Expired)), None),
                    (Step::Lose, _) => (Some(event(EventKind::Lost { attempt: execution.attempts() })), None),
                };
                if let Some(event) = event {
                    let applied = execution.apply(&event);
                    match next {
                        Some(next) => {
                            if !matches!(step, Step::Repeat) {
                                prop_assert!(applied.is_ok(), "{:?} {:?} {:?}", step, model, applied);
                                last = Some(event);
                            }
                            model = next;
                        }
                        None => prop_assert_eq!(execution.state(), before.state(), "{:?}", step),
                    }
                }
                let expected = match model {
                    Model::Ended(state) => state,
                    Model::Open { lost: true, .. } => ExecutionState::Lost,
                    Model::Open { running: true, .. } => ExecutionState::Running,
                    Model::Open { attempts: 0, .. } => ExecutionState::Pending,
                    Model::Open { .. } => ExecutionState::Retryable,
                };
                prop_assert_eq!(execution.state(), expected, "{:?}", step);
                if before.is_answered() {
                    prop_assert_eq!(execution.state(), before.state());
                }
            }
        }
    }
}
