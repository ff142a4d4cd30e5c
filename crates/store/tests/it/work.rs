//! What agents take: offered to one, held while extended, never lost.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use longshore_model::wire::record::Definition;
use longshore_model::{AgentId, JobId, Label};
use longshore_store::{Absence, Announcement, Before, Delivery, Store, Wake, WakeStream};
use longshore_testkit::eventually;
use tokio::time::Instant;

use crate::harness::{A_WHILE, Bounds, Puller, next, nothing_comes, on_jetstream, soon};
use crate::sample::*;

conformance!(GENEROUS:
    any_work_is_offered_to_one_of_two,
    many_jobs_are_each_offered_once,
    work_after_a_long_wait_is_offered_at_once,
    a_single_puller_is_offered_the_oldest_first,
    a_pull_ends_when_it_is_used_up,
    work_given_back_is_offered_again,
    work_given_back_with_a_delay_is_offered_after_it,
    work_is_given_back_by_its_token,
    unknown_tokens_are_ignored,
    host_work_is_in_that_agents_inbox_only,
    an_inbox_is_read_oldest_first,
    a_long_inbox_is_read_in_pages,
    all_inboxes_are_told_in_one_order_and_entries_are_taken_out,
    inbox_work_stays_until_it_is_done,
    new_inbox_work_wakes_its_agent_only,
    a_cancel_is_signalled_to_its_agent_only,
    work_withdrawn_is_not_offered,
    inbox_work_withdrawn_is_not_offered,
    announce_repairs_any_work,
    announce_leaves_alone_what_waits,
    announce_leaves_alone_what_is_held,
    announce_may_give_up_on_what_was_offered_and_led_to_nothing,
    announce_repairs_inbox_work,
    a_groups_work_is_offered_to_its_members_only,
    a_groups_work_wakes_its_members,
    a_groups_work_is_repaired_and_withdrawn_like_any,
    a_delivery_follows_those_of_the_same_offer_that_were_before_it,
    a_delivery_says_nothing_of_a_claim_on_another_offer,
    an_announcement_says_on_what_it_rests_however_often_it_is_offered,
    nobody_else_is_offered_what_is_in_an_inbox,
);
conformance!(SHORT:
    work_that_is_done_is_not_offered_again,
    an_unextended_lease_is_offered_again,
    an_extended_lease_is_not_offered,
    an_old_holders_done_counts,
    the_work_of_a_dropped_pull_is_offered_again,
    work_withdrawn_while_it_is_held_is_not_offered_again,
    a_delivery_follows_a_claim_that_lapsed,
    a_claim_is_taken_up_again_by_its_token_and_by_no_other,
);

const LEASE: Duration = Duration::from_secs(2);

async fn any_work_is_offered_to_one_of_two(store: Store) {
    assert_eq!(store.work.lease_duration(), Duration::from_secs(120));
    let (mut one, mut other) = (Puller::new(&store).await, Puller::new(&store).await);
    for definition in [any_job(1), any_query(2)] {
        let revision = create(&store, &definition).await;
        let delivery = soon(async {
            tokio::select! {
                delivery = one.next() => delivery,
                delivery = other.next() => delivery,
            }
        })
        .await;
        assert_eq!((&delivery.definition, delivery.revision, delivery.before), (&definition, revision, Before::Nothing));
        assert!(one.finds(A_WHILE).await.is_none() && other.finds(A_WHILE).await.is_none(), "offered twice");
    }
}

/// A pull that has waited through the broker's signs of life is as quick as a fresh one.
async fn work_after_a_long_wait_is_offered_at_once(store: Store) {
    let mut puller = Puller::new(&store).await;
    assert!(puller.finds(Duration::from_secs(7)).await.is_none());
    create(&store, &any_job(1)).await;
    assert!(puller.finds(Duration::from_secs(3)).await.is_some());
}

async fn many_jobs_are_each_offered_once(store: Store) {
    let expected: BTreeSet<_> = (0..40).map(job_id).collect();
    let mut pulls = [store.work.pull(40).await.unwrap(), store.work.pull(40).await.unwrap()];
    for n in 0..40 {
        create(&store, &any_job(n)).await;
    }
    let [one, other] = &mut pulls;
    let mut both = futures::stream::select(one, other);
    let mut seen = BTreeSet::new();
    while seen.len() < expected.len() {
        let delivery = next(&mut both).await;
        assert!(seen.insert(delivery.definition.id), "{} was offered twice", delivery.definition.id);
        delivery.lease.done().await.unwrap();
    }
    assert_eq!(seen, expected);
    assert!(nothing_comes(&mut both, A_WHILE).await);
}

async fn a_single_puller_is_offered_the_oldest_first(store: Store) {
    for n in [5, 3, 4] {
        create(&store, &any_job(n)).await;
    }
    let mut puller = Puller::new(&store).await;
    for n in [5, 3, 4] {
        assert_eq!(puller.next().await.definition.id, job_id(n));
    }
}

async fn a_pull_ends_when_it_is_used_up(store: Store) {
    for n in 0..3 {
        create(&store, &any_job(n)).await;
    }
    let pull = store.work.pull(2).await.unwrap();
    let offered: Vec<_> = soon(pull.collect()).await;
    assert_eq!(ids(&offered), [job_id(0), job_id(1)]);
    assert_eq!(Puller::new(&store).await.next().await.definition.id, job_id(2));
}

async fn work_given_back_is_offered_again(store: Store) {
    let mut puller = Puller::new(&store).await;
    let revision = create(&store, &any_job(1)).await;
    puller.next().await.lease.give_back(Duration::ZERO).await.unwrap();
    let delivery = puller.next().await;
    assert_eq!((delivery.definition, delivery.revision, (delivery.before == Before::Nothing)), (any_job(1), revision, false));
}

async fn work_given_back_with_a_delay_is_offered_after_it(store: Store) {
    let delay = Duration::from_secs(1);
    let mut puller = Puller::new(&store).await;
    create(&store, &any_job(1)).await;
    let delivery = puller.next().await;
    let given_back_at = Instant::now();
    delivery.lease.give_back(delay).await.unwrap();
    let delivery = puller.next().await;
    assert!(given_back_at.elapsed() >= delay, "after {:?}", given_back_at.elapsed());
    assert_eq!(delivery.before, Before::Offers);
    delivery.lease.done().await.unwrap();
}

async fn work_is_given_back_by_its_token(store: Store) {
    let mut puller = Puller::new(&store).await;
    create(&store, &any_job(1)).await;
    let token = puller.next().await.lease.token().expect("a claim in the shared queue has a token");
    store.work.give_back(&token).await.unwrap();
    let delivery = puller.next().await;
    assert_eq!((delivery.definition, (delivery.before == Before::Nothing)), (any_job(1), false));
    delivery.lease.done().await.unwrap();
    store.work.give_back(&token).await.unwrap();
    assert!(puller.finds(A_WHILE).await.is_none(), "given back after it was done");
}

async fn a_claim_is_taken_up_again_by_its_token_and_by_no_other(store: Store) {
    let (mut puller, agent) = (Puller::new(&store).await, agent_id(1));
    create(&store, &any_job(1)).await;
    // The process that held it is gone, and says nothing of it.
    let token = puller.next().await.lease.token().unwrap();
    for other in ["", "nonsense", "a b", "*", ">", "\r\nPUB x 0\r\n", "$JS.API.STREAM.LIST", "$JS.ACK.x.y.1.1.1.1.1"] {
        assert!(store.work.resume(agent, &any_job(1), Some(other)).await.unwrap().is_none(), "{other:?}");
    }
    assert!(store.work.resume(agent, &any_job(1), None).await.unwrap().is_none());
    let lease = store.work.resume(agent, &any_job(1), Some(&token)).await.unwrap().unwrap();
    for _ in 0..6 {
        lease.extend().await.unwrap();
        assert!(puller.finds(LEASE / 4).await.is_none(), "it is held");
    }
    lease.give_back(Duration::ZERO).await.unwrap();
    let again = puller.next().await;
    let lease = store.work.resume(agent, &any_job(1), again.lease.token().as_deref()).await.unwrap().unwrap();
    lease.done().await.unwrap();
    assert!(puller.finds(LEASE * 3 / 2).await.is_none(), "it is done");

    create(&store, &host_job(2, agent)).await;
    inbox_of(&store, agent, 1).await;
    let lease = store.work.resume(agent, &host_job(2, agent), None).await.unwrap().unwrap();
    lease.extend().await.unwrap();
    lease.done().await.unwrap();
    assert!(store.work.inbox(agent, 0).await.unwrap().deliveries.is_empty());
}

async fn unknown_tokens_are_ignored(store: Store) {
    create(&store, &any_job(1)).await;
    for token in ["", "nonsense", "a b", "7", "\r\nPUB x 0\r\n", "$JS.API.STREAM.LIST", "$JS.ACK.x.y.1.1.1.1.1", "*", ">"] {
        store.work.give_back(token).await.unwrap();
    }
    assert_eq!(Puller::new(&store).await.next().await.definition, any_job(1));
}

async fn work_that_is_done_is_not_offered_again(store: Store) {
    let mut puller = Puller::new(&store).await;
    create(&store, &any_job(1)).await;
    let delivery = puller.next().await;
    delivery.lease.done().await.unwrap();
    delivery.lease.done().await.unwrap();
    delivery.lease.extend().await.unwrap();
    delivery.lease.give_back(Duration::ZERO).await.unwrap();
    assert!(puller.finds(LEASE * 3 / 2).await.is_none());
}

async fn an_unextended_lease_is_offered_again(store: Store) {
    let mut puller = Puller::new(&store).await;
    create(&store, &any_job(1)).await;
    let before = Instant::now();
    assert!(puller.next().await.before == Before::Nothing);
    // Nobody extends it. A second time, as the broker may treat a redelivery differently.
    for _ in 0..2 {
        let delivery = puller.next().await;
        assert_eq!((delivery.definition, (delivery.before == Before::Nothing)), (any_job(1), false));
    }
    // Two leases, less what the broker's timer and the way to us may differ.
    assert!(before.elapsed() >= LEASE * 3 / 2, "after {:?}", before.elapsed());
}

async fn an_extended_lease_is_not_offered(store: Store) {
    let mut puller = Puller::new(&store).await;
    create(&store, &any_job(1)).await;
    let held = puller.next().await;
    for _ in 0..6 {
        assert!(puller.finds(LEASE / 2).await.is_none(), "offered while it was held");
        held.lease.extend().await.unwrap();
    }
    held.lease.give_back(Duration::ZERO).await.unwrap();
    assert_eq!(puller.next().await.before, Before::Offers);
}

/// The work needs no agent any more, whoever says so: its answer is stored.
async fn an_old_holders_done_counts(store: Store) {
    let mut puller = Puller::new(&store).await;
    create(&store, &any_job(1)).await;
    let old = puller.next().await;
    let new = puller.next().await;
    assert_eq!(new.before, Before::Offers);
    old.lease.done().await.unwrap();
    assert!(puller.finds(LEASE * 3 / 2).await.is_none());
}

async fn the_work_of_a_dropped_pull_is_offered_again(store: Store) {
    for n in 0..3 {
        create(&store, &any_job(n)).await;
    }
    let mut pull = store.work.pull(3).await.unwrap();
    next(&mut pull).await;
    drop(pull);
    let mut puller = Puller::new(&store).await;
    let mut seen = BTreeSet::new();
    while seen.len() < 3 {
        let delivery = puller.next().await;
        seen.insert(delivery.definition.id);
        delivery.lease.done().await.unwrap();
    }
}

async fn host_work_is_in_that_agents_inbox_only(store: Store) {
    let mut puller = Puller::new(&store).await;
    for (n, definition) in [(1, host_job(1, agent_id(1))), (2, host_query(2, agent_id(2)))] {
        let revision = create(&store, &definition).await;
        let inbox = inbox_of(&store, agent_id(n), 1).await;
        assert_eq!((&inbox[0].definition, inbox[0].revision), (&definition, revision));
    }
    assert!(store.work.inbox(agent_id(3), 0).await.unwrap().deliveries.is_empty());
    assert!(puller.finds(A_WHILE).await.is_none(), "offered to everybody");
}

async fn an_inbox_is_read_oldest_first(store: Store) {
    let agent = agent_id(1);
    for n in [5, 3, 4] {
        create(&store, &host_job(n, agent)).await;
    }
    // Nobody has looked into it before: an agent that was away finds its work.
    let inbox = inbox_of(&store, agent, 3).await;
    assert_eq!(ids(&inbox), [job_id(5), job_id(3), job_id(4)]);
    inbox[1].lease.done().await.unwrap();
    assert_eq!(ids(&store.work.inbox(agent, 0).await.unwrap().deliveries), [job_id(5), job_id(4)]);
}

async fn all_inboxes_are_told_in_one_order_and_entries_are_taken_out(store: Store) {
    let expected = [(2, 5), (1, 3), (2, 4)];
    for (agent, job) in expected {
        create(&store, &host_job(job, agent_id(agent))).await;
    }
    let all = eventually("all that is addressed", Duration::from_secs(15), async || {
        let page = store.work.addressed(0).await.unwrap();
        assert_eq!(page.next, None);
        (page.items.len() == expected.len()).then_some(page.items)
    })
    .await;
    assert_eq!(
        all.iter().map(|entry| (entry.agent, entry.job)).collect::<Vec<_>>(),
        expected.map(|(agent, job)| (agent_id(agent), job_id(job)))
    );
    assert_eq!(store.work.addressed(all[0].place).await.unwrap().items, all[1..]);
    for _ in 0..2 {
        store.work.take_out(all[0]).await.unwrap();
    }
    assert_eq!(store.work.addressed(0).await.unwrap().items, all[1..]);
    assert_eq!(ids(&store.work.inbox(agent_id(2), 0).await.unwrap().deliveries), [job_id(4)]);
}

async fn a_long_inbox_is_read_in_pages(store: Store) {
    const ENTRIES: u64 = 2500;
    let agent = agent_id(1);
    futures::stream::iter(0..ENTRIES)
        .for_each_concurrent(64, |n| {
            let store = &store;
            async move {
                create(store, &host_job(n, agent_id(1))).await;
            }
        })
        .await;
    let read = async || {
        let (mut seen, mut after, mut pages) = (BTreeSet::new(), 0, 0);
        loop {
            let page = store.work.inbox(agent, after).await.unwrap();
            pages += 1;
            seen.extend(ids(&page.deliveries));
            match page.next {
                Some(next) => after = next,
                None => return (seen.len() as u64 == ENTRIES && pages > 1).then_some(()),
            }
        }
    };
    eventually("the whole inbox", Duration::from_secs(15), read).await;
}

/// An agent that was away must not hold all of it at once.
#[tokio::test]
async fn an_inbox_of_large_entries_is_read_in_smaller_pages() {
    const BYTES: usize = 800 * 1024;
    let test = async |store: Store| {
        let agent = agent_id(1);
        for n in 1..=7 {
            create(&store, &Definition { args: large_job(n, BYTES).args, ..host_job(n, agent) }).await;
        }
        let (mut n_pages, mut read) = (0, Vec::new());
        eventually("all of it", Duration::from_secs(15), async || {
            (n_pages, read) = (0, Vec::new());
            let mut next = Some(0);
            while let Some(after) = next {
                let page = store.work.inbox(agent, after).await.unwrap();
                assert!(page.deliveries.len() * BYTES < 5 << 20, "{} at once", page.deliveries.len());
                next = page.next;
                n_pages += 1;
                read.extend(page.deliveries.iter().map(|delivery| delivery.definition.id));
            }
            (read.len() == 7).then_some(())
        })
        .await;
        assert_eq!((n_pages, read), (2, (1..=7).map(job_id).collect()));
    };
    on_jetstream(Bounds::GENEROUS, test).await;
}

async fn inbox_work_stays_until_it_is_done(store: Store) {
    let agent = agent_id(1);
    create(&store, &host_job(1, agent)).await;
    let inbox = inbox_of(&store, agent, 1).await;
    inbox[0].lease.extend().await.unwrap();
    inbox[0].lease.give_back(Duration::ZERO).await.unwrap();
    assert_eq!(ids(&store.work.inbox(agent, 0).await.unwrap().deliveries), [job_id(1)]);
    for _ in 0..2 {
        inbox[0].lease.done().await.unwrap();
        assert!(store.work.inbox(agent, 0).await.unwrap().deliveries.is_empty());
    }
}

async fn new_inbox_work_wakes_its_agent_only(store: Store) {
    let (mut wakes, mut others) = (store.work.wakes(agent_id(1), &[]).await.unwrap(), store.work.wakes(agent_id(2), &[]).await.unwrap());
    create(&store, &host_job(1, agent_id(1))).await;
    woken(&mut wakes, Wake::Inbox).await;
    assert_eq!(ids(&inbox_of(&store, agent_id(1), 1).await), [job_id(1)]);
    create(&store, &any_job(2)).await;
    assert!(nothing_comes(&mut others, A_WHILE).await);
}

async fn a_cancel_is_signalled_to_its_agent_only(store: Store) {
    let (mut wakes, mut others) = (store.work.wakes(agent_id(1), &[]).await.unwrap(), store.work.wakes(agent_id(2), &[]).await.unwrap());
    store.work.signal_cancel(agent_id(1), job_id(7)).await.unwrap();
    woken(&mut wakes, Wake::Cancel(job_id(7))).await;
    assert!(nothing_comes(&mut others, A_WHILE).await);
}

async fn work_withdrawn_is_not_offered(store: Store) {
    let (withdrawn, kept) = (any_job(1), any_job(2));
    arrived(&store, &withdrawn).await;
    for _ in 0..2 {
        store.work.withdraw(&withdrawn).await.unwrap();
    }
    create(&store, &kept).await;
    let mut puller = Puller::new(&store).await;
    assert_eq!(puller.next().await.definition, kept);
    assert!(puller.finds(A_WHILE).await.is_none());
}

async fn work_withdrawn_while_it_is_held_is_not_offered_again(store: Store) {
    let mut puller = Puller::new(&store).await;
    create(&store, &any_job(1)).await;
    let held = puller.next().await;
    store.work.withdraw(&held.definition).await.unwrap();
    assert!(puller.finds(LEASE * 3 / 2).await.is_none());
    held.lease.done().await.unwrap();
}

async fn inbox_work_withdrawn_is_not_offered(store: Store) {
    let agent = agent_id(1);
    for n in [1, 2] {
        create(&store, &host_job(n, agent)).await;
    }
    inbox_of(&store, agent, 2).await;
    for _ in 0..2 {
        store.work.withdraw(&host_job(1, agent)).await.unwrap();
        assert_eq!(ids(&store.work.inbox(agent, 0).await.unwrap().deliveries), [job_id(2)]);
    }
}

async fn announce_repairs_any_work(store: Store) {
    let definition = any_job(1);
    let revision = arrived(&store, &definition).await;
    store.work.withdraw(&definition).await.unwrap();
    assert!(announce(&store, &definition, revision, Absence::Gone).await);
    assert!(!announce(&store, &definition, revision, Absence::Gone).await, "announced already");
    let mut puller = Puller::new(&store).await;
    let delivery = puller.next().await;
    assert_eq!((&delivery.definition, delivery.revision), (&definition, revision));
    delivery.lease.done().await.unwrap();
    assert!(puller.finds(A_WHILE).await.is_none(), "offered twice");
}

async fn announce_leaves_alone_what_waits(store: Store) {
    let definition = any_job(1);
    let revision = create(&store, &definition).await;
    // The broker passes it on a moment after it is stored; until then it is missing indeed.
    eventually("nothing to be missing", Duration::from_secs(15), async || {
        (!announce(&store, &definition, revision, Absence::Gone).await).then_some(())
    })
    .await;
    let delivery = Puller::new(&store).await.next().await;
    assert_eq!((delivery.definition, delivery.revision), (definition, revision));
}

async fn announce_leaves_alone_what_is_held(store: Store) {
    let definition = any_job(1);
    let revision = create(&store, &definition).await;
    let mut puller = Puller::new(&store).await;
    let held = puller.next().await;
    assert!(!announce(&store, &definition, revision, Absence::Gone).await, "it is not missing");
    assert!(puller.finds(A_WHILE).await.is_none(), "offered while it was held");
    held.lease.done().await.unwrap();
}

async fn announce_may_give_up_on_what_was_offered_and_led_to_nothing(store: Store) {
    let definition = any_job(1);
    // The broker's own message has to have come and gone: announced before it comes, the job would be in the queue twice.
    let revision = arrived(&store, &definition).await;
    store.work.withdraw(&definition).await.unwrap();
    assert!(announce(&store, &definition, revision, Absence::Gone).await);
    assert!(!announce(&store, &definition, revision, Absence::GoneOrSpent).await, "it waits, and was never offered");
    let mut puller = Puller::new(&store).await;
    let held = puller.next().await;
    assert!(announce(&store, &definition, revision, Absence::GoneOrSpent).await);
    let again = puller.next().await;
    assert_eq!((again.definition.id, again.revision, again.before), (definition.id, revision, Before::Announcement(revision)));
    again.lease.done().await.unwrap();
    drop(held);
    assert!(puller.finds(A_WHILE).await.is_none(), "both are gone");
}

async fn announce_repairs_inbox_work(store: Store) {
    let definition = host_job(1, agent_id(1));
    let revision = create(&store, &definition).await;
    inbox_of(&store, agent_id(1), 1).await;
    assert!(!announce(&store, &definition, revision, Absence::Gone).await, "nothing was missing");
    store.work.withdraw(&definition).await.unwrap();
    let mut wakes = store.work.wakes(agent_id(1), &[]).await.unwrap();
    assert!(announce(&store, &definition, revision, Absence::Gone).await);
    woken(&mut wakes, Wake::Inbox).await;
    let inbox = inbox_of(&store, agent_id(1), 1).await;
    assert_eq!((&inbox[0].definition, inbox[0].revision), (&definition, revision));
    assert!(!announce(&store, &definition, revision, Absence::Gone).await, "announced already");
}

/// What an earlier delivery is known by, and whether a later one follows it.
async fn follows(later: &Delivery, earlier: &Delivery) -> bool {
    later.lease.follows(&earlier.lease.delivery().expect("it is offered to anybody")).await.unwrap()
}

async fn a_delivery_follows_those_of_the_same_offer_that_were_before_it(store: Store) {
    let mut puller = Puller::new(&store).await;
    for definition in [any_job(1), any_job(2)] {
        create(&store, &definition).await;
    }
    let (first, other) = (puller.next().await, puller.next().await);
    let mut offers = vec![first];
    // More often than the broker offers it by itself.
    for _ in 0..7 {
        offers.last().unwrap().lease.give_back(Duration::ZERO).await.unwrap();
        offers.push(puller.next().await);
    }
    for pair in offers.windows(2) {
        let [earlier, later] = pair else { unreachable!("a window of two") };
        assert_eq!(earlier.definition.id, later.definition.id);
        assert!(follows(later, earlier).await);
        assert!(!follows(earlier, later).await && !follows(later, later).await);
        assert!(!follows(later, &other).await && !follows(&other, earlier).await, "another job's");
    }
    for text in ["", "nonsense", "1", "1.", "1.1.1", "-1.-1.-1", "\r\nPUB x 0\r\n"] {
        assert!(!offers[1].lease.follows(text).await.unwrap(), "{text:?} proves nothing");
    }
}

async fn a_delivery_follows_a_claim_that_lapsed(store: Store) {
    let mut puller = Puller::new(&store).await;
    create(&store, &any_job(1)).await;
    let (lapsed, now) = (puller.next().await, puller.next().await);
    assert!(follows(&now, &lapsed).await);
    assert!(!follows(&lapsed, &now).await, "who has it now is not gone");
}

/// Who was slow to look at what it was offered learns nothing of whoever was offered it anew meanwhile.
async fn a_delivery_says_nothing_of_a_claim_on_another_offer(store: Store) {
    let definition = any_job(1);
    let revision = create(&store, &definition).await;
    let mut puller = Puller::new(&store).await;
    puller.next().await.lease.give_back(Duration::ZERO).await.unwrap();
    let slow = puller.next().await;
    assert!(announce(&store, &definition, revision, Absence::GoneOrSpent).await);
    let quick = puller.next().await;
    assert!(!follows(&slow, &quick).await);
    assert!(!follows(&quick, &slow).await, "who announced it vouches for a history, and for nobody's claim");
}

async fn an_announcement_says_on_what_it_rests_however_often_it_is_offered(store: Store) {
    let definition = any_job(1);
    let revision = arrived(&store, &definition).await;
    store.work.withdraw(&definition).await.unwrap();
    assert!(announce(&store, &definition, revision, Absence::Gone).await);
    let mut puller = Puller::new(&store).await;
    // More often than the broker offers it by itself.
    for _ in 0..7 {
        let delivery = puller.next().await;
        assert_eq!(delivery.before, Before::Announcement(revision));
        delivery.lease.give_back(Duration::ZERO).await.unwrap();
    }
}

async fn nobody_else_is_offered_what_is_in_an_inbox(store: Store) {
    let mut puller = Puller::new(&store).await;
    create(&store, &host_job(1, agent_id(1))).await;
    create(&store, &any_job(2)).await;
    let inbox = inbox_of(&store, agent_id(1), 1).await;
    assert_eq!((inbox[0].before, inbox[0].lease.delivery()), (Before::Offers, None));
    let any = puller.next().await.lease.delivery().unwrap();
    assert!(!inbox[0].lease.follows(&any).await.unwrap());
}

async fn announce(store: &Store, definition: &Definition, revision: u64, absence: Absence) -> bool {
    let announcement = Announcement { execution: definition.executions[0], revision, seen: revision, absence };
    store.work.announce(definition, announcement).await.unwrap()
}

fn ids(deliveries: &[Delivery]) -> Vec<JobId> {
    deliveries.iter().map(|delivery| delivery.definition.id).collect()
}

/// Creates `_any` work and sees it in the queue: the broker passes it on by itself, a moment after it is stored.
async fn arrived(store: &Store, definition: &Definition) -> u64 {
    let revision = create(store, definition).await;
    Puller::new(store).await.next().await.lease.give_back(Duration::ZERO).await.unwrap();
    revision
}

/// The inbox, as soon as it has so many entries.
async fn inbox_of(store: &Store, agent: AgentId, entries: usize) -> Vec<Delivery> {
    eventually("the inbox to fill", Duration::from_secs(15), async || {
        let inbox = store.work.inbox(agent, 0).await.unwrap().deliveries;
        (inbox.len() >= entries).then_some(inbox)
    })
    .await
}

/// Waits for a hint; a remark about the connection may come any time.
async fn woken(wakes: &mut WakeStream, expected: Wake) {
    loop {
        let wake = next(wakes).await;
        if wake != Wake::Reconnected {
            return assert_eq!(wake, expected);
        }
    }
}

fn group(text: &str) -> Label {
    text.parse().unwrap()
}

async fn taken(store: &Store, of: &str) -> Delivery {
    eventually("the group's work", Duration::from_secs(15), async || store.work.take(&group(of), 1).await.unwrap().pop()).await
}

async fn a_groups_work_is_offered_to_its_members_only(store: Store) {
    let mut puller = Puller::new(&store).await;
    let of = [group_work(1, "group:web"), group_work(2, "group:web.dev"), group_work(3, "tier:web")];
    for definition in &of {
        let revision = create(&store, definition).await;
        let delivery = taken(&store, definition.target.strip_prefix("_any@").unwrap()).await;
        assert_eq!((&delivery.definition, delivery.revision, delivery.before), (definition, revision, Before::Nothing));
        for other in ["group:web", "group:web.dev", "tier:web", "group:web.dev.us"] {
            assert!(store.work.take(&group(other), 1).await.unwrap().is_empty(), "{other} is offered {}", definition.target);
        }
        delivery.lease.give_back(Duration::ZERO).await.unwrap();
        let again = taken(&store, definition.target.strip_prefix("_any@").unwrap()).await;
        assert_eq!(again.before, Before::Offers);
        let token = again.lease.token().unwrap();
        store.work.give_back(&token).await.unwrap();
        taken(&store, definition.target.strip_prefix("_any@").unwrap()).await.lease.done().await.unwrap();
    }
    assert!(puller.finds(A_WHILE).await.is_none(), "a group's work is nobody else's");
}

async fn a_groups_work_wakes_its_members(store: Store) {
    let mut member = store.work.wakes(agent_id(1), &group("group:web.dev").groups().collect::<Vec<_>>()).await.unwrap();
    let mut other = store.work.wakes(agent_id(2), &[group("group:web.development")]).await.unwrap();
    create(&store, &group_work(1, "group:web")).await;
    woken(&mut member, Wake::Group(group("group:web"))).await;
    create(&store, &group_work(2, "group:web.dev")).await;
    woken(&mut member, Wake::Group(group("group:web.dev"))).await;
    assert!(nothing_comes(&mut other, A_WHILE).await);
}

async fn a_groups_work_is_repaired_and_withdrawn_like_any(store: Store) {
    let definition = group_work(1, "group:web.dev");
    let of = group("group:web.dev");
    let revision = create(&store, &definition).await;
    assert!(eventually("the work", Duration::from_secs(15), async || store.work.has_work(&of).await.unwrap().then_some(true)).await);
    assert!(!store.work.has_work(&group("group:web")).await.unwrap());
    assert!(!announce(&store, &definition, revision, Absence::GoneOrSpent).await, "it waits, and was never offered");
    store.work.withdraw(&definition).await.unwrap();
    assert!(!store.work.has_work(&of).await.unwrap());
    assert!(announce(&store, &definition, revision, Absence::Gone).await);
    let delivery = taken(&store, "group:web.dev").await;
    assert_eq!((&delivery.definition, delivery.revision, delivery.before), (&definition, revision, Before::Announcement(revision)));
    assert!(announce(&store, &definition, revision, Absence::GoneOrSpent).await, "it was offered and led to nothing");
    taken(&store, "group:web.dev").await;
}
