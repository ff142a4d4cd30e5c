//! `package.run` on agents: packages are installed, replaced and removed while an agent runs, and their handlers do jobs.

use std::path::{Path, PathBuf};

use longshore_testkit::eventually;
use serde_json::{Value, json};

use crate::fleet::{Fleet, PATIENCE};
use crate::run::{User, text};

const HANDLERS: &str = r#"
import asyncio, os, subprocess, sys

WHICH = "first"

async def echo(context):
    print("printed by", WHICH)
    await context.feedback.send(stage="half", progress=0.5, message="way", chunks=[{"channel": "stderr", "text": "a chunk\n"}])
    return {"outputs": {"which": WHICH, "python": sys.executable, **context.params}}

def fail(context):
    raise ValueError("nothing works")

async def alone(context):
    lock = os.open(context.params["lock"], os.O_CREAT | os.O_EXCL)
    await asyncio.sleep(0.1)
    os.close(lock)
    os.unlink(context.params["lock"])
    return {"outputs": {"key": context.metadata["concurrency_key"], "fence": context.metadata["fence"]}}

def skip(context):
    return {"status": "skipped"}

async def hang(context):
    child = subprocess.Popen(["sleep", "600"])
    with open(context.params["pids"] + ".new", "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    os.rename(context.params["pids"] + ".new", context.params["pids"])
    await asyncio.sleep(600)
"#;

/// A package's source, which is packed and installed by the program.
struct Package {
    dir: PathBuf,
    packages: PathBuf,
}

impl Package {
    fn of(fleet: &Fleet, agent: usize) -> Self {
        let dir = fleet.dir.path().join("source");
        std::fs::create_dir_all(&dir).unwrap();
        Self { dir, packages: fleet.dir.path().join(format!("agent-{agent}/packages")) }
    }

    async fn install(&self, user: &User<'_>, version: &str, handlers: &str) {
        let node = |name: &str| json!({"type": name, "status": "published", "category": "c", "label": name, "adapter": "main", "handler": name, "schema": {}});
        let manifest = json!({
            "schemaVersion": "1.0.0", "name": "test.pkg", "version": version, "description": "Handlers of a test.",
            "adapters": [{"name": "main", "entrypoint": "handlers", "capabilities": ["x"]}], "python": {"requires": ">=3.8"},
            "nodes": (["echo", "fail", "skip", "hang", "alone"].map(node)),
        });
        std::fs::write(self.dir.join("manifest.json"), manifest.to_string()).unwrap();
        std::fs::write(self.dir.join("handlers.py"), handlers).unwrap();
        let archive = self.dir.with_file_name("package.zip");
        let (dir, archive, packages) = (self.dir.to_str().unwrap(), archive.to_str().unwrap(), self.packages.to_str().unwrap());
        user.data(&["package", "build", dir, "--out", archive, "--force"]).await;
        let installed = user.data(&["package", "install", archive, "--packages-dir", packages]).await;
        assert_eq!(installed["version"], version, "{installed}");
    }
}

fn words<'a>(node: &'a str, target: &'a str, args: &'a str) -> Vec<&'a str> {
    ["job", "submit", "package.run", "--wait", "--arg", "package=test.pkg", "--target", target, "--arg", node, "--arg", args].to_vec()
}

async fn announced(user: &User<'_>, expected: &[&str]) {
    eventually("the packages to be announced", PATIENCE, async || {
        let agents = user.data(&["agent", "list"]).await;
        let packages = agents["items"][0]["packages"].as_array().cloned().unwrap_or_default();
        let names: Vec<_> = packages.iter().map(|one| format!("{}@{}", text_of(&one["name"]), text_of(&one["version"]))).collect();
        (names == expected).then_some(())
    })
    .await;
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The processes of a handler that hangs, once it does.
async fn pids(path: &Path) -> Vec<u32> {
    eventually("a handler that has begun", PATIENCE, async || {
        let text = std::fs::read_to_string(path).ok()?;
        std::fs::remove_file(path).unwrap();
        text.split(' ').map(|pid| pid.parse().ok()).collect()
    })
    .await
}

fn is_alive(pid: &u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[tokio::test]
async fn what_is_installed_while_an_agent_runs_is_announced_and_run() {
    let mut fleet = Fleet::start(1).await;
    let user = User::of(&fleet);
    let package = Package::of(&fleet, 0);
    let refused = user.types(&words("node=echo", "host-0", "parameters={}")).await;
    assert_eq!(refused.status.code(), Some(11), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("host-0 does not have the node echo of the package test.pkg"), "{}", text(&refused.stderr));

    package.install(&user, "1.0.0", HANDLERS).await;
    announced(&user, &["test.pkg@1.0.0"]).await;
    let shown = text(&user.types(&["agent", "show", "host-0"]).await.stdout);
    assert!(shown.contains("test.pkg 1.0.0  alone echo fail hang skip"), "{shown}");
    let done = user.data(&words("node=echo", "_any", r#"parameters={"n": [1, "x"]}"#)).await;
    let execution = &done["executions"][0];
    assert_eq!((&done["status"], &execution["hostname"]), (&json!("completed"), &json!("host-0")), "{done}");
    let output = &execution["result"]["output"];
    assert_eq!((&execution["result"]["version"], &output["which"], &output["n"]), (&json!("1.0.0"), &json!("first"), &json!([1, "x"])));
    let logs = user.types(&["job", "logs", text_of(&done["id"])]).await;
    let heard = text(&logs.stdout) + &text(&logs.stderr);
    for said in ["printed by first", "half 50% way", "a chunk"] {
        assert!(heard.contains(said), "{said:?} in {heard}");
    }
    for (node, status, code, message) in
        [("node=fail", "failed", "handler_failed", "ValueError: nothing works"), ("node=skip", "skipped", "unsupported", "nothing to do")]
    {
        let ended = user.data(&words(node, "host-0", "parameters={}")).await;
        let error = &ended["executions"][0]["error"];
        assert_eq!((&ended["status"], &error["code"]), (&json!(status), &json!(code)), "{ended}");
        assert!(text_of(&error["message"]).contains(message), "{ended}");
    }

    // Another archive of the same version takes its place, and a newer version stands beside it.
    package.install(&user, "1.0.0", &HANDLERS.replace("first", "second")).await;
    let done = user.data(&words("node=echo", "host-0", "parameters={}")).await;
    assert_eq!(done["executions"][0]["result"]["output"]["which"], "second", "{done}");
    package.install(&user, "1.1.0-rc.1", &HANDLERS.replace("first", "early")).await;
    package.install(&user, "1.1.0", &HANDLERS.replace("first", "third")).await;
    announced(&user, &["test.pkg@1.0.0", "test.pkg@1.1.0", "test.pkg@1.1.0-rc.1"]).await;
    for (version, expected) in [(None, "third"), (Some("1.0.0"), "second"), (Some("1.1.0-rc.1"), "early")] {
        let version = version.map(|version| format!("version={version}"));
        let mut words = words("node=echo", "_all", "parameters={}");
        words.extend(["--yes"].into_iter().chain(version.iter().flat_map(|version| ["--arg", version.as_str()])));
        let done = user.data(&words).await;
        assert_eq!(done["executions"][0]["result"]["output"]["which"], expected, "{done}");
    }

    // Under a concurrency key one runs at a time, in order, and each knows its turn.
    let lock = format!("parameters={}", json!({ "lock": fleet.dir.path().join("lock") }));
    let mut keyed = words("node=alone", "_any", &lock);
    keyed.retain(|word| *word != "--wait");
    keyed.extend(["--concurrency-key", "alone"]);
    let (mut turns, mut last) = (Vec::new(), 0);
    for _ in 0..4 {
        turns.push(text_of(&user.data(&keyed).await["id"]).to_owned());
    }
    for id in turns {
        let done = user.data(&["job", "wait", &id]).await;
        let output = &done["executions"][0]["result"]["output"];
        assert_eq!((&done["status"], &output["key"]), (&json!("completed"), &json!("alone")), "{done}");
        let fence = output["fence"].as_u64().unwrap();
        assert!(fence > last, "{fence} after {last}");
        last = fence;
    }

    // What a handler has started is gone when its job was cancelled, or its time was up.
    let file = fleet.dir.path().join("pids");
    let hang = format!("parameters={}", json!({ "pids": file }));
    let mut submit = words("node=hang", "host-0", &hang);
    submit.retain(|word| *word != "--wait");
    let job = user.data(&submit).await;
    let running = pids(&file).await;
    assert!(running.len() == 2 && running.iter().all(is_alive), "{running:?}");
    user.types(&["job", "cancel", text_of(&job["id"])]).await;
    let ended = user.data(&["job", "wait", text_of(&job["id"])]).await;
    assert_eq!((&ended["status"], &ended["executions"][0]["cancel_verified"]), (&json!("cancelled"), &json!(true)), "{ended}");
    assert!(!running.iter().any(is_alive), "{running:?}");
    // A host that is warm, so that the handler begins in its time on a busy machine, too.
    user.data(&words("node=echo", "host-0", "parameters={}")).await;
    let late = user.data(&[&words("node=hang", "host-0", &hang)[..], &["--timeout", "2s"]].concat()).await;
    assert_eq!((&late["status"], &late["executions"][0]["error"]["code"]), (&json!("failed"), &json!("timed_out")), "{late}");
    assert!(!pids(&file).await.iter().any(is_alive));

    // An agent that is killed meanwhile: told truthfully, and tried again only where the job says so.
    let mut ids = Vec::new();
    for retry in ["1", "2"] {
        let job = user.data(&[&submit[..], &["--retry", retry]].concat()).await;
        ids.push((text_of(&job["id"]).to_owned(), pids(&file).await));
    }
    drop(user);
    fleet.agents[0].kill_and_restart().await;
    let user = User::of(&fleet);
    let lost = user.data(&["job", "wait", &ids[0].0]).await;
    assert_eq!((&lost["status"], &lost["executions"][0]["error"]["code"]), (&json!("failed"), &json!("interrupted")), "{lost}");
    let again = pids(&file).await;
    eventually("the end of what the killed agent ran", PATIENCE, async || {
        (!ids.iter().flat_map(|(_, pids)| pids).any(is_alive)).then_some(())
    })
    .await;
    assert!(again.iter().all(is_alive));
    user.types(&["job", "cancel", &ids[1].0]).await;
    let second = user.data(&["job", "wait", &ids[1].0]).await;
    assert_eq!((&second["status"], &second["executions"][0]["attempts"]), (&json!("cancelled"), &json!(2)), "{second}");
    assert!(!again.iter().any(is_alive));

    let removed = user.types(&["package", "uninstall", "test.pkg", "--packages-dir", package.packages.to_str().unwrap()]).await;
    assert_eq!(removed.status.code(), Some(0), "{}", text(&removed.stderr));
    announced(&user, &[]).await;
    let refused = user.types(&words("node=echo", "_any", "parameters={}")).await;
    assert!(text(&refused.stderr).contains("no agent or worker that is ready has the node echo"), "{}", text(&refused.stderr));
}

#[tokio::test]
async fn an_agents_python_is_the_one_that_is_set() {
    let fleet = Fleet::start(0).await;
    let python = fleet.dir.path().join("python-of-ours");
    std::fs::write(&python, "#!/bin/sh\necho \"a python of ours\" >&2\nexit 3\n").unwrap();
    std::fs::set_permissions(&python, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let settings = fleet.dir.path().join("settings.yaml");
    let packages = fleet.dir.path().join("elsewhere");
    let yaml = format!("agent:\n  packages:\n    dir: {}\n    python: {}\n", packages.display(), python.display());
    std::fs::write(&settings, yaml).unwrap();
    let mut fleet = fleet;
    fleet.add_agent(&["--config", settings.to_str().unwrap()]).await;
    let user = User::of(&fleet);
    let package = Package { packages, ..Package::of(&fleet, 0) };
    package.install(&user, "1.0.0", HANDLERS).await;
    announced(&user, &["test.pkg@1.0.0"]).await;
    let failed = user.data(&words("node=echo", "host-0", "parameters={}")).await;
    let error = &failed["executions"][0]["error"];
    assert_eq!(error["code"], "host_fault", "{failed}");
    assert!(text_of(&error["message"]).contains("a python of ours"), "{failed}");
}
