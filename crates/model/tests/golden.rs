//! Records as earlier versions wrote them must keep loading, and what is written today is written in the same words.

use longshore_model::fact::FactValues;
use longshore_model::job::Job;
use longshore_model::wire::agent::{FleetRevision, Heartbeat};
use longshore_model::wire::audit::AuditRecord;
use longshore_model::wire::dead_letter::DeadLetter;
use longshore_model::wire::facts::FactsRecord;
use longshore_model::wire::read::read_text;
use longshore_model::wire::record::{Answer, Definition, Event, EventKind, Reservation};
use longshore_model::wire::stand_alone::Manifest;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The record, which has survived being read and written.
fn survives<T: DeserializeOwned + Serialize>(golden: &str) -> T {
    let written: serde_json::Value = serde_json::from_str(golden).expect("the golden file is JSON");
    let record: T = serde_json::from_value(written.clone()).expect("the golden record loads");
    assert_eq!(serde_json::to_value(&record).expect("the record is JSON"), written, "it is written as it was");
    // As the stores read it: an object is one.
    let read: T = read_text(golden.as_bytes()).expect("the golden record is read");
    assert_eq!(serde_json::to_value(&read).expect("the record is JSON"), written);
    let fields = |object: &serde_json::Map<String, serde_json::Value>| object.values().cloned().collect::<serde_json::Value>();
    if let Some(as_list) = written.as_object().map(fields) {
        assert!(read_text::<T>(as_list.to_string().as_bytes()).is_err(), "a list of its fields is no record");
    }
    record
}

#[test]
fn definitions_of_schema_1_load() {
    let definition: Definition = survives(include_str!("golden/definition.1.json"));
    let job = Job::try_from(definition).expect("its operation and arguments still exist");
    assert_eq!(job.retry.max_attempts(), 3);
}

#[test]
fn definitions_that_name_their_key_load() {
    assert!(survives::<Definition>(include_str!("golden/definition.1.key.json")).key_sha256.is_some());
    assert_eq!(survives::<Definition>(include_str!("golden/definition.1.json")).key_sha256, None);
}

#[test]
fn definitions_that_name_the_fleet_that_their_set_is_of_load() {
    let named = survives::<Definition>(include_str!("golden/definition.1.fleet.json")).fleet_revision;
    assert_eq!(named, Some(FleetRevision { heartbeats: 1207, states: 3 }));
    assert_eq!(survives::<Definition>(include_str!("golden/definition.1.json")).fleet_revision, None);
}

#[test]
fn definitions_that_leave_the_waits_to_the_agent_load_and_earlier_ones_keep_theirs() {
    let is_usual = |golden: &str| Job::try_from(survives::<Definition>(golden)).expect("it is a job").retry.is_backoff_usual();
    assert!(is_usual(include_str!("golden/definition.1.usual.json")));
    assert!(!is_usual(include_str!("golden/definition.1.json")));
}

#[test]
fn signed_definitions_with_sealed_secrets_load() {
    let definition: Definition = survives(include_str!("golden/definition.1.signed.json"));
    assert_eq!(definition.signature.as_ref().map(|signature| signature.proof.len()), Some(2));
    assert!(Job::try_from(definition).expect("sealed secrets are read").sealed_for.is_some());
}

#[test]
fn events_of_schema_1_load() {
    assert_eq!(survives::<Vec<Event>>(include_str!("golden/events.1.json")).len(), 6, "one of each kind");
}

#[test]
fn starts_that_name_their_delivery_load_and_so_do_earlier_ones() {
    let delivery = |golden: &str| {
        survives::<Vec<Event>>(golden).into_iter().find_map(|event| match event.kind {
            EventKind::Started { delivery, .. } => Some(delivery),
            EventKind::Retrying { .. }
            | EventKind::CancelRequested { .. }
            | EventKind::Cancelled { .. }
            | EventKind::Expired
            | EventKind::Lost { .. } => None,
        })
    };
    assert!(delivery(include_str!("golden/events.1.delivery.json")).flatten().is_some());
    assert_eq!(delivery(include_str!("golden/events.1.json")), Some(None));
}

#[test]
fn answers_of_schema_1_load() {
    let answer: Answer = survives(include_str!("golden/answer.1.json"));
    assert_eq!((answer.attempts, answer.result_object), (2, None));
    let large: Answer = survives(include_str!("golden/answer.1.large.json"));
    assert_eq!((large.result, large.result_object.map(|object| object.bytes)), (None, Some(67_109_000)));
}

#[test]
fn reservations_of_schema_1_load() {
    assert!(!survives::<Reservation>(include_str!("golden/reservation.1.json")).deleted);
    assert!(survives::<Reservation>(include_str!("golden/reservation.1.deleted.json")).deleted);
}

#[test]
fn heartbeats_of_schema_1_load() {
    assert!(survives::<Heartbeat>(include_str!("golden/heartbeat.1.json")).conditions.is_empty());
    let heartbeat: Heartbeat = survives(include_str!("golden/heartbeat.1.conditions.json"));
    assert_eq!((heartbeat.conditions.len(), heartbeat.process.is_some()), (3, true));
    let heartbeat: Heartbeat = survives(include_str!("golden/heartbeat.1.packages.json"));
    assert_eq!((heartbeat.packages().len(), heartbeat.packages()[0].nodes.len()), (2, 1));
}

#[test]
fn facts_of_schema_1_load() {
    let record: FactsRecord = survives(include_str!("golden/facts.1.json"));
    assert_eq!(FactValues::of(&record.facts).get("interface.primary"), Some("eth0"));
}

#[test]
fn dead_letters_of_schema_1_load() {
    let letters: Vec<DeadLetter> = survives(include_str!("golden/dead_letters.1.json"));
    assert_eq!(letters.len(), 3, "one of each state");
}

#[test]
fn audit_records_of_schema_1_load() {
    let records: Vec<AuditRecord> = survives(include_str!("golden/audit.1.json"));
    let outcomes: Vec<_> = records.iter().map(|record| record.outcome().as_str()).collect();
    assert_eq!(outcomes, ["done", "refused", "refused", "unknown"]);
}

#[test]
fn manifests_of_stand_alone_workers_load_and_answer() {
    let manifest: Manifest = survives(include_str!("golden/manifest.1.json"));
    assert_eq!(manifest.delivery.as_ref().map(|asked| asked.sequence), Some(17));
    let response = serde_json::to_value(manifest.response()).expect("the response is JSON");
    let expected = serde_json::json!({
        "id": "job_2026_01",
        "status": "failed",
        "exitCode": 3,
        "manifestFile": "results/result.json",
        "error": "step 0 (\"build\") ended with exit status 3",
    });
    assert_eq!(response, expected);
}
