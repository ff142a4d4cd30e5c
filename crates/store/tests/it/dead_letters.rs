//! Dead letters: one a job, written under a guard, and told to whoever follows.

use longshore_model::limits::RECORD_BYTES_MAX;
use longshore_model::wire::dead_letter::{DeadExecution, DeadLetter, DeadLetterState};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Failure, SCHEMA};
use longshore_model::{ExecutionId, JobId};
use longshore_store::{Error, LetterEvent, LetterPut, LetterStream, Revision, Store, StoredLetter};

use crate::harness::{A_WHILE, next, nothing_comes};
use crate::sample::{agent_id, job_id, then};

conformance!(GENEROUS:
    a_dead_letter_is_kept_and_read,
    a_dead_letter_changes_only_from_what_was_read,
    a_repeated_write_of_a_dead_letter_takes_effect_once,
    of_many_who_write_a_dead_letter_one_is_first,
    a_removed_dead_letter_may_be_written_again,
    dead_letters_that_are_too_large_are_refused,
    followers_are_told_every_dead_letter_as_it_is_and_then_every_change,
    no_dead_letters_are_current_at_once,
);

async fn a_dead_letter_is_kept_and_read(store: Store) {
    assert_eq!(store.dead_letters.load(job_id(1)).await.unwrap(), None);
    let revision = put(&store, &letter(1), 0).await;
    assert_eq!(load(&store, 1).await, Some(StoredLetter { revision, letter: letter(1) }));
    assert_eq!(load(&store, 2).await, None);
}

async fn a_dead_letter_changes_only_from_what_was_read(store: Store) {
    let first = put(&store, &letter(1), 0).await;
    let other = put(&store, &letter(2), 0).await;
    for after in [0, first + 100, other] {
        assert_eq!(store.dead_letters.put(&discarded(1), after).await.unwrap(), LetterPut::Conflict, "after {after}");
    }
    let second = put(&store, &discarded(1), first).await;
    assert_eq!(store.dead_letters.put(&letter(1), first).await.unwrap(), LetterPut::Conflict, "it has moved on");
    assert_eq!(load(&store, 1).await, Some(StoredLetter { revision: second, letter: discarded(1) }));
    assert_eq!(store.dead_letters.put(&letter(3), first).await.unwrap(), LetterPut::Conflict, "it has none that could change");
}

async fn a_repeated_write_of_a_dead_letter_takes_effect_once(store: Store) {
    let first = put(&store, &letter(1), 0).await;
    assert_eq!(put(&store, &letter(1), 0).await, first);
    let second = put(&store, &discarded(1), first).await;
    assert_eq!(put(&store, &discarded(1), first).await, second);
    assert_eq!(load(&store, 1).await.unwrap().revision, second);
}

async fn of_many_who_write_a_dead_letter_one_is_first(store: Store) {
    let writes = (0..16).map(|n| {
        let letter = DeadLetter { state: DeadLetterState::Discarded { by: format!("caller {n}"), at: then() }, ..letter(1) };
        let store = store.clone();
        async move { (store.dead_letters.put(&letter, 0).await.unwrap(), letter) }
    });
    let written = futures::future::join_all(writes).await;
    let [(LetterPut::Stored(revision), first)] = &written.iter().filter(|(put, _)| *put != LetterPut::Conflict).collect::<Vec<_>>()[..]
    else {
        panic!("{written:?}")
    };
    assert_eq!(load(&store, 1).await, Some(StoredLetter { revision: *revision, letter: first.clone() }));
}

async fn a_removed_dead_letter_may_be_written_again(store: Store) {
    let first = put(&store, &letter(1), 0).await;
    put(&store, &letter(2), 0).await;
    for _ in 0..2 {
        store.dead_letters.delete(job_id(1)).await.unwrap();
        assert_eq!(load(&store, 1).await, None);
    }
    assert_eq!(store.dead_letters.put(&discarded(1), first).await.unwrap(), LetterPut::Conflict, "it is not there any more");
    let again = put(&store, &letter(1), 0).await;
    assert!(again > first);
    assert!(load(&store, 2).await.is_some());
}

async fn dead_letters_that_are_too_large_are_refused(store: Store) {
    let large = DeadLetter { target: "x".repeat(RECORD_BYTES_MAX), ..letter(1) };
    assert!(matches!(store.dead_letters.put(&large, 0).await, Err(Error::TooLarge { .. })));
    assert_eq!(load(&store, 1).await, None);
}

async fn no_dead_letters_are_current_at_once(store: Store) {
    let mut follower = store.dead_letters.follow().await.unwrap();
    assert_eq!(next(&mut follower).await.unwrap(), LetterEvent::Current);
    assert!(nothing_comes(&mut follower, A_WHILE).await);
}

async fn followers_are_told_every_dead_letter_as_it_is_and_then_every_change(store: Store) {
    let first = put(&store, &letter(1), 0).await;
    let second = put(&store, &letter(2), 0).await;
    put(&store, &letter(3), 0).await;
    let changed = put(&store, &discarded(1), first).await;
    store.dead_letters.delete(job_id(3)).await.unwrap();

    let mut follower = store.dead_letters.follow().await.unwrap();
    assert_eq!(told(&mut follower).await, StoredLetter { revision: second, letter: letter(2) });
    assert_eq!(told(&mut follower).await, StoredLetter { revision: changed, letter: discarded(1) });
    assert_eq!(next(&mut follower).await.unwrap(), LetterEvent::Current);

    let later = put(&store, &letter(3), 0).await;
    assert_eq!(told(&mut follower).await, StoredLetter { revision: later, letter: letter(3) });
    let closed = put(&store, &discarded(2), second).await;
    assert_eq!(told(&mut follower).await, StoredLetter { revision: closed, letter: discarded(2) });
    store.dead_letters.delete(job_id(2)).await.unwrap();
    assert!(nothing_comes(&mut follower, A_WHILE).await, "removals are not told");
}

async fn told(follower: &mut LetterStream) -> StoredLetter {
    match next(follower).await.unwrap() {
        LetterEvent::Letter(stored) => *stored,
        LetterEvent::Current => panic!("there is more"),
    }
}

async fn put(store: &Store, letter: &DeadLetter, after: Revision) -> Revision {
    match store.dead_letters.put(letter, after).await.unwrap() {
        LetterPut::Stored(revision) => revision,
        LetterPut::Conflict => panic!("nobody else writes"),
    }
}

async fn load(store: &Store, n: u64) -> Option<StoredLetter> {
    store.dead_letters.load(job_id(n)).await.unwrap()
}

pub(crate) fn letter(n: u64) -> DeadLetter {
    let job: JobId = job_id(n);
    let error = Failure { code: ErrorCode::DeadLetter, message: "all 2 attempts are used up; the last: no disk".to_owned() };
    let execution = DeadExecution {
        id: ExecutionId::Any,
        agent: Some(agent_id(1)),
        hostname: Some("web-01".to_owned()),
        attempts: 2,
        error,
        at: then(),
    };
    DeadLetter {
        schema: SCHEMA,
        job,
        operation: "node.hostname.get".to_owned(),
        target: "_any".to_owned(),
        submitted_by: "ada".to_owned(),
        executions: vec![execution],
        unlisted: 0,
        at: then(),
        state: DeadLetterState::Open,
    }
}

fn discarded(n: u64) -> DeadLetter {
    DeadLetter { state: DeadLetterState::Discarded { by: "bob".to_owned(), at: then() }, ..letter(n) }
}
