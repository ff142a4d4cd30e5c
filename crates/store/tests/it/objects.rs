//! Large things by name: whole or not at all.

use std::io::{Cursor, Error};
use std::pin::Pin;
use std::task::{Context, Poll};

use longshore_model::ExecutionId;
use longshore_store::{ObjectInfo, ObjectReader, Store, archive_name, bundle_name};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::harness::soon;
use crate::sample::job_id;

conformance!(GENEROUS:
    an_object_is_read_as_it_was_written,
    an_object_that_was_never_put_is_not_there,
    an_object_that_is_deleted_while_it_is_read_is_read_whole_or_fails,
    an_object_is_replaced_whole,
    a_deleted_object_is_gone,
    an_object_whose_content_breaks_off_does_not_appear,
    objects_are_listed_in_the_order_in_which_they_were_stored,
    pieces_of_an_upload_whose_process_was_killed_are_swept_and_nothing_else_is,
);

/// Of `hello`, and of nothing.
const SHA256_HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
const SHA256_EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

async fn an_object_is_read_as_it_was_written(store: Store) {
    let names = [bundle_name(&"0a".repeat(32)), archive_name(job_id(1), ExecutionId::Any), "plain".to_owned()];
    for (name, content, sha256) in [
        (&names[0], b"hello".to_vec(), Some(SHA256_HELLO)),
        (&names[1], Vec::new(), Some(SHA256_EMPTY)),
        (&names[2], patterned(3 << 19, 1), None),
    ] {
        let info = soon(store.objects.put(name, reader(&content))).await.unwrap();
        assert_eq!(info.size, content.len() as u64);
        assert_eq!(info.sha256, sha256.unwrap_or(&info.sha256));
        assert_eq!(store.objects.info(name).await.unwrap().map(said), Some(said(info)));
        assert!(read(&store, name).await == Some(content), "{name} differs");
    }
}

async fn an_object_that_was_never_put_is_not_there(store: Store) {
    soon(store.objects.put("here", reader(b"hello"))).await.unwrap();
    assert_eq!(store.objects.info("elsewhere").await.unwrap(), None);
    assert_eq!(read(&store, "elsewhere").await, None);
}

async fn an_object_that_is_deleted_while_it_is_read_is_read_whole_or_fails(store: Store) {
    let (content, other) = (patterned(3 << 20, 1), patterned(3 << 20, 2));
    for is_replaced in [false, true] {
        soon(store.objects.put("name", reader(&content))).await.unwrap();
        let mut reading = soon(store.objects.get("name")).await.unwrap().unwrap();
        let mut read = vec![reading.read_u8().await.unwrap()];
        if is_replaced {
            soon(store.objects.put("name", reader(&other))).await.unwrap();
        } else {
            store.objects.delete("name").await.unwrap();
        }
        match soon(reading.read_to_end(&mut read)).await {
            Ok(_) => assert!(read == content, "it is a mixture, or cut off"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}"),
        }
    }
}

async fn an_object_is_replaced_whole(store: Store) {
    let (long, short) = (patterned(3 << 19, 1), patterned(100_000, 2));
    for content in [&short, &long, &short, &short] {
        let info = soon(store.objects.put("name", reader(content))).await.unwrap();
        assert_eq!(store.objects.info("name").await.unwrap().map(said), Some(said(info.clone())));
        assert_eq!(info.size, content.len() as u64);
        assert!(read(&store, "name").await.as_ref() == Some(content), "differs");
    }
}

async fn a_deleted_object_is_gone(store: Store) {
    for name in ["one", "other"] {
        soon(store.objects.put(name, reader(b"hello"))).await.unwrap();
    }
    for name in ["one", "one", "never there"] {
        store.objects.delete(name).await.unwrap();
        assert_eq!(store.objects.info(name).await.unwrap(), None);
        assert_eq!(read(&store, name).await, None);
    }
    assert_eq!(read(&store, "other").await, Some(b"hello".to_vec()));
    soon(store.objects.put("one", reader(b"again"))).await.unwrap();
    assert_eq!(read(&store, "one").await, Some(b"again".to_vec()));
}

async fn an_object_whose_content_breaks_off_does_not_appear(store: Store) {
    let broken = || -> ObjectReader { Box::pin(Cursor::new(patterned(300_000, 1)).chain(BreaksOff)) };
    assert!(soon(store.objects.put("name", broken())).await.is_err());
    assert_eq!(store.objects.info("name").await.unwrap(), None);
    assert_eq!(read(&store, "name").await, None);

    let info = soon(store.objects.put("name", reader(b"hello"))).await.unwrap();
    assert!(soon(store.objects.put("name", broken())).await.is_err());
    assert_eq!(store.objects.info("name").await.unwrap().map(said), Some((5, info.sha256)));
    assert_eq!(read(&store, "name").await, Some(b"hello".to_vec()));
}

async fn objects_are_listed_in_the_order_in_which_they_were_stored(store: Store) {
    let all = async |after| {
        let page = store.objects.page(after).await.unwrap();
        assert_eq!(page.next, None);
        page.items
    };
    assert_eq!(all(0).await, []);
    for name in ["b", "a", "c", "d"] {
        soon(store.objects.put(name, reader(name.as_bytes()))).await.unwrap();
    }
    soon(store.objects.put("b", reader(b"again"))).await.unwrap();
    store.objects.delete("c").await.unwrap();
    let broken: ObjectReader = Box::pin(Cursor::new(patterned(300_000, 1)).chain(BreaksOff));
    assert!(soon(store.objects.put("e", broken)).await.is_err());
    let listed = all(0).await;
    assert_eq!(listed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "d", "b"]);
    for (name, info) in listed {
        assert_eq!(Some(info), store.objects.info(&name).await.unwrap(), "{name}");
    }
}

async fn pieces_of_an_upload_whose_process_was_killed_are_swept_and_nothing_else_is(store: Store) {
    let hour = jiff::SignedDuration::from_hours(1);
    let kept = patterned(300_000, 1);
    soon(store.objects.put("kept", reader(&kept))).await.unwrap();
    for _ in 0..2 {
        // All that is left of a process that is killed: pieces of which nobody says anything.
        let objects = store.objects.clone();
        let content: ObjectReader = Box::pin(Cursor::new(patterned(600_000, 2)).chain(Hangs));
        let cut_off = tokio::time::timeout(std::time::Duration::from_millis(700), objects.put("name", content)).await;
        assert!(cut_off.is_err());
    }
    let now = jiff::Timestamp::now();
    assert_eq!(store.objects.sweep(now - hour).await.unwrap(), 0, "they may be under way");
    let swept = store.objects.sweep(now + hour).await.unwrap();
    assert!(swept == 2 || swept == 0, "{swept}: in memory there is nothing to sweep");
    assert_eq!(store.objects.sweep(now + hour).await.unwrap(), 0);
    assert!(read(&store, "kept").await == Some(kept), "differs");
    assert_eq!(store.objects.info("name").await.unwrap(), None);
}

fn reader(content: &[u8]) -> ObjectReader {
    Box::pin(Cursor::new(content.to_vec()))
}

/// Bytes of which no two blocks are alike.
fn patterned(size: usize, seed: u32) -> Vec<u8> {
    (0u32..).flat_map(|n| n.wrapping_mul(2_654_435_761).wrapping_add(seed).to_le_bytes()).take(size).collect()
}

/// Without the time, which is the store's own.
fn said(info: ObjectInfo) -> (u64, String) {
    (info.size, info.sha256)
}

async fn read(store: &Store, name: &str) -> Option<Vec<u8>> {
    let mut reader = soon(store.objects.get(name)).await.unwrap()?;
    let mut content = Vec::new();
    soon(reader.read_to_end(&mut content)).await.unwrap();
    Some(content)
}

/// Content whose sender goes away.
pub(crate) struct BreaksOff;

/// Content whose sender says nothing more.
struct Hangs;

impl AsyncRead for Hangs {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<Result<(), Error>> {
        Poll::Pending
    }
}

impl AsyncRead for BreaksOff {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Err(Error::other("the sender went away")))
    }
}
