//! What a job brought back.

use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Outcome;
use longshore_model::wire::rest::JobView;
use longshore_store::archive_name;
use reqwest::Method;
use serde_json::json;

use crate::support::{House, problem};

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(zstd::Encoder::new(Vec::new(), 0).unwrap());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // Set as bytes: the library itself would refuse `..`.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

#[tokio::test]
async fn artifacts_are_listed_downloaded_whole_and_one_by_one() {
    let (house, agent) = House::with_agent().await;
    let body = json!({"operation": "workspace.run", "args": {"steps": ["make"]}});
    let job: JobView = house.post("/api/v1/jobs", &body).await.json().await.unwrap();
    let path = format!("/api/v1/jobs/{}/artifacts", job.id);
    assert_eq!(house.get(&path).await, json!({"items": [], "archives": [], "unlisted": 0}));
    let nothing = house.request(Method::GET, &format!("{path}?format=archive")).send().await.unwrap();
    assert_eq!(problem(nothing).await.code, ErrorCode::NotFound);

    let large: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    let packed = archive(&[("./hello", b"\x7fELF"), ("out/großer name.txt", &large), ("../evil", b"x"), ("greeting.txt", b"hi\n")]);
    let task = agent.take().await;
    task.start().await;
    house.store.objects.put(&archive_name(job.id, task.execution), Box::pin(std::io::Cursor::new(packed.clone()))).await.unwrap();
    let now = jiff::Timestamp::now();
    let file = |path: &str, size: usize| json!({"path": path, "size": size, "sha256": "0".repeat(64)});
    let result = json!({
        "jobId": job.id, "status": "success", "timing": {"start": now, "end": now, "durationMs": 1}, "steps": [],
        "files": {"created": [file("hello", 4), file("greeting.txt", 3)], "modified": [file("edited", 1)], "deleted": [], "skipped": []},
        "archive": {"size": packed.len(), "sha256": "0".repeat(64), "entries": 4}, "worker": "web-01", "attempt": 1, "schema": 1
    });
    task.answer(Outcome::Completed, result).await;

    let list = house.get(&path).await;
    let names: Vec<&str> = list["items"].as_array().unwrap().iter().map(|item| item["path"].as_str().unwrap()).collect();
    assert_eq!(names, ["edited", "greeting.txt", "hello"]);
    assert_eq!(list["archive_bytes"], packed.len());
    let whole = house.request(Method::GET, &format!("{path}?format=archive")).send().await.unwrap();
    assert_eq!(whole.headers()["content-type"], "application/zstd");
    assert_eq!(whole.bytes().await.unwrap(), packed);

    let read = async |name: &str| house.request(Method::GET, &format!("{path}/{name}")).send().await.unwrap();
    assert_eq!(read("hello").await.bytes().await.unwrap().as_ref(), b"\x7fELF");
    assert_eq!(read("greeting.txt").await.text().await.unwrap(), "hi\n");
    assert_eq!(read("out/gro%C3%9Fer%20name.txt").await.bytes().await.unwrap(), large);
    for name in ["nothing", "hell", "/etc/passwd", "hello/"] {
        assert_eq!(problem(read(name).await).await.code, ErrorCode::NotFound, "{name}");
    }
    let odd = house.request(Method::GET, &format!("{path}?format=zip")).send().await.unwrap();
    assert_eq!(problem(odd).await.code, ErrorCode::BadRequest);
}

#[tokio::test]
async fn each_host_has_artifacts_of_its_own_and_where_several_are_meant_they_are_named() {
    let house = House::start().await;
    let hosts = ["web-01", "web-02", "twin", "twin"];
    let mut agents = Vec::new();
    for (n, host) in hosts.into_iter().enumerate() {
        agents.push(house.agent(n as u128 + 1, host).await);
    }
    let body = json!({"operation": "workspace.run", "args": {"steps": ["make"]}, "target": "_all"});
    let job: JobView = house.post("/api/v1/jobs", &body).await.json().await.unwrap();
    let path = format!("/api/v1/jobs/{}/artifacts", job.id);
    let get = async |path: String| house.request(Method::GET, &path).send().await.unwrap();
    let mut archives = Vec::new();
    for (n, agent) in agents.iter().enumerate() {
        let task = agent.inbox().await.remove(0);
        task.start().await;
        let said = format!("of {n}");
        let packed = archive(&[("./same.txt", said.as_bytes()), (&format!("./only-{n}"), b"x")]);
        house.store.objects.put(&archive_name(job.id, task.execution), Box::pin(std::io::Cursor::new(packed.clone()))).await.unwrap();
        let now = jiff::Timestamp::now();
        let file = |path: String| json!({"path": path, "size": 4, "sha256": "0".repeat(64)});
        let mut result = json!({
            "jobId": job.id, "status": "success", "timing": {"start": now, "end": now, "durationMs": 1}, "steps": [],
            "files": {"created": [file("same.txt".into()), file(format!("only-{n}"))], "modified": [], "deleted": [], "skipped": []},
            "archive": {"size": packed.len(), "sha256": "0".repeat(64), "entries": 2}, "worker": agent.hostname, "attempt": 1, "schema": 1
        });
        if n == 1 {
            // Long lists are no part of their answer.
            result["worker"] = "x".repeat(600_000).into();
            let encoded = serde_json::to_vec(&result).unwrap();
            let object = longshore_model::wire::record::ResultObject { bytes: encoded.len() as u64, sha256: crate::large::hex(&encoded) };
            let name = longshore_store::result_name(job.id, task.execution, 1);
            house.store.objects.put(&name, Box::pin(std::io::Cursor::new(encoded))).await.unwrap();
            task.answer_with(Outcome::Completed, None, Some(object)).await;
        } else {
            task.answer(Outcome::Completed, result).await;
        }
        archives.push(packed);
        if n == 0 {
            assert_eq!(get(format!("{path}/same.txt")).await.text().await.unwrap(), "of 0", "of one there is no doubt");
        }
    }

    let list = house.get(&path).await;
    let items: Vec<(&str, &str)> =
        list["items"].as_array().unwrap().iter().map(|item| (item["path"].as_str().unwrap(), item["hostname"].as_str().unwrap())).collect();
    assert_eq!(&items[..2], [("only-0", "web-01"), ("only-1", "web-02")]);
    assert_eq!(items.iter().filter(|(path, _)| *path == "same.txt").count(), 4);
    assert_eq!(list["items"][0]["execution"], job.executions[0].id.to_string());
    assert_eq!(list["archives"].as_array().unwrap().len(), 4);
    assert_eq!(list["archives"][1]["agent"], agents[1].id.to_string());
    assert_eq!(list["archive_bytes"], archives.iter().map(Vec::len).sum::<usize>());
    assert_eq!(house.get(&format!("{path}?agent=web-02")).await["archives"].as_array().unwrap().len(), 1);

    for (n, name) in [(0, "web-01".to_owned()), (1, agents[1].id.to_string()), (3, agents[3].id.to_string())] {
        assert_eq!(get(format!("{path}?format=archive&agent={name}")).await.bytes().await.unwrap(), archives[n]);
        assert_eq!(get(format!("{path}/same.txt?agent={name}")).await.text().await.unwrap(), format!("of {n}"));
    }
    for query in ["?format=archive", "/same.txt", "/same.txt?agent=twin", "?agent=twin"] {
        let refused = problem(get(format!("{path}{query}")).await).await;
        assert_eq!(refused.code, ErrorCode::BadRequest, "{query}");
        assert!(refused.detail.contains(&format!("twin ({})", agents[3].id)), "{}", refused.detail);
    }
    for query in ["/same.txt?agent=web-09", "?format=archive&agent=..%2F..", "/only-1?agent=web-01"] {
        assert_eq!(problem(get(format!("{path}{query}")).await).await.code, ErrorCode::NotFound, "{query}");
    }
    house.request(Method::DELETE, &format!("/api/v1/jobs/{}", job.id)).send().await.unwrap().error_for_status().unwrap();
    for execution in &job.executions {
        for name in [archive_name(job.id, execution.id), longshore_store::result_name(job.id, execution.id, 1)] {
            assert_eq!(house.store.objects.info(&name).await.unwrap(), None);
        }
    }
}
