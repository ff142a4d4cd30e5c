//! Turns of concurrency keys: an order that stays, and one holder.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use longshore_model::JobId;
use longshore_model::wire::record::SCHEMA;
use longshore_model::wire::turn::{Hold, Holder, Waiter};
use longshore_store::{Store, Turn, WaiterPage};

use crate::sample::{job_id, then};

conformance!(GENEROUS:
    those_who_wait_for_a_turn_keep_their_order_and_place,
    many_who_wait_for_turns_are_told_in_pages,
    a_turn_goes_to_one_of_many_who_take_it_at_once,
    a_turn_changes_hands_only_from_what_was_read_and_its_revision_grows,
    a_repeated_taking_of_a_turn_takes_effect_once,
    keys_of_any_characters_do_not_meet,
);

async fn those_who_wait_for_a_turn_keep_their_order_and_place(store: Store) {
    for n in [5, 3, 9] {
        store.turns.enter(&waiter("deploy", n)).await.unwrap();
    }
    store.turns.enter(&waiter("other", 1)).await.unwrap();
    store.turns.enter(&waiter("deploy", 5)).await.unwrap();
    assert_eq!(jobs(&store, "deploy").await, [5, 3, 9].map(job_id));
    let page = store.turns.page(0).await.unwrap();
    let (places, everyone): (Vec<_>, Vec<_>) = page.items.into_iter().unzip();
    assert_eq!(everyone, [waiter("deploy", 5), waiter("deploy", 3), waiter("deploy", 9), waiter("other", 1)]);
    let rest = store.turns.page(places[1]).await.unwrap().items;
    assert_eq!(rest, [(places[2], waiter("deploy", 9)), (places[3], waiter("other", 1))]);

    for _ in 0..2 {
        store.turns.leave("deploy", job_id(3)).await.unwrap();
    }
    store.turns.leave("deploy", job_id(1)).await.unwrap();
    store.turns.enter(&waiter("deploy", 3)).await.unwrap();
    assert_eq!(jobs(&store, "deploy").await, [5, 9, 3].map(job_id));
    assert_eq!(jobs(&store, "other").await, [job_id(1)]);
    assert_eq!(jobs(&store, "nobody's").await, []);
}

async fn many_who_wait_for_turns_are_told_in_pages(store: Store) {
    const WAITERS: u64 = 1100;
    let turns = &store.turns;
    let entering = (0..WAITERS).map(|n| async move { turns.enter(&waiter(["a", "b"][usize::from(n % 2 == 0)], n)).await.unwrap() });
    futures::stream::iter(entering).buffer_unordered(64).collect::<()>().await;
    let (mut told, mut after, mut n_pages) = (BTreeSet::new(), 0, 0);
    loop {
        let page = store.turns.page(after).await.unwrap();
        for (place, waiter) in page.items {
            assert!(place > after, "in the order in which they entered");
            after = place;
            assert!(told.insert(waiter.job), "each once");
        }
        n_pages += 1;
        match page.next {
            Some(next) => assert_eq!(next, after),
            None => break,
        }
    }
    assert_eq!((told, n_pages > 1), ((0..WAITERS).map(job_id).collect(), true));
    assert_eq!(store.turns.page(after).await.unwrap(), WaiterPage { items: Vec::new(), next: None });
}

async fn a_turn_goes_to_one_of_many_who_take_it_at_once(store: Store) {
    assert_eq!(store.turns.turn("k").await.unwrap(), Turn::default());
    let tries = (0..16).map(|n| {
        let store = store.clone();
        async move { (store.turns.take("k", &hold(n), 0).await.unwrap(), n) }
    });
    let taken: Vec<_> = futures::future::join_all(tries).await.into_iter().filter(|(taken, _)| taken.is_some()).collect();
    let [(Some(revision), n)] = taken[..] else { panic!("{taken:?}") };
    assert_eq!(store.turns.turn("k").await.unwrap(), Turn { hold: Some(hold(n)), revision });
}

async fn a_turn_changes_hands_only_from_what_was_read_and_its_revision_grows(store: Store) {
    let first = store.turns.take("k", &hold(1), 0).await.unwrap().unwrap();
    assert_eq!(store.turns.take("k", &hold(2), 0).await.unwrap(), None);
    store.turns.release("k", first + 1).await.unwrap();
    assert_eq!(store.turns.turn("k").await.unwrap().hold, Some(hold(1)), "only its own revision frees it");
    let second = store.turns.take("k", &hold(2), first).await.unwrap().unwrap();
    store.turns.release("k", first).await.unwrap();
    assert_eq!(store.turns.turn("k").await.unwrap(), Turn { hold: Some(hold(2)), revision: second }, "the former holder frees nothing");
    for _ in 0..2 {
        store.turns.release("k", second).await.unwrap();
    }
    let free = store.turns.turn("k").await.unwrap();
    assert_eq!(free.hold, None);
    let third = store.turns.take("k", &hold(3), free.revision).await.unwrap().unwrap();
    assert!(first < second && second < free.revision && free.revision < third);
    assert_eq!(store.turns.take("k", &hold(4), free.revision).await.unwrap(), None);
}

async fn a_repeated_taking_of_a_turn_takes_effect_once(store: Store) {
    let first = store.turns.take("k", &hold(1), 0).await.unwrap().unwrap();
    assert_eq!(store.turns.take("k", &hold(1), 0).await.unwrap(), Some(first));
}

async fn keys_of_any_characters_do_not_meet(store: Store) {
    let keys = ["a b", "a.b", "a*", "a>", "A B", "*"];
    for (n, key) in (0..).zip(keys) {
        store.turns.enter(&waiter(key, n)).await.unwrap();
        assert!(store.turns.take(key, &hold(n), 0).await.unwrap().is_some());
    }
    for (n, key) in (0..).zip(keys) {
        assert_eq!(jobs(&store, key).await, [job_id(n)], "{key}");
        assert_eq!(store.turns.turn(key).await.unwrap().hold, Some(hold(n)), "{key}");
    }
}

async fn jobs(store: &Store, key: &str) -> Vec<JobId> {
    store.turns.waiting(key).await.unwrap().into_iter().map(|waiter| waiter.job).collect()
}

fn waiter(key: &str, n: u64) -> Waiter {
    Waiter { schema: SCHEMA, key: key.to_owned(), job: job_id(n), execution: None, not_before: None, since: then() }
}

fn hold(n: u64) -> Hold {
    let holder = Holder { job: job_id(n), execution: longshore_model::ExecutionId::Any, attempt: 1 };
    Hold { schema: SCHEMA, holder, over: None }
}
