//! The ledger: written once, appended under a guard, deleted whole.

use futures::future::join_all;
use longshore_model::ExecutionId;
use longshore_model::limits::RECORD_BYTES_MAX;
use longshore_model::wire::record::{Reservation, SCHEMA};
use longshore_store::{Answered, Appended, Created, Error, Store};

use crate::harness::{A_WHILE, Puller};
use crate::sample::*;

conformance!(GENEROUS:
    a_created_job_is_loaded_as_it_was,
    a_job_that_was_never_created_is_not_there,
    creating_twice_takes_effect_once,
    events_are_appended_in_order,
    append_is_refused_after_another_writer,
    a_repeated_append_takes_effect_once,
    append_is_refused_after_a_delete,
    append_is_refused_where_no_job_ever_was,
    of_concurrent_appends_one_is_stored,
    the_first_answer_stands,
    of_concurrent_answers_one_is_stored,
    the_first_reservation_stands,
    of_concurrent_reservations_all_get_the_same,
    a_retired_key_stands_for_a_deleted_job,
    delete_leaves_nothing,
    records_that_are_too_large_are_refused,
);
conformance!(SMALL: a_full_ledger_refuses_and_keeps_what_it_has);

async fn a_created_job_is_loaded_as_it_was(store: Store) {
    for definition in [any_job(1), any_query(2), host_job(3, agent_id(1)), host_query(4, agent_id(1))] {
        let revision = create(&store, &definition).await;
        let record = store.ledger.load(definition.id).await.unwrap().unwrap();
        assert_eq!(record.definition, definition);
        assert_eq!(record.definition_revision, revision);
        assert_eq!(record.revision(definition.executions[0]), revision);
        assert!(record.events.is_empty() && record.answers.is_empty());
    }
}

async fn a_job_that_was_never_created_is_not_there(store: Store) {
    create(&store, &any_job(1)).await;
    assert_eq!(store.ledger.load(job_id(2)).await.unwrap(), None);
    assert_eq!(store.ledger.load_answer(job_id(2), ExecutionId::Any).await.unwrap(), None);
}

async fn creating_twice_takes_effect_once(store: Store) {
    for definition in [any_job(1), host_job(2, agent_id(1))] {
        let revision = create(&store, &definition).await;
        assert_eq!(store.ledger.create(&definition).await.unwrap(), Created::Exists);
        assert_eq!(store.ledger.load(definition.id).await.unwrap().unwrap().definition_revision, revision);
    }
    let mut puller = Puller::new(&store).await;
    puller.next().await;
    assert!(puller.finds(A_WHILE).await.is_none(), "announced twice");
}

async fn events_are_appended_in_order(store: Store) {
    let definition = any_job(1);
    let execution = definition.executions[0];
    let mut newest = create(&store, &definition).await;
    let mut expected = Vec::new();
    for event in [started(1, agent_id(1)), retrying(1), started(2, agent_id(2)), cancel_requested("alice")] {
        let revision = append(&store, &definition, newest, &event).await;
        assert!(revision > newest, "{revision} after {newest}");
        newest = revision;
        expected.push((revision, execution, event));
    }
    let record = store.ledger.load(definition.id).await.unwrap().unwrap();
    assert_eq!(record.events, expected);
    assert_eq!(record.revision(execution), newest);
}

async fn append_is_refused_after_another_writer(store: Store) {
    let (definition, neighbour) = (host_job(1, agent_id(1)), any_job(2));
    let execution = definition.executions[0];
    let created = create(&store, &definition).await;
    let first = started(1, agent_id(1));
    let revision = append(&store, &definition, created, &first).await;
    // What happens to another job is nobody's business here.
    create(&store, &neighbour).await;
    for after in [0, created, revision + 1] {
        let appended = store.ledger.append(definition.id, execution, after, &cancel_requested("bob")).await.unwrap();
        assert_eq!(appended, Appended::Conflict, "after {after}");
    }
    assert_eq!(store.ledger.load(definition.id).await.unwrap().unwrap().events, [(revision, execution, first)]);
    append(&store, &definition, revision, &cancel_requested("bob")).await;
}

async fn a_repeated_append_takes_effect_once(store: Store) {
    let definition = any_job(1);
    let execution = definition.executions[0];
    let created = create(&store, &definition).await;
    let (first, second) = (started(1, agent_id(1)), retrying(1));
    let revision = append(&store, &definition, created, &first).await;
    assert_eq!(append(&store, &definition, created, &first).await, revision);
    let newest = append(&store, &definition, revision, &second).await;
    assert_eq!(append(&store, &definition, revision, &second).await, newest);
    assert_eq!(append(&store, &definition, created, &first).await, revision, "also when others have written since");
    let expected = [(revision, execution, first), (newest, execution, second)];
    assert_eq!(store.ledger.load(definition.id).await.unwrap().unwrap().events, expected);
}

async fn append_is_refused_after_a_delete(store: Store) {
    let definition = any_job(1);
    let created = create(&store, &definition).await;
    store.ledger.delete(definition.id).await.unwrap();
    let appended = store.ledger.append(definition.id, ExecutionId::Any, created, &started(1, agent_id(1))).await.unwrap();
    assert_eq!(appended, Appended::Conflict);
    assert_eq!(store.ledger.load(definition.id).await.unwrap(), None);
}

async fn append_is_refused_where_no_job_ever_was(store: Store) {
    for after in [1, 0] {
        let appended = store.ledger.append(job_id(1), ExecutionId::Any, after, &started(1, agent_id(1))).await.unwrap();
        assert_eq!(appended, Appended::Conflict, "after {after}");
    }
}

async fn of_concurrent_appends_one_is_stored(store: Store) {
    let definition = any_job(1);
    let mut newest = create(&store, &definition).await;
    for attempt in 1..=10 {
        let events: Vec<_> = (1..=4).map(|n| started(attempt, agent_id(n))).collect();
        let appends = events.iter().map(|event| store.ledger.append(definition.id, ExecutionId::Any, newest, event));
        let appended: Vec<_> = join_all(appends).await.into_iter().map(Result::unwrap).collect();
        let stored: Vec<_> = appended.iter().zip(&events).filter(|(appended, _)| **appended != Appended::Conflict).collect();
        let [(Appended::Stored(revision), event)] = stored[..] else { panic!("{appended:?}") };
        let record = store.ledger.load(definition.id).await.unwrap().unwrap();
        assert_eq!(record.events.last(), Some(&(*revision, ExecutionId::Any, event.clone())));
        assert_eq!(record.events.len(), attempt as usize);
        newest = *revision;
    }
}

async fn the_first_answer_stands(store: Store) {
    let definition = host_job(1, agent_id(1));
    let execution = definition.executions[0];
    create(&store, &definition).await;
    let (first, second) = (answer(definition.id, execution, "one"), answer(definition.id, execution, "two"));
    assert_eq!(store.ledger.load_answer(definition.id, execution).await.unwrap(), None);
    assert_eq!(store.ledger.answer(&first).await.unwrap(), Answered::Stored);
    assert_eq!(store.ledger.answer(&second).await.unwrap(), Answered::Exists);
    assert_eq!(store.ledger.answer(&first).await.unwrap(), Answered::Stored, "a repeat says what became of it");
    assert_eq!(store.ledger.load_answer(definition.id, execution).await.unwrap(), Some(first.clone()));
    let record = store.ledger.load(definition.id).await.unwrap().unwrap();
    assert_eq!(record.answers, std::slice::from_ref(&first));
    assert_eq!(record.answer_of(execution), Some(&first));
}

async fn of_concurrent_answers_one_is_stored(store: Store) {
    let definition = any_job(1);
    create(&store, &definition).await;
    let answers: Vec<_> = (0..8).map(|n| answer(definition.id, ExecutionId::Any, &n.to_string())).collect();
    let answered = join_all(answers.iter().map(|answer| store.ledger.answer(answer))).await;
    let winners: Vec<_> = answers.iter().zip(answered).filter(|(_, answered)| *answered.as_ref().unwrap() == Answered::Stored).collect();
    let [(winner, _)] = &winners[..] else { panic!("{} winners", winners.len()) };
    assert_eq!(store.ledger.load_answer(definition.id, ExecutionId::Any).await.unwrap().as_ref(), Some(*winner));
}

async fn the_first_reservation_stands(store: Store) {
    let (key, other_key) = ("ab".repeat(32), "cd".repeat(32));
    let (first, second) = (reservation(1), reservation(2));
    assert_eq!(store.ledger.reserved(&key).await.unwrap(), None);
    for _ in 0..2 {
        assert_eq!(store.ledger.reserve(&key, &first).await.unwrap(), first);
        assert_eq!(store.ledger.reserve(&key, &second).await.unwrap(), first);
    }
    assert_eq!(store.ledger.reserved(&key).await.unwrap(), Some(first));
    assert_eq!(store.ledger.reserve(&other_key, &second).await.unwrap(), second);
}

async fn of_concurrent_reservations_all_get_the_same(store: Store) {
    let key = "ef".repeat(32);
    let reservations: Vec<_> = (0..8).map(reservation).collect();
    let given = join_all(reservations.iter().map(|reservation| store.ledger.reserve(&key, reservation))).await;
    let given: Vec<_> = given.into_iter().map(Result::unwrap).collect();
    assert!(reservations.contains(&given[0]));
    assert!(given.iter().all(|one| *one == given[0]), "{given:?}");
}

async fn a_retired_key_stands_for_a_deleted_job(store: Store) {
    let (key, other_key) = ("ab".repeat(32), "cd".repeat(32));
    let first = reservation(1);
    for key in [&key, &other_key] {
        store.ledger.reserve(key, &first).await.unwrap();
    }
    store.ledger.retire(&key, job_id(2)).await.unwrap();
    assert_eq!(store.ledger.reserve(&key, &reservation(3)).await.unwrap(), first, "it stands for another job");
    for _ in 0..2 {
        store.ledger.retire(&key, first.job).await.unwrap();
        assert_eq!(store.ledger.reserve(&key, &reservation(3)).await.unwrap(), Reservation { deleted: true, ..first.clone() });
    }
    assert_eq!(store.ledger.reserve(&other_key, &reservation(3)).await.unwrap(), first);
    let unknown = "ef".repeat(32);
    store.ledger.retire(&unknown, first.job).await.unwrap();
    assert_eq!(store.ledger.reserve(&unknown, &reservation(4)).await.unwrap(), reservation(4), "what was never reserved can be");
}

async fn delete_leaves_nothing(store: Store) {
    let (definition, neighbour) = (any_job(1), any_job(2));
    for definition in [&definition, &neighbour] {
        let created = create(&store, definition).await;
        append(&store, definition, created, &started(1, agent_id(1))).await;
        store.ledger.answer(&answer(definition.id, ExecutionId::Any, "one")).await.unwrap();
    }
    let revision = store.ledger.load(definition.id).await.unwrap().unwrap().revision(ExecutionId::Any);
    for _ in 0..2 {
        store.ledger.delete(definition.id).await.unwrap();
        assert_eq!(store.ledger.load(definition.id).await.unwrap(), None);
        assert_eq!(store.ledger.load_answer(definition.id, ExecutionId::Any).await.unwrap(), None);
    }
    let appended = store.ledger.append(definition.id, ExecutionId::Any, revision, &cancel_requested("bob")).await.unwrap();
    assert_eq!(appended, Appended::Conflict);
    let record = store.ledger.load(neighbour.id).await.unwrap().unwrap();
    assert_eq!((record.events.len(), record.answers.len()), (1, 1));
}

async fn records_that_are_too_large_are_refused(store: Store) {
    let definition = any_job(1);
    let created = create(&store, &definition).await;
    let huge = "x".repeat(RECORD_BYTES_MAX);
    let refusals = [
        store.ledger.create(&large_job(2, RECORD_BYTES_MAX)).await.map(|_| ()),
        store.ledger.append(definition.id, ExecutionId::Any, created, &cancel_requested(&huge)).await.map(|_| ()),
        store.ledger.answer(&answer(definition.id, ExecutionId::Any, &huge)).await.map(|_| ()),
    ];
    for refusal in refusals {
        let error = refusal.unwrap_err();
        assert!(matches!(error, Error::TooLarge { bytes, max: RECORD_BYTES_MAX } if bytes > RECORD_BYTES_MAX), "{error:?}");
    }
    assert_eq!(store.ledger.load(job_id(2)).await.unwrap(), None);
    let record = store.ledger.load(definition.id).await.unwrap().unwrap();
    assert!(record.events.is_empty() && record.answers.is_empty());
    // Large is fine.
    create(&store, &large_job(3, RECORD_BYTES_MAX - 4096)).await;
}

async fn a_full_ledger_refuses_and_keeps_what_it_has(store: Store) {
    let job = |n| large_job(n, 32 << 10);
    let key = "ab".repeat(32);
    store.ledger.reserve(&key, &reservation(0)).await.unwrap();
    let mut stored = 0;
    let error = loop {
        match store.ledger.create(&job(stored)).await {
            Ok(created) => assert!(matches!(created, Created::Stored(_))),
            Err(error) => break error,
        }
        stored += 1;
        assert!(stored < 64, "the ledger has no limit");
    };
    assert!(matches!(error, Error::Full { .. }), "{error:?}");
    assert!(stored > 4, "only {stored}");
    for n in 0..stored {
        assert!(store.ledger.load(job_id(n)).await.unwrap().is_some(), "{n} was dropped");
    }
    assert_eq!(store.ledger.load(job_id(stored)).await.unwrap(), None);

    // A key can be retired at the latest when its job has made room.
    assert!(matches!(store.ledger.retire(&key, job_id(0)).await, Ok(()) | Err(Error::Full { .. })));
    store.ledger.delete(job_id(0)).await.unwrap();
    store.ledger.retire(&key, job_id(0)).await.unwrap();
    assert!(store.ledger.reserve(&key, &reservation(0)).await.unwrap().deleted);
    create(&store, &job(stored)).await;
}

pub(crate) fn reservation(n: u64) -> Reservation {
    Reservation { schema: SCHEMA, job: job_id(n), body_sha256: "00".repeat(32), deleted: false }
}
