//! A store that is not what it was: restored from an earlier copy, or without its end after a power cut. Readers are told, and not left blind.

use std::path::Path;

use futures::StreamExt as _;
use longshore_store::jetstream::{Config, connect};
use longshore_store::{Error, FeedItem, FeedStream, Position, Store};
use longshore_testkit::NatsServer;

use crate::harness::{next, soon};
use crate::sample::*;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

async fn store_jobs(store: &Store, jobs: std::ops::Range<u64>) {
    let storing = jobs.map(|n| async move {
        // A busy machine may take longer than one call waits; its repeat is the same write.
        while let Err(error) = store.ledger.create(&any_job(n)).await {
            assert!(error.is_retryable(), "{error}");
        }
    });
    futures::stream::iter(storing).buffer_unordered(16).collect::<()>().await;
}

/// Reads until everything that was there is told, and gives how much that was.
async fn catch_up(feed: &mut FeedStream) -> usize {
    let mut n_told = 0;
    while let FeedItem::Fact { .. } = next(feed).await.unwrap() {
        n_told += 1;
    }
    n_told
}

/// What a feed ends with.
async fn end(feed: &mut FeedStream) -> Error {
    loop {
        if let Err(error) = next(feed).await {
            return error;
        }
    }
}

#[tokio::test]
async fn readers_of_a_ledger_that_was_set_back_are_told_so_also_once_it_has_grown_again() {
    let mut server = NatsServer::start().await;
    let config = Config { url: server.url(), ..Config::default() };
    let store = connect(&config).await.unwrap();
    store_jobs(&store, 0..2).await;
    server.kill();
    let backup = tempfile::tempdir().unwrap();
    copy(&server.store_dir(), backup.path());
    server.restart().await;
    let store = connect(&config).await.unwrap();

    // One that reads on, and one that is so slow that it does not get beyond what is read ahead for it.
    let (mut quick, mut slow) =
        (store.feed.follow(Position::default()).await.unwrap(), store.feed.follow(Position::default()).await.unwrap());
    assert_eq!(catch_up(&mut quick).await, 2);
    store_jobs(&store, 2..400).await;
    for _ in 2..400 {
        next(&mut quick).await.unwrap();
    }
    next(&mut slow).await.unwrap();

    server.kill();
    std::fs::remove_dir_all(server.store_dir()).unwrap();
    copy(backup.path(), &server.store_dir());
    server.restart().await;
    let told = soon(end(&mut quick)).await;
    assert!(matches!(&told, Error::SetBack { store } if store == "KV_job-queue"), "{told:?}");
    // What was read ahead is no more, and something else is in its place.
    let store = connect(&config).await.unwrap();
    store_jobs(&store, 1000..1450).await;
    let told = soon(end(&mut slow)).await;
    assert!(matches!(told, Error::SetBack { .. }), "{told:?}");

    let refused = store.feed.follow(Position { queue: 1_000_000, responses: 0 }).await.err().unwrap();
    assert!(matches!(refused, Error::SetBack { .. }), "{refused:?}");
    let mut again = store.feed.follow(Position::default()).await.unwrap();
    assert_eq!(catch_up(&mut again).await, 452);
}
