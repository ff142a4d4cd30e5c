//! The worker's settings of packages: what each of them changes when a scheduler has one installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use longshore_testkit::{Process, SchedulerOptions, Signal, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::fleet::{PATIENCE, longshore};
use crate::worker::Home;

/// Runs a worker with these settings, has a package installed, and gives the status and the details of the event.
async fn installed(home: &Home, settings: &[&str], name: &str, url: &str) -> (String, Value) {
    let words: Vec<&str> = ["worker", "start"].into_iter().chain(settings.iter().flat_map(|setting| ["--set", setting])).collect();
    let (n_before, n_sessions) = (home.scheduler.frames("biz.pkg.event").len(), home.scheduler.counts().1);
    let mut worker = Process::spawn(home.command(&words));
    eventually("a worker", PATIENCE, async || (home.scheduler.counts().1 > n_sessions).then_some(())).await;
    home.scheduler.worker().await;
    home.scheduler.send("biz.pkg.install", &json!({ "name": name, "version": "1.0.0", "url": url }), None);
    let event =
        eventually("the event of an install", PATIENCE, async || home.scheduler.frames("biz.pkg.event").get(n_before).cloned()).await;
    worker.signal(Signal::TERM);
    worker.wait(PATIENCE).await;
    let payload = &event["payload"];
    (payload["status"].as_str().unwrap().to_owned(), payload["details"].clone())
}

/// An archive of a package whose manifest has this, too.
fn archive(home: &Home, name: &str, more: &[(&str, Value)]) -> PathBuf {
    let source = home.path().join(name);
    std::fs::create_dir(&source).unwrap();
    let mut manifest = json!({
        "schemaVersion": "1.0.0", "name": name, "version": "1.0.0", "description": "", "python": { "requires": ">=3.8" },
        "adapters": [{ "name": "a", "entrypoint": "m", "capabilities": ["x"] }],
        "nodes": [{ "type": "t", "status": "draft", "category": "c", "label": "l", "adapter": "a", "handler": "h", "schema": true }],
    });
    more.iter().for_each(|(field, value)| manifest[*field] = value.clone());
    std::fs::write(source.join("manifest.json"), manifest.to_string()).unwrap();
    std::fs::write(source.join("m.py"), "def h(context):\n    return {}\n").unwrap();
    let path = home.path().join(format!("{name}.zip"));
    let words = ["package", "build", source.to_str().unwrap(), "--out", path.to_str().unwrap()];
    assert!(longshore(home.path(), &words).output().unwrap().status.success());
    path
}

fn file(path: &Path) -> String {
    format!("file://{}", path.display())
}

/// Serves files of a directory at an address of this host, and an index of what is in it at `/simple/`.
async fn serve(dir: PathBuf, serving: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    serving.spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && socket.read_buf(&mut request).await.is_ok_and(|n| n > 0) {}
            let path = String::from_utf8_lossy(&request).split(' ').nth(1).unwrap_or_default().to_owned();
            let body = if path.starts_with("/simple/") {
                let names = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
                names.map(|name| format!("<a href=\"/{name}\">{name}</a>\n")).collect::<String>().into_bytes()
            } else {
                std::fs::read(dir.join(path.trim_start_matches('/'))).unwrap_or_default()
            };
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _gone = socket.write_all(&[head.into_bytes(), body].concat()).await;
        }
    });
    format!("http://{address}")
}

/// A wheel of one module, made by hand: what `pip` needs of it and no more.
fn wheel(dir: &Path) {
    const SCRIPT: &str = "import zipfile, sys\n\
         z = zipfile.ZipFile(sys.argv[1] + '/tinydep-1.0-py3-none-any.whl', 'w')\n\
         z.writestr('tinydep.py', '')\n\
         z.writestr('tinydep-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: tinydep\\nVersion: 1.0\\n')\n\
         z.writestr('tinydep-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
         z.writestr('tinydep-1.0.dist-info/RECORD', '')\n\
         z.close()";
    assert!(Command::new("python3").args(["-c", SCRIPT]).arg(dir).status().unwrap().success());
}

fn why(details: &Value) -> &str {
    details["error"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn how_far_whose_and_with_which_hooks_packages_are_installed_is_as_it_is_set() {
    let home = Home::new(SchedulerOptions::default()).await;
    let (archives, mut serving) = (home.path().join("served"), JoinSet::new());
    std::fs::create_dir(&archives).unwrap();
    std::fs::copy(archive(&home, "near", &[]), archives.join("near.zip")).unwrap();
    let near = serve(archives, &mut serving).await + "/near.zip";
    for setting in ["package_reach=public", "package_reach=private"] {
        let (status, details) = installed(&home, &[setting], "near", &near).await;
        assert!(status == "failed" && why(&details).contains("127.0.0.1 is not among the public"), "{setting}: {details}");
    }
    assert_eq!(installed(&home, &["package_reach=loopback"], "near", &near).await.0, "installed");

    let ran = home.path().join("ran");
    let hooked = file(&archive(&home, "hooked", &[("hooks", json!({ "install": [format!("touch {}", ran.display())] }))]));
    let (_, details) = installed(&home, &[], "hooked", &hooked).await;
    assert!(details["hooks"]["skipped"]["hooks"] == 1 && !ran.exists(), "{details}");
    let again = file(&archive(&home, "again", &[("hooks", json!({ "install": [format!("touch {}", ran.display())] }))]));
    let (_, details) = installed(&home, &["package_hooks=true"], "again", &again).await;
    assert!(details["hooks"]["ran"]["hooks"] == 1 && ran.exists(), "{details}");

    let unsigned = file(&archive(&home, "unsigned", &[]));
    let keys = r#"package_keys=["RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"]"#;
    let (status, details) = installed(&home, &[keys], "unsigned", &unsigned).await;
    assert!(status == "failed" && why(&details).contains("have to be signed"), "{details}");
    assert_eq!(installed(&home, &[], "unsigned", &unsigned).await.0, "installed");
}

#[tokio::test]
async fn where_pythons_and_their_packages_come_from_is_as_it_is_set() {
    let home = Home::new(SchedulerOptions::default()).await;
    let (wheels, mut serving) = (home.path().join("wheels"), JoinSet::new());
    std::fs::create_dir(&wheels).unwrap();
    wheel(&wheels);
    let depends = |name: &str| file(&archive(&home, name, &[("python", json!({ "requires": ">=3.8", "dependencies": ["tinydep"] }))]));
    let (status, details) = installed(&home, &[], "none", &depends("none")).await;
    assert!(status == "failed" && why(&details).contains("neither a directory of wheels nor an index"), "{details}");
    let setting = format!("package_wheels_dir={}", wheels.display());
    let (status, details) = installed(&home, &[&setting], "off-line", &depends("off-line")).await;
    assert_eq!(status, "installed", "{details}");
    let index = serve(wheels, &mut serving).await.replace("http://", "package_index=http://user:hunter2@") + "/simple/";
    let (status, details) = installed(&home, &[&index], "index", &depends("index")).await;
    assert_eq!(status, "installed", "{details}");

    // What is no Python fails to make an environment, and to run a handler.
    let fake = home.path().join("python-of-ours");
    std::fs::write(&fake, "#!/bin/sh\necho \"a python of ours\" >&2\nexit 3\n").unwrap();
    std::fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let python = format!("python_program={}", fake.display());
    let (status, details) = installed(&home, &[&setting, &python], "fake", &depends("fake")).await;
    assert!(status == "failed" && why(&details).contains("a python of ours"), "{details}");
    let mut worker = Process::spawn(home.command(&["worker", "start", "--set", &python]));
    home.scheduler.worker().await;
    home.dispatch("fake", "echo", &json!({}));
    let answer = home.scheduler.answer("fake").await;
    assert!(answer["payload"]["message"].as_str().unwrap().contains("a python of ours"), "{answer}");
    worker.signal(Signal::TERM);
    worker.wait(PATIENCE).await;
}
