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
    assert_eq!(house.get(&path).await, json!({"items": [], "unlisted": 0}));
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
