//! Server-sent events: of one job, of all jobs, and of its output.

use longshore_model::JobId;
use longshore_model::wire::record::Outcome;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::{House, Reader, Sent};

async fn open(house: &House, path: &str, after: Option<&str>) -> Reader {
    let mut request = house.request(Method::GET, path);
    if let Some(id) = after {
        request = request.header("last-event-id", id);
    }
    let response: Response = request.send().await.unwrap();
    Reader::new(response)
}

fn words(sent: &[Sent]) -> Vec<String> {
    sent.iter().map(|sent| sent.event.clone().unwrap_or_else(|| sent.data["event"].as_str().unwrap_or("log").to_owned())).collect()
}

#[tokio::test]
async fn a_jobs_events_come_from_the_beginning_live_and_end() {
    let (house, agent) = House::with_agent().await;
    let job = house.submit(json!({})).await;
    let task = agent.take().await;
    let path = format!("/api/v1/jobs/{}/events", job.id);
    let mut reader = open(&house, &path, None).await;
    let first = reader.next().await.unwrap();
    assert_eq!(first.data["event"], "submitted");
    task.complete().await;
    let live = reader.rest().await;
    assert_eq!(words(&live), ["started", "answered", "end"]);
    assert_eq!(live[2].data["status"], "completed");

    // The same story for a reader that comes after the end, and the rest of it for one that resumes.
    let later = open(&house, &path, None).await.rest().await;
    assert_eq!(words(&later), ["submitted", "started", "answered", "end"]);
    let resumed = open(&house, &path, first.id.as_deref()).await.rest().await;
    assert_eq!(words(&resumed), ["started", "answered", "end"]);
    let told = open(&house, &path, later[2].id.as_deref()).await.rest().await;
    assert_eq!(words(&told), ["end"]);
}

#[tokio::test]
async fn events_of_all_jobs_resume_where_a_reader_left_them() {
    let (house, agent) = House::with_agent().await;
    let mut reader = open(&house, "/api/v1/jobs/events", None).await;
    let job = house.submit(json!({})).await;
    let submitted = reader.next().await.unwrap();
    assert_eq!((submitted.data["job"].clone(), submitted.data["event"].clone()), (json!(job.id), json!("submitted")));
    drop(reader);
    agent.take().await.complete().await;
    house.get(&format!("/api/v1/jobs/{}?wait=20s", job.id)).await;
    let mut resumed = open(&house, "/api/v1/jobs/events", submitted.id.as_deref()).await;
    let missed = [resumed.next().await.unwrap(), resumed.next().await.unwrap()];
    assert_eq!(words(&missed), ["started", "answered"]);
    assert_eq!(missed[1].data["status"], "completed");

    // A controller that comes later gives the same ids.
    let later = House::on(house.store.clone(), |_| {}).await;
    let mut elsewhere = open(&later, "/api/v1/jobs/events", missed[0].id.as_deref()).await;
    assert_eq!(elsewhere.next().await.unwrap(), missed[1]);
}

#[tokio::test]
async fn a_deleted_job_ends_its_streams() {
    let (house, agent) = House::with_agent().await;
    let job = house.submit(json!({})).await;
    let task = agent.take().await;
    let mut reader = open(&house, &format!("/api/v1/jobs/{}/events", job.id), None).await;
    reader.next().await.unwrap();
    let logs = open(&house, &format!("/api/v1/jobs/{}/logs", job.id), None).await;
    let force = house.request(Method::DELETE, &format!("/api/v1/jobs/{}?force=true", job.id)).send().await.unwrap();
    assert_eq!(force.status(), 204);
    let rest = words(&reader.rest().await);
    assert_eq!(rest.last().map(String::as_str), Some("end"));
    assert_eq!(words(&logs.rest().await), ["end"]);
    drop(task);
}

#[tokio::test]
async fn streams_end_with_the_controller() {
    let (house, _agent) = House::with_agent().await;
    let job = house.submit(json!({})).await;
    let all = open(&house, "/api/v1/jobs/events", None).await;
    let one = open(&house, &format!("/api/v1/jobs/{}/events", job.id), None).await;
    let logs = open(&house, &format!("/api/v1/jobs/{}/logs", job.id), None).await;
    let text = house.request(Method::GET, &format!("/api/v1/jobs/{}/logs", job.id)).header("accept", "text/plain").send().await.unwrap();
    house.drain.cancel();
    assert_eq!(words(&all.rest().await), Vec::<String>::new());
    assert_eq!(words(&one.rest().await), ["submitted"]);
    // Without `end`: the job goes on, and so may the reader.
    assert_eq!(words(&logs.rest().await), Vec::<String>::new());
    // Text has no last word: what breaks off must not look like the whole.
    assert!(text.bytes().await.is_err());
    house.ended().await;
}

fn texts(sent: &[Sent]) -> Vec<Value> {
    sent.iter().filter(|sent| sent.event.is_none()).map(|sent| sent.data["text"].clone()).collect()
}

#[tokio::test]
async fn output_is_followed_to_its_end_and_resumes() {
    let (house, agent) = House::with_agent().await;
    let job = house.submit(json!({})).await;
    let path = format!("/api/v1/jobs/{}/logs", job.id);
    let task = agent.take().await;
    task.start().await;
    task.log(0, b"one\n").await;
    let mut reader = open(&house, &path, None).await;
    let first = reader.next().await.unwrap();
    assert_eq!(first.data["text"], "one\n");
    assert_eq!(texts(&open(&house, &format!("{path}?follow=false"), None).await.rest().await), ["one\n"]);
    task.log(1, b"two\n").await;
    task.log(2, &[0xff, 0xfe]).await;
    task.answer(Outcome::Completed, json!({})).await;
    let rest = reader.rest().await;
    assert_eq!(words(&rest), ["log", "log", "end"]);
    assert_eq!((rest[0].data["text"].clone(), rest[1].data["base64"].clone()), (json!("two\n"), json!("//4=")));

    let resumed = open(&house, &path, first.id.as_deref()).await.rest().await;
    assert_eq!(resumed, rest);
    let plain = house.request(Method::GET, &path).header("accept", "text/plain").send().await.unwrap();
    assert_eq!(plain.bytes().await.unwrap().as_ref(), b"one\ntwo\n\xff\xfe");
}

#[tokio::test]
async fn what_is_missing_is_a_gap_in_every_form_and_numbers_say_where_to_begin() {
    let (house, agent) = House::with_agent().await;
    let job = house.submit(json!({})).await;
    let path = format!("/api/v1/jobs/{}/logs", job.id);
    let task = agent.take().await;
    task.start().await;
    for (seq, bytes) in [(0, &b"zero\n"[..]), (1, b"one"), (4, b"four\n"), (5, b"five\n")] {
        task.log(seq, bytes).await;
    }
    task.answer(Outcome::Completed, json!({})).await;
    let all = open(&house, &path, None).await.rest().await;
    let gaps: Vec<_> = all.iter().map(|sent| sent.data["gap"].clone()).collect();
    assert_eq!(gaps, [Value::Null, Value::Null, json!({"records": 2}), Value::Null, Value::Null]);
    let from = open(&house, &format!("{path}?from=2"), None).await.rest().await;
    assert_eq!(from, all[2..]);
    let refused = house.request(Method::GET, &format!("{path}?from=first")).send().await.unwrap();
    assert_eq!(refused.status(), 400);
    let plain = house.request(Method::GET, &path).header("accept", "text/plain").send().await.unwrap();
    let expected: &[u8] = b"zero\none\n[longshore] output is missing here: 2 records\nfour\nfive\n";
    assert_eq!(plain.bytes().await.unwrap().as_ref(), expected);
}

#[tokio::test]
async fn a_reader_that_reconnects_at_every_record_reads_what_an_unbroken_one_does() {
    let (house, agent) = House::with_agent().await;
    let job = house.submit(json!({})).await;
    let path = format!("/api/v1/jobs/{}/logs", job.id);
    let task = agent.take().await;
    task.start().await;
    for seq in 0..60 {
        task.log(seq, &[b'a' + u8::try_from(seq % 26).unwrap(), 0xff]).await;
    }
    task.answer(Outcome::Completed, json!({})).await;
    let unbroken = open(&house, &path, None).await.rest().await;
    let mut broken = Vec::new();
    let mut place: Option<String> = None;
    while broken.last().is_none_or(|sent: &Sent| sent.event.is_none()) {
        let sent = open(&house, &path, place.as_deref()).await.next().await.unwrap();
        place = sent.id.clone().or(place);
        broken.push(sent);
    }
    assert_eq!(broken, unbroken);
    assert_eq!(broken.len(), 61);
}

#[tokio::test]
async fn a_job_without_output_ends_at_once() {
    let (house, agent) = House::with_agent().await;
    let job = house.submit(json!({})).await;
    let path = format!("/api/v1/jobs/{}/logs", job.id);
    let reader = open(&house, &path, None).await;
    agent.take().await.complete().await;
    assert_eq!(words(&reader.rest().await), ["end"]);
    let absent = house.request(Method::GET, &format!("/api/v1/jobs/{}/logs", JobId::from_bits(1))).send().await.unwrap();
    assert_eq!(absent.status(), 404);
}
