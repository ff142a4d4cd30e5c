//! What is meant to be an object is one: in every request body, a list in the place of any object is refused, and the place is named.

use std::collections::BTreeSet;

use longshore_model::wire::problem::ErrorCode;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{House, problem};

/// A body with every object that it may have, for each operation of the description that takes one.
fn bodies() -> Vec<(&'static str, Value)> {
    let exec = || json!({"command": ["true"], "env": {"A": "b"}, "secrets": {"S": "hunter2"}});
    let shell = || json!({"command": "true", "env": {"A": "b"}, "secrets": {"S": "hunter2"}});
    let dns = || json!({"servers": ["192.0.2.53"], "search": ["example.com"]});
    let workspace = json!({
        "steps": ["true", {"run": "true", "env": {"A": "b"}, "shell": ["sh", "-c"]}],
        "env": {"A": "b"}, "secrets": {"S": "hunter2"}, "limits": {"output": "1MiB"}, "artifacts": ["*"]
    });
    let of_operations = [
        ("command.exec", exec()),
        ("command.shell", shell()),
        ("network.dns.get", json!({"interface": "eth0"})),
        ("network.dns.set", dns()),
        ("network.ping.run", json!({"address": "192.0.2.1", "count": 1})),
        ("node.hostname.set", json!({"hostname": "web-02"})),
        ("node.uptime.get", json!({})),
        ("workspace.run", workspace),
        // Arguments that name facts are kept as they came.
        ("command.exec", json!({"command": ["echo", "@fact.hostname"], "env": {"A": "b"}, "secrets": {"S": "hunter2"}})),
        ("workspace.run", json!({"steps": [{"run": "true", "env": {"A": "@fact.hostname"}}], "limits": {"output": "1MiB"}})),
    ];
    let mut all = vec![
        ("retry_job", json!({"only": "failed"})),
        ("earlier_retry_job", json!({"target_hostname": "web-01"})),
        ("drain_agent", json!({"reason": "a test"})),
        ("set_node_hostname", json!({"hostname": "web-02"})),
        ("set_node_dns", dns()),
        ("ping_from_node", json!({"address": "192.0.2.1", "count": 1})),
        ("exec_on_node", exec()),
        ("shell_on_node", shell()),
    ];
    for (operation, args) in of_operations {
        let retry = json!({"max_attempts": 3, "backoff": ["1s"]});
        all.push(("submit_job", json!({"operation": operation, "args": args, "retry": retry, "annotations": {"a": "b"}})));
        all.push(("earlier_submit_job", json!({"operation": {"type": operation, "data": args}})));
    }
    all
}

/// The body once for every object in it, with a list of its fields' values in the object's place; and with that place.
fn with_lists(body: &Value) -> Vec<(String, Value)> {
    let mut places = Vec::new();
    objects(body, String::new(), &mut places);
    let replaced = |place: String| {
        let mut other = body.clone();
        let object = other.pointer_mut(&place).unwrap();
        *object = object.as_object().unwrap().values().cloned().collect();
        (place, other)
    };
    places.into_iter().map(replaced).collect()
}

fn objects(value: &Value, place: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| objects(field, format!("{place}/{name}"), found));
            found.push(place);
        }
        Value::Array(items) => items.iter().enumerate().for_each(|(index, item)| objects(item, format!("{place}/{index}"), found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Method and path of every operation that takes a JSON body, by its name.
fn described() -> Vec<(String, Method, String)> {
    let document = serde_json::to_value(longshore_controller::openapi()).unwrap();
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            if operation["requestBody"]["content"].get("application/json").is_some() {
                let name = operation["operationId"].as_str().unwrap().to_owned();
                all.push((name, method.to_uppercase().parse().unwrap(), path.clone()));
            }
        }
    }
    all
}

#[tokio::test]
async fn a_list_is_refused_wherever_an_object_is_meant_in_every_body() {
    let (house, agent) = House::with_agent().await;
    let job = house.submit(json!({})).await.id;
    agent.take().await.complete().await;
    house.get(&format!("/api/v1/jobs/{job}?wait=20s")).await;
    let described = described();
    let sampled: BTreeSet<&str> = bodies().iter().map(|(name, _)| *name).collect();
    assert_eq!(sampled, described.iter().map(|(name, ..)| name.as_str()).collect(), "give the body of a new operation a sample");
    let mut n_tries = 0;
    for (name, body) in bodies() {
        let (_, method, path) = described.iter().find(|(known, ..)| known == name).unwrap();
        let mut path = path.clone();
        for (part, value) in [("{id}", &*job.to_string()), ("{agent}", "web-01"), ("{target}", "web-01"), ("{interface}", "eth0")] {
            path = path.replace(part, value);
        }
        for (place, body) in with_lists(&body) {
            let found = problem(house.request(method.clone(), &path).json(&body).send().await.unwrap()).await;
            n_tries += 1;
            assert!(matches!(found.code, ErrorCode::BadRequest | ErrorCode::Validation), "{name} {body}: {found:?}");
            let [error] = &found.errors[..] else { panic!("{name} {body}: {found:?}") };
            assert_eq!(error.pointer, place, "{name} {body}: {found:?}");
            assert!(!format!("{found:?}").contains("hunter2"), "{name} {body}: {found:?}");
        }
    }
    assert!(n_tries > 70, "{n_tries}");
    let list = house.get("/api/v1/jobs").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "nothing was stored: {list}");
}
