//! The feed: every change once, in order, from any point on.

use longshore_model::{ExecutionId, JobId};
use longshore_store::{Fact, FeedItem, FeedStream, Position, Store};

use crate::harness::{A_WHILE, next, nothing_comes};
use crate::sample::*;

conformance!(GENEROUS:
    an_empty_feed_is_caught_up_once,
    what_was_there_is_told_before_caught_up,
    what_is_said_to_follow_follows,
    changes_are_told_live,
    a_reader_goes_on_from_any_position,
    a_position_of_the_end_gives_nothing_old,
    a_deleted_job_is_not_told_to_later_readers,
    a_deletion_does_not_hide_what_came_before_or_after,
    nothing_is_missed_or_repeated_while_writers_write,
    readers_do_not_take_from_each_other,
);

async fn an_empty_feed_is_caught_up_once(store: Store) {
    let mut feed = store.feed.follow(Position::default()).await.unwrap();
    assert_eq!(next(&mut feed).await.unwrap(), FeedItem::CaughtUp);
    create(&store, &any_job(1)).await;
    assert_eq!(fact(&mut feed).await.1, Fact::Defined(Box::new(any_job(1))));
    assert!(nothing_comes(&mut feed, A_WHILE).await);
}

async fn what_was_there_is_told_before_caught_up(store: Store) {
    let expected = history(&store, 1).await;
    let stored_at = store.ledger.load(job_id(1)).await.unwrap().unwrap().stored_at;
    let mut feed = store.feed.follow(Position::default()).await.unwrap();
    let mut told = Vec::new();
    loop {
        match next(&mut feed).await.unwrap() {
            FeedItem::CaughtUp => break,
            FeedItem::Fact { at, fact, .. } => {
                if matches!(fact, Fact::Defined(_)) {
                    assert_eq!(at, stored_at);
                }
                told.push(fact);
            }
        }
    }
    assert_eq!(in_queue(&told), in_queue(&expected));
    assert_eq!(in_responses(&told), in_responses(&expected));
    assert!(nothing_comes(&mut feed, A_WHILE).await);
}

async fn what_is_said_to_follow_follows(store: Store) {
    for n in 1..=3 {
        history(&store, n).await;
    }
    let mut feed = store.feed.follow(Position::default()).await.unwrap();
    let mut told = Vec::new();
    while let FeedItem::Fact { n_behind, fact, .. } = next(&mut feed).await.unwrap() {
        told.push((matches!(fact, Fact::Answered(_)), n_behind));
    }
    for (at, (is_answer, n_behind)) in told.iter().enumerate() {
        let follow = told[at + 1..].iter().filter(|(other, _)| other == is_answer).count() as u64;
        assert!(*n_behind <= follow, "{n_behind} of {follow} at {at}");
    }
}

async fn changes_are_told_live(store: Store) {
    let mut feed = store.feed.follow(Position::default()).await.unwrap();
    assert_eq!(next(&mut feed).await.unwrap(), FeedItem::CaughtUp);
    let definition = host_job(1, agent_id(1));
    let execution = definition.executions[0];

    let created = create(&store, &definition).await;
    let (position, told) = fact(&mut feed).await;
    assert_eq!((position, told), (Position { queue: created, responses: 0 }, Fact::Defined(Box::new(definition.clone()))));

    let event = started(1, agent_id(1));
    let revision = append(&store, &definition, created, &event).await;
    let (position, told) = fact(&mut feed).await;
    assert_eq!((position.queue, told), (revision, Fact::Happened { job: definition.id, execution, event }));

    let answer = answer(definition.id, execution, "hello");
    store.ledger.answer(&answer).await.unwrap();
    let (position, told) = fact(&mut feed).await;
    assert_eq!((position.queue, told), (revision, Fact::Answered(Box::new(answer))));
    assert!(position.responses > 0);

    store.ledger.delete(definition.id).await.unwrap();
    assert_eq!(fact(&mut feed).await, (position, Fact::Deleted(definition.id)), "a hint has no place of its own");
}

async fn a_reader_goes_on_from_any_position(store: Store) {
    let mut expected = Vec::new();
    for n in 1..=3 {
        expected.extend(history(&store, n).await);
    }
    let everything = facts(&store, Position::default(), expected.len()).await;
    for (told, (position, _)) in everything.iter().enumerate() {
        let rest = &everything[told + 1..];
        let again = facts(&store, *position, rest.len()).await;
        // Between the two sequences there is no order.
        let (rest, again) = (facts_only(rest), facts_only(&again));
        assert_eq!(in_queue(&again), in_queue(&rest), "from {position:?}");
        assert_eq!(in_responses(&again), in_responses(&rest), "from {position:?}");
    }
}

async fn a_position_of_the_end_gives_nothing_old(store: Store) {
    let expected = history(&store, 1).await;
    let (end, _) = facts(&store, Position::default(), expected.len()).await.pop().unwrap();
    let mut feed = store.feed.follow(end).await.unwrap();
    assert_eq!(next(&mut feed).await.unwrap(), FeedItem::CaughtUp);
    create(&store, &any_job(2)).await;
    assert_eq!(fact(&mut feed).await.1, Fact::Defined(Box::new(any_job(2))));
}

async fn a_deleted_job_is_not_told_to_later_readers(store: Store) {
    history(&store, 1).await;
    store.ledger.delete(job_id(1)).await.unwrap();
    let mut feed = store.feed.follow(Position::default()).await.unwrap();
    assert_eq!(next(&mut feed).await.unwrap(), FeedItem::CaughtUp);
    assert!(nothing_comes(&mut feed, A_WHILE).await);
}

async fn a_deletion_does_not_hide_what_came_before_or_after(store: Store) {
    let mut feed = store.feed.follow(Position::default()).await.unwrap();
    assert_eq!(next(&mut feed).await.unwrap(), FeedItem::CaughtUp);
    for n in 1..=3 {
        create(&store, &any_job(n)).await;
    }
    for n in 1..=3 {
        assert_eq!(fact(&mut feed).await.1, Fact::Defined(Box::new(any_job(n))));
    }
    store.ledger.delete(job_id(2)).await.unwrap();
    assert_eq!(fact(&mut feed).await.1, Fact::Deleted(job_id(2)));
    create(&store, &any_job(4)).await;
    assert_eq!(fact(&mut feed).await.1, Fact::Defined(Box::new(any_job(4))));
    let late: Vec<_> = facts(&store, Position::default(), 3).await.into_iter().map(|(_, fact)| fact).collect();
    assert_eq!(late, [1, 3, 4].map(|n| Fact::Defined(Box::new(any_job(n)))));
}

async fn nothing_is_missed_or_repeated_while_writers_write(store: Store) {
    const JOBS: u64 = 100;
    let writer = async {
        for n in 0..JOBS {
            history(&store, n).await;
            tokio::task::yield_now().await;
        }
    };
    let reader = async {
        let mut feed = store.feed.follow(Position::default()).await.unwrap();
        let (mut caught_up, mut facts) = (0, Vec::new());
        let mut newest = Position::default();
        while facts.len() < 4 * JOBS as usize || caught_up == 0 {
            match next(&mut feed).await.unwrap() {
                FeedItem::CaughtUp => caught_up += 1,
                FeedItem::Fact { position, fact, .. } => {
                    assert!(position.queue >= newest.queue && position.responses >= newest.responses && position != newest, "{position:?}");
                    newest = position;
                    facts.push(fact);
                }
            }
        }
        assert_eq!(caught_up, 1);
        facts
    };
    let ((), told) = tokio::join!(writer, reader);
    let jobs = |told: Vec<(&'static str, JobId)>| told.into_iter().map(|(_, job)| job).collect::<Vec<_>>();
    assert_eq!(jobs(in_queue(&told)), (0..JOBS).flat_map(|n| [job_id(n); 3]).collect::<Vec<_>>());
    assert_eq!(jobs(in_responses(&told)), (0..JOBS).map(job_id).collect::<Vec<_>>());
}

async fn readers_do_not_take_from_each_other(store: Store) {
    let mut one = store.feed.follow(Position::default()).await.unwrap();
    let mut other = store.feed.follow(Position::default()).await.unwrap();
    for feed in [&mut one, &mut other] {
        assert_eq!(next(feed).await.unwrap(), FeedItem::CaughtUp);
    }
    create(&store, &any_job(1)).await;
    for feed in [&mut one, &mut other] {
        assert_eq!(fact(feed).await.1, Fact::Defined(Box::new(any_job(1))));
    }
}

/// A whole life: definition, two events, an answer.
async fn history(store: &Store, n: u64) -> Vec<Fact> {
    let (definition, execution) = (any_job(n), ExecutionId::Any);
    let job = definition.id;
    let (first, second, answer) = (started(1, agent_id(1)), cancel_requested("alice"), answer(job, execution, "hello"));
    let created = create(store, &definition).await;
    let revision = append(store, &definition, created, &first).await;
    append(store, &definition, revision, &second).await;
    store.ledger.answer(&answer).await.unwrap();
    vec![
        Fact::Defined(Box::new(definition)),
        Fact::Happened { job, execution, event: first },
        Fact::Happened { job, execution, event: second },
        Fact::Answered(Box::new(answer)),
    ]
}

/// The first so many facts, of which nothing but [`FeedItem::CaughtUp`] follows.
async fn facts(store: &Store, from: Position, n_facts: usize) -> Vec<(Position, Fact)> {
    let mut feed = store.feed.follow(from).await.unwrap();
    let mut told = Vec::new();
    while let FeedItem::Fact { position, fact, .. } = next(&mut feed).await.unwrap() {
        told.push((position, fact));
    }
    assert_eq!(told.len(), n_facts, "from {from:?}: {told:?}");
    told
}

/// The next fact of a reader that has caught up.
async fn fact(feed: &mut FeedStream) -> (Position, Fact) {
    match next(feed).await.unwrap() {
        FeedItem::Fact { position, fact, .. } => (position, fact),
        FeedItem::CaughtUp => panic!("caught up twice"),
    }
}

fn facts_only(told: &[(Position, Fact)]) -> Vec<Fact> {
    told.iter().map(|(_, fact)| fact.clone()).collect()
}

fn in_queue(told: &[Fact]) -> Vec<(&'static str, JobId)> {
    told.iter()
        .filter_map(|fact| match fact {
            Fact::Defined(definition) => Some(("defined", definition.id)),
            Fact::Happened { job, event, .. } if *event == cancel_requested("alice") => Some(("cancel requested", *job)),
            Fact::Happened { job, .. } => Some(("started", *job)),
            Fact::Answered(_) => None,
            Fact::Deleted(job) => Some(("deleted", *job)),
        })
        .collect()
}

fn in_responses(told: &[Fact]) -> Vec<(&'static str, JobId)> {
    told.iter()
        .filter_map(|fact| match fact {
            Fact::Answered(answer) => Some(("answered", answer.job)),
            Fact::Defined(_) | Fact::Happened { .. } | Fact::Deleted(_) => None,
        })
        .collect()
}
