//! What operators ask of the packages of attached workers, in the words of the existing protocol.

use longshore_model::JobId;
use serde_json::{Value, json};

use super::raw::{PACKAGE, RawWorker};
use super::work::memory;
use crate::support::{House, problem};

const URL: &str = "https://packages.example/p.zip";

async fn ask(house: &House, operation: &str, args: Value) -> JobId {
    let body = json!({"operation": operation, "target": "edge-01", "args": args});
    let response = house.post("/api/v1/jobs", &body).await;
    let (status, text) = (response.status(), response.text().await.unwrap());
    assert_eq!(status, 201, "{text}");
    serde_json::from_str::<Value>(&text).unwrap()["id"].as_str().unwrap().parse().unwrap()
}

async fn install(house: &House, more: Value) -> JobId {
    let mut args = json!({"package": "p", "version": "2.0.0", "url": URL});
    args.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ask(house, "package.install", args).await
}

/// Says what became of a command, and waits until that is acknowledged.
async fn tell(worker: &mut RawWorker, command: &Value, status: &str, details: Value) {
    let version = command["payload"].get("version").cloned().unwrap_or(json!("*"));
    let payload = json!({"name": command["payload"]["name"], "version": version, "status": status, "details": details});
    let event = worker.numbered("biz.pkg.event", payload, command);
    worker.say(&event).await;
}

#[tokio::test]
async fn packages_of_a_worker_are_installed_and_removed_and_each_command_is_answered() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let digest = "ab".repeat(32);
    let id = install(&house, json!({"sha256": digest})).await;
    let command = worker.until("biz.pkg.install").await;
    assert_eq!(command["payload"], json!({"name": "p", "version": "2.0.0", "url": URL, "sha256": digest}));
    // Of the same package, one after the other: what is said of one could be said of the other.
    let second = install(&house, json!({})).await;
    let details = json!({"action": "install", "change": "new", "sha256": digest, "signed_by": null, "remarks": ["a"], "directory": "/x"});
    tell(&mut worker, &command, "installed", details).await;
    let job = house.ends_as(id, "completed").await;
    let execution = &job["executions"][0];
    let expected = json!({"package": "p", "version": "2.0.0", "change": "new", "sha256": digest, "remarks": ["a"]});
    assert_eq!((&execution["result"], &execution["changed"]), (&expected, &json!(true)), "{job}");
    let command = worker.until("biz.pkg.install").await;
    tell(&mut worker, &command, "failed", json!({"action": "install", "error": "fetch it: nobody is there"})).await;
    let job = house.ends_as(second, "failed").await;
    let error = &job["executions"][0]["error"];
    assert_eq!((&error["code"], &error["message"]), (&json!("package_failed"), &json!("fetch it: nobody is there")));
    // What is said of another one ends nothing.
    let id = ask(&house, "package.uninstall", json!({"package": "p"})).await;
    let command = worker.until("biz.pkg.uninstall").await;
    assert_eq!(command["payload"], json!({"name": "p"}));
    tell(&mut worker, &json!({"payload": {"name": "q"}}), "installed", json!({})).await;
    tell(&mut worker, &command, "installed", json!({"action": "install"})).await;
    let removed = json!({"action": "uninstall", "removed": [{"version": "2.0.0", "in_use": false}], "kept": []});
    tell(&mut worker, &command, "installed", removed).await;
    let job = house.ends_as(id, "completed").await;
    assert_eq!(job["executions"][0]["result"], json!({"package": "p", "removed": ["2.0.0"]}), "{job}");
    // What it has is known.
    let id = ask(&house, "package.list", json!({})).await;
    let job = house.ends_as(id, "completed").await;
    let packages = &job["executions"][0]["result"]["packages"];
    assert_eq!((packages.as_array().unwrap().len(), &packages[0]["name"]), (2, &json!(PACKAGE)), "{job}");
}

#[tokio::test]
async fn a_worker_that_tells_of_no_command_shows_what_came_of_it_when_it_registers() {
    let house = House::start().await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let id = install(&house, json!({"package": PACKAGE, "version": "1.0.0"})).await;
    worker.until("biz.pkg.install").await;
    worker.register(&[]).await;
    let job = house.ends_as(id, "completed").await;
    assert_eq!(job["executions"][0]["result"], json!({"package": PACKAGE, "version": "1.0.0"}), "{job}");
    let id = ask(&house, "package.uninstall", json!({"package": "another"})).await;
    worker.until("biz.pkg.uninstall").await;
    worker.register(&[]).await;
    house.ends_as(id, "completed").await;
}

#[tokio::test]
async fn a_command_is_said_again_by_the_controller_that_comes_after() {
    let house = House::on(memory(), |_| {}).await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let id = install(&house, json!({})).await;
    worker.until("biz.pkg.install").await;
    let house = House::on(house.kill(), |_| {}).await;
    let mut worker = house.worker("w-1", "edge-01").await;
    let command = worker.until("biz.pkg.install").await;
    tell(&mut worker, &command, "installed", json!({"action": "install", "change": "unchanged"})).await;
    let job = house.ends_as(id, "completed").await;
    assert_eq!((&job["executions"][0]["attempts"], &job["executions"][0]["changed"]), (&json!(1), &json!(false)), "{job}");
}

#[tokio::test]
async fn to_install_takes_a_permission_of_its_own_and_a_worker_that_takes_such_commands() {
    let house = House::start().await;
    let mut worker = RawWorker::dial(&house, "w-1").await;
    let id = worker.handshake(&house.attach_token(), "edge-01").await;
    worker.acked(&id).await;
    let payload =
        json!({"capabilities": {"concurrency": {"max_parallel": 1}, "runtimes": ["python"], "features": []}, "payload_types": []});
    let id = worker.ask("control.register", payload).await;
    worker.acked(&id).await;
    house.knows("edge-01", "ready").await;
    let body = json!({"operation": "package.install", "target": "edge-01", "args": {"package": "p", "version": "1", "url": URL}});
    let weak = house.bare(reqwest::Method::POST, "/api/v1/jobs").bearer_auth(house.token(&["write"])).json(&body).send().await.unwrap();
    let refused = problem(weak).await;
    assert!(refused.detail.contains("package:install"), "{refused:?}");
    let unable = house.post("/api/v1/jobs", &body).await;
    assert_eq!(unable.status(), 409, "{}", unable.text().await.unwrap());
}
