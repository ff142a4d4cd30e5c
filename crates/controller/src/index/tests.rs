use longshore_model::ExecutionState;
use longshore_model::wire::record::{EventKind, Outcome, SCHEMA};

use super::query::LOOKS_MAX;
use super::search::Wanted;
use super::*;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

pub(super) fn definition(id: u128) -> Definition {
    Definition {
        schema: SCHEMA,
        id: JobId::from_bits(id),
        operation: "workspace.run".to_owned(),
        args: serde_json::json!({"bundle": "b"}),
        target: "_any".to_owned(),
        executions: vec![ExecutionId::Any],
        timeout_ms: 1000,
        not_before: None,
        expires_at: NOW,
        max_attempts: 1,
        backoff_ms: Vec::new(),
        concurrency_key: None,
        usual_backoff: false,
        annotations: BTreeMap::new(),
        submitted_by: "ada".to_owned(),
        submitted_at: NOW,
        retry_of: (id > 1).then(|| JobId::from_bits(1)),
        sealed_for: None,
        signature: None,
        key_sha256: None,
        fleet_revision: None,
    }
}

fn event(kind: EventKind) -> Event {
    Event { schema: SCHEMA, at: NOW, kind }
}

fn started(attempt: u32) -> Event {
    event(EventKind::Started { attempt, agent: longshore_model::AgentId::from_bits(1), hostname: "web-01".to_owned(), delivery: None })
}

pub(super) fn answer(id: u128, outcome: Outcome) -> Answer {
    Answer {
        agent: Some(longshore_model::AgentId::from_bits(1)),
        hostname: Some("web-01".to_owned()),
        started_at: Some(NOW),
        ..Answer::new(JobId::from_bits(id), ExecutionId::Any, outcome, 1, NOW)
    }
}

/// What a job's records are, in the order they were written.
fn feed(index: &mut Index, id: u128, step: usize) {
    match step {
        0 => drop(index.define(&definition(id), NOW, NOW)),
        1 => drop(index.happen(JobId::from_bits(id), ExecutionId::Any, &started(1), NOW, NOW)),
        _ => drop(index.answer(&answer(id, Outcome::Completed), 1, NOW)),
    }
}

#[test]
fn records_in_any_order_between_the_sequences_give_the_same_index() {
    let build = |order: [usize; 3]| {
        let mut index = Index::default();
        for id in 1..=3 {
            order.iter().for_each(|step| feed(&mut index, id, *step));
        }
        index
    };
    let in_order = build([0, 1, 2]);
    assert_eq!(in_order.counts()["completed"], 3);
    // The answer before the definition, or before the start. And everything told twice.
    assert_eq!(build([2, 0, 1]), in_order);
    assert_eq!(build([0, 2, 1]), in_order);
    let mut twice = build([0, 1, 2]);
    (0..3).for_each(|step| feed(&mut twice, 2, step));
    assert_eq!(twice, in_order);
}

#[test]
fn a_deleted_job_leaves_nothing_and_its_late_records_are_ignored() {
    let mut index = Index::default();
    (0..2).for_each(|step| feed(&mut index, 1, step));
    index.delete(JobId::from_bits(1));
    feed(&mut index, 1, 2);
    assert!(index.counts().values().all(|count| *count == 0));
    assert!(index.get(JobId::from_bits(1)).is_none());
    assert_eq!(index.orphans, Orphans::default());
    assert!(index.bundles.is_empty() && index.texts.is_empty());
}

#[test]
fn links_and_bundles_are_counted() {
    let mut index = Index::default();
    (1..=3).for_each(|id| feed(&mut index, id, 0));
    assert_eq!(index.retries_of(JobId::from_bits(1)), [JobId::from_bits(2), JobId::from_bits(3)]);
    assert!(index.is_bundle_shared("b", JobId::from_bits(1)));
    index.delete(JobId::from_bits(2));
    index.delete(JobId::from_bits(3));
    assert!(index.retries_of(JobId::from_bits(1)).is_empty());
    assert!(!index.is_bundle_shared("b", JobId::from_bits(1)));
    assert!(index.is_bundle_shared("b", JobId::from_bits(9)));
}

#[test]
fn a_record_that_contradicts_the_history_is_skipped() {
    let mut index = Index::default();
    (0..3).for_each(|step| feed(&mut index, 1, step));
    index.answer(&answer(1, Outcome::Failed), 2, NOW);
    index.happen(JobId::from_bits(1), ExecutionId::Any, &event(EventKind::Expired), NOW, NOW);
    let entry = index.get(JobId::from_bits(1)).unwrap();
    assert_eq!(entry.shares[0].execution.state(), ExecutionState::Completed);
    assert!(entry.is_odd);
    assert_eq!(index.n_contradictory(), 1);
    assert_eq!(index.counts()["completed"], 1);
}

#[test]
fn the_clock_of_an_attempt_is_not_wound_up_by_asking_for_its_end() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let mut index = Index::default();
    feed(&mut index, 1, 0);
    let mut happen = |event: &Event, second| {
        index.happen(JobId::from_bits(1), ExecutionId::Any, event, at(second), NOW);
        index.get(JobId::from_bits(1)).unwrap().shares[0].changed_at
    };
    assert_eq!(happen(&started(1), 10), at(10));
    assert_eq!(happen(&event(EventKind::CancelRequested { by: "ada".to_owned() }), 20), at(10));
    assert_eq!(happen(&started(1), 30), at(10), "told again");
    assert_eq!(happen(&started(2), 40), at(40));
}

#[test]
fn ended_without_an_answer_is_owed_until_it_comes() {
    let mut index = Index::default();
    feed(&mut index, 1, 0);
    let effect = index.happen(JobId::from_bits(1), ExecutionId::Any, &event(EventKind::Cancelled { by: "ada".to_owned() }), NOW, NOW);
    assert_eq!(effect, Effect { status: Some(JobStatus::Cancelled), is_settled: false });
    assert_eq!(index.owing(None, 10), [JobId::from_bits(1)]);
    assert!(index.answer(&answer(1, Outcome::Cancelled), 1, NOW).is_settled);
    assert!(index.owing(None, 10).is_empty());
}

#[test]
fn time_makes_scheduled_jobs_pending_and_forgets_old_ones() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let mut index = Index::default();
    let scheduled = Definition { not_before: Some(at(10)), ..definition(1) };
    index.define(&scheduled, NOW, NOW);
    assert_eq!((index.counts()["scheduled"], index.is_stale(at(9)), index.is_stale(at(10))), (1, false, true));
    index.pass_time(Duration::from_secs(100), at(10));
    assert_eq!((index.counts()["scheduled"], index.counts()["pending"], index.is_stale(at(10))), (0, 1, false));
    index.pass_time(Duration::from_secs(100), at(101));
    assert_eq!(index.counts()["pending"], 0);
    assert_eq!(index.list(&Filter::default(), None, 10, at(101)).items.len(), 0);
}

#[test]
fn what_nobody_has_is_known_at_once() {
    let mut index = Index::default();
    (1..=2 * LOOKS_MAX as u128).for_each(|id| feed(&mut index, id, 0));
    let asked = |word: &str| Some(word.to_owned());
    for filter in [
        Filter { submitter: asked("nobody"), ..Filter::default() },
        Filter { host: asked("nowhere"), ..Filter::default() },
        Filter { annotations: vec![("team".to_owned(), "red".to_owned())], ..Filter::default() },
        Filter { text: asked("no such text"), ..Filter::default() },
        Filter { text: Some(JobId::from_bits(0).to_string()), ..Filter::default() },
        Filter { statuses: [JobStatus::Running].into(), ..Filter::default() },
    ] {
        let page = index.list(&filter, None, 10, NOW);
        assert_eq!((page.items.len(), page.last), (0, None), "{filter:?}");
    }
    feed(&mut index, 1, 1);
    let is_first = |filter: Filter| index.list(&filter, None, 10, NOW).items[0].id == JobId::from_bits(1);
    assert!(is_first(Filter { statuses: [JobStatus::Running].into(), ..Filter::default() }));
    assert!(is_first(Filter { host: asked("web-01"), ..Filter::default() }));
    assert!(is_first(Filter { text: asked("EB-0"), ..Filter::default() }));
}

#[test]
fn a_list_that_finds_little_stops_and_says_where_to_go_on() {
    let mut index = Index::default();
    let jobs = LOOKS_MAX as u128 + 5000;
    for id in 1..=jobs {
        let by = if id.is_multiple_of(2) { "ada" } else { "bob" };
        let target = if id.is_multiple_of(2) { "_all" } else { "_any" };
        index.define(&Definition { submitted_by: by.to_owned(), target: target.to_owned(), ..definition(id) }, NOW, NOW);
    }
    // Each is everywhere, and both are nowhere.
    let filter = Filter { submitter: Some("ada".to_owned()), target: Some("_any".to_owned()), ..Filter::default() };
    let page = index.list(&filter, None, 10, NOW);
    assert!(page.items.is_empty() && page.last.is_some_and(|last| last < JobId::from_bits(5500)), "{:?}", page.last);
    let page = index.list(&filter, page.last, 10, NOW);
    assert_eq!((page.items.len(), page.last), (0, None));
}

#[test]
fn a_scan_for_unfinished_jobs_is_bounded_by_all_that_it_walks_past() {
    let mut index = Index::default();
    (1..=1000).for_each(|id| feed(&mut index, id, 0));
    for id in (1..=1000).filter(|id| id % 250 != 0) {
        index.answer(&answer(id, Outcome::Completed), 1, NOW);
    }
    let (mut found, mut cursor, mut n_scans) = (Vec::new(), None, 0);
    loop {
        let (some, next) = index.unfinished(cursor, (100, 50), |_| true);
        n_scans += 1;
        found.extend(some);
        match next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(found, [250, 500, 750, 1000].map(JobId::from_bits));
    assert_eq!(n_scans, 1000 / 50 + 1);
    assert_eq!(index.depth().0, 4);
}

#[test]
fn a_text_that_is_known_to_be_nowhere_is_still_counted_for_each_block_that_is_asked() {
    let mut index = Index::default();
    for id in 1..=4096_u128 {
        let annotations = [("of".to_owned(), format!("team-{}", id % 160))].into();
        index.define(&Definition { annotations, ..definition(id) }, NOW, NOW);
    }
    let filter = Filter { text: Some("no such text".to_owned()), ..Filter::default() };
    let mut wanted = Wanted::new(&filter, &index.texts).unwrap();
    let mut looks = index.jobs.all().iter().map(|block| {
        let before = wanted.n_looks();
        assert!(!wanted.may_be_in(block));
        wanted.n_looks() - before
    });
    assert!(looks.next().unwrap() > 160, "each text is looked at once");
    assert!(looks.all(|looks| looks >= 10), "and then it is asked what was found");
}
