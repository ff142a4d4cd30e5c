//! The audit trail: kept in order, once, and read from either end.

use longshore_model::limits::RECORD_BYTES_MAX;
use longshore_model::wire::audit::AuditRecord;
use longshore_model::wire::problem::ErrorCode;
use longshore_store::{Error, Store, StoredAudit};

use crate::sample::{job_id, then};

conformance!(GENEROUS:
    an_empty_audit_trail_has_an_end_at_both_ends,
    audit_records_are_read_as_they_were_written,
    audit_records_whose_write_is_repeated_are_stored_once,
    audit_pages_from_either_end_have_every_record_once,
    audit_records_that_are_too_large_are_refused,
);

async fn an_empty_audit_trail_has_an_end_at_both_ends(store: Store) {
    for page in [store.audit.before(None, 10).await.unwrap(), store.audit.after(0, 10).await.unwrap()] {
        assert_eq!((page.items, page.next), (Vec::new(), None));
    }
}

async fn audit_records_are_read_as_they_were_written(store: Store) {
    let refused = AuditRecord {
        who: None,
        job: None,
        status: Some(401),
        code: Some(ErrorCode::Unauthenticated),
        reason: Some("the request has no token".to_owned()),
        dropped_before: 7,
        ..record(2)
    };
    let unknown = AuditRecord { status: None, targets: Vec::new(), operation: None, ..record(3) };
    let written = [record(1), refused, unknown];
    store.audit.append(&written).await.unwrap();
    let page = store.audit.after(0, 10).await.unwrap();
    assert_eq!((sorted(&page.items), page.next), (written.to_vec(), None));
    assert!(page.items.windows(2).all(|pair| pair[0].place < pair[1].place && pair[0].stored_at <= pair[1].stored_at));
    let mut newest = store.audit.before(None, 10).await.unwrap();
    newest.items.reverse();
    assert_eq!((newest.items, newest.next), (page.items, None));
}

async fn audit_records_whose_write_is_repeated_are_stored_once(store: Store) {
    let batch: Vec<_> = (0..10).map(record).collect();
    store.audit.append(&batch[..6]).await.unwrap();
    store.audit.append(&batch[..6]).await.unwrap();
    store.audit.append(&batch[6..7]).await.unwrap();
    store.audit.append(&batch[7..]).await.unwrap();
    store.audit.append(&batch[7..]).await.unwrap();
    assert_eq!(sorted(&store.audit.after(0, 100).await.unwrap().items), batch);
    // A caller may send the same request id as often as it likes.
    store.audit.append(&[AuditRecord { id: "another".to_owned(), ..record(0) }]).await.unwrap();
    assert_eq!(store.audit.after(0, 100).await.unwrap().items.len(), 11);
}

async fn audit_pages_from_either_end_have_every_record_once(store: Store) {
    // More than the broker gives in one answer, and than a page may have.
    let all: Vec<_> = (0..1300).map(record).collect();
    let (alone, together) = all.split_at(300);
    for batch in alone.chunks(1).chain(together.chunks(200)) {
        store.audit.append(batch).await.unwrap();
    }
    let mut expected: Vec<_> = all.iter().map(|record| record.id.clone()).collect();
    expected.sort_unstable();
    for limit in [97, 650, 1000, 1300, 5000] {
        let (mut rising, mut place) = (Vec::new(), Some(0));
        while let Some(after) = place {
            let page = store.audit.after(after, limit).await.unwrap();
            assert!(page.items.len() <= limit);
            rising.extend(records(&page.items));
            place = page.next;
        }
        rising.retain(|record: &AuditRecord| !record.id.starts_with("later"));
        let mut ids: Vec<_> = rising.iter().map(|record| record.id.clone()).collect();
        ids.sort_unstable();
        assert!(ids == expected, "{limit}: {} of {}", ids.len(), expected.len());

        let mut page = store.audit.before(None, limit).await.unwrap();
        let mut falling = records(&page.items);
        // What is stored meanwhile is not on a later page.
        store.audit.append(&[AuditRecord { id: format!("later {limit}"), ..record(0) }]).await.unwrap();
        while let Some(before) = page.next {
            page = store.audit.before(Some(before), limit).await.unwrap();
            assert!(page.items.len() <= limit);
            falling.extend(records(&page.items));
        }
        falling.reverse();
        falling.retain(|record| !record.id.starts_with("later"));
        assert!(falling == rising, "{limit}: {} of {}", falling.len(), rising.len());
        assert_eq!(store.audit.before(None, 1).await.unwrap().items[0].record.id, format!("later {limit}"));
    }
}

async fn audit_records_that_are_too_large_are_refused(store: Store) {
    let large = AuditRecord { path: "x".repeat(RECORD_BYTES_MAX), ..record(1) };
    assert!(matches!(store.audit.append(&[large]).await, Err(Error::TooLarge { .. })));
    assert_eq!(store.audit.after(0, 1).await.unwrap().items, Vec::new());
}

pub(crate) fn record(n: u64) -> AuditRecord {
    AuditRecord {
        request_id: "chosen".to_owned(),
        who: Some("ada".to_owned()),
        remote: Some("192.0.2.1".to_owned()),
        operation: Some("node.hostname.get".to_owned()),
        job: Some(job_id(n)),
        targets: vec!["_any".to_owned()],
        status: Some(201),
        ..AuditRecord::new(format!("id-{n}"), then(), "POST".to_owned(), "/api/v1/jobs".to_owned())
    }
}

fn records(stored: &[StoredAudit]) -> Vec<AuditRecord> {
    stored.iter().map(|one| one.record.clone()).collect()
}

/// By their ids: those of one call may have changed places.
fn sorted(stored: &[StoredAudit]) -> Vec<AuditRecord> {
    let mut records = records(stored);
    records.sort_unstable_by(|one, other| one.id.cmp(&other.id));
    records
}
