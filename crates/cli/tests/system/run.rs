//! `longshore run`: a command, and a directory that is uploaded, built and brought back.

use std::path::Path;
use std::process::Output;

use longshore_testkit::{NatsOptions, NatsServer};

use crate::fleet::{Fleet, longshore};

/// A user in a directory of her own, with the fleet's token.
pub(crate) struct User<'a> {
    fleet: &'a Fleet,
    dir: tempfile::TempDir,
}

impl<'a> User<'a> {
    pub(crate) fn of(fleet: &'a Fleet) -> Self {
        Self { fleet, dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) async fn types(&self, words: &[&str]) -> Output {
        let (url, token_file) = (self.fleet.controller.said("url"), self.fleet.controller.said("token_file"));
        let flags = ["--url", &url, "--token-file", &token_file];
        let words: Vec<&str> = flags.into_iter().chain(words.iter().copied()).collect();
        let mut command = longshore(self.fleet.dir.path(), &words);
        command.current_dir(self.dir.path());
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
    }

    async fn runs(&self, words: &[&str]) -> Output {
        self.types(&[&["run"], words].concat()).await
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn a_command_runs_with_its_output_and_its_exit_status() {
    let fleet = Fleet::start(1).await;
    let user = User::of(&fleet);
    let echo = user.runs(&["--", "echo", "hello"]).await;
    assert_eq!((echo.status.code(), text(&echo.stdout).as_str()), (Some(0), "hello\n"), "{}", text(&echo.stderr));
    let failing = user.runs(&["--", "sh", "-c", "echo out; echo err >&2; exit 7"]).await;
    assert_eq!((failing.status.code(), text(&failing.stdout).as_str()), (Some(7), "out\n"));
    assert!(text(&failing.stderr).contains("err\n"));
    let missing = user.runs(&["--", "no-such-program-anywhere"]).await;
    assert_eq!(missing.status.code(), Some(127), "{}", text(&missing.stderr));
}

#[tokio::test]
async fn a_directory_is_uploaded_built_and_its_results_come_back() {
    let fleet = Fleet::start(1).await;
    let user = User::of(&fleet);
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/hello-c");
    let built = user.runs(&[example.to_str().unwrap(), "--", "make", "./hello > greeting.txt"]).await;
    assert_eq!(built.status.code(), Some(0), "{}\n{}", text(&built.stdout), text(&built.stderr));
    let results = user.dir.path().join("results");
    let greeting = std::fs::read_to_string(results.join("greeting.txt")).unwrap();
    let said = std::process::Command::new(results.join("hello")).output().unwrap();
    assert_eq!(greeting, text(&said.stdout), "the program came back and runs");
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(results.join("result.json")).unwrap()).unwrap();
    assert_eq!((&manifest["status"], manifest["steps"].as_array().map(Vec::len)), (&"success".into(), Some(2)));
    // The same directory again is not sent again, and an edited file arrives with its new content.
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("note.txt"), "old").unwrap();
    let edited = user.runs(&[source.path().to_str().unwrap(), "--", "echo new > note.txt; touch fresh"]).await;
    assert_eq!(edited.status.code(), Some(0), "{}", text(&edited.stderr));
    assert_eq!(std::fs::read_to_string(results.join("note.txt")).unwrap(), "new\n");
    let failing = user.runs(&[source.path().to_str().unwrap(), "--", "echo kept > kept.txt; exit 3", "touch never"]).await;
    assert_eq!(failing.status.code(), Some(3), "{}", text(&failing.stderr));
    assert!(
        results.join("kept.txt").exists() && !results.join("never").exists(),
        "results come back after a failed step, and no later step runs"
    );
}

#[tokio::test]
async fn odd_directories_are_run_in_and_what_cannot_be_used_is_refused_before_anything_is_sent() {
    let fleet = Fleet::start(1).await;
    let user = User::of(&fleet);
    let place = user.dir.path();
    std::fs::create_dir(place.join("empty")).unwrap();
    std::fs::create_dir(place.join("odd")).unwrap();
    let name = "line\nbreak \u{1b}[2J \u{202e} \u{e9}";
    std::fs::write(place.join("odd").join(name), "x").unwrap();
    std::os::unix::fs::symlink("odd", place.join("link")).unwrap();
    std::fs::write(place.join("file"), "x").unwrap();

    for (words, why) in [
        (&["missing", "--", "true"][..], "missing cannot be uploaded"),
        (&["file", "--", "true"], "it is not a directory"),
        (&["empty", "--out", "file", "--", "true"], "file is not a directory"),
        (&["empty", "--out", "file/below", "--", "true"], "file is not a directory"),
    ] {
        let refused = user.runs(words).await;
        assert!(refused.status.code() == Some(125) && text(&refused.stderr).contains(why), "{words:?}: {}", text(&refused.stderr));
    }
    let listed = user.data(&["job", "list"]).await;
    assert_eq!(listed["items"], serde_json::json!([]), "nothing was sent");

    let empty = user.runs(&["empty", "--out", "of-empty", "--", "ls -A"]).await;
    assert_eq!((empty.status.code(), text(&empty.stdout).as_str()), (Some(0), ""), "{}", text(&empty.stderr));
    assert!(place.join("of-empty/result.json").exists());
    let odd = user.runs(&["link", "--out", "of-odd", "--", "for f in *; do echo y >> \"$f\"; done"]).await;
    assert_eq!(odd.status.code(), Some(0), "{}", text(&odd.stderr));
    assert_eq!(std::fs::read_to_string(place.join("of-odd").join(name)).unwrap(), "xy\n");
    assert!(!text(&odd.stderr).contains(['\u{1b}', '\u{202e}']), "names steer no terminal: {:?}", text(&odd.stderr));

    // What is stored already is not sent again: then it would be stored under another number.
    let pieces = async || {
        let all = fleet.nats.stored_subjects().await.into_iter().map(|(_, subject)| subject);
        all.filter(|subject| subject.starts_with("$O.objects.C.")).collect::<std::collections::BTreeSet<_>>()
    };
    let before = pieces().await;
    let again = user.runs(&["odd", "--out", "of-odd", "--", "true"]).await;
    assert_eq!(again.status.code(), Some(0), "{}", text(&again.stderr));
    assert!(!before.is_empty() && before.is_subset(&pieces().await));

    // Nobody followed it; its results are there all the same.
    let detached = user.runs(&["odd", "--detach", "--", "echo made > made"]).await;
    let id = text(&detached.stdout).trim().to_owned();
    assert_eq!(user.types(&["job", "wait", &id]).await.status.code(), Some(0));
    for _ in 0..2 {
        let fetched = user.types(&["job", "artifacts", &id, "--out", "fetched"]).await;
        assert_eq!(fetched.status.code(), Some(0), "{}", text(&fetched.stderr));
        assert_eq!(std::fs::read_to_string(place.join("fetched/made")).unwrap(), "made\n");
    }
    let refused = user.types(&["job", "artifacts", &id, "--out", "file"]).await;
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    let left: Vec<_> = std::fs::read_dir(place.join("fetched")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
}

#[tokio::test]
async fn errors_tell_what_to_do_and_exit_codes_tell_what_happened() {
    let fleet = Fleet::start(1).await;
    let user = User::of(&fleet);
    let unknown = user.types(&["job", "show", "j-00000000000000000000000009"]).await;
    assert_eq!(unknown.status.code(), Some(3), "{}", text(&unknown.stderr));
    let operation = user.types(&["job", "submit", "node.hostnam.get"]).await;
    assert!(text(&operation.stderr).contains("node.hostname.get"), "the nearest name is offered: {}", text(&operation.stderr));
    let nobody = user.types(&["job", "submit", "node.hostname.get", "--target", "hots-0"]).await;
    assert_eq!(nobody.status.code(), Some(11), "{}", text(&nobody.stderr));
    assert!(text(&nobody.stderr).contains("host-0"), "{}", text(&nobody.stderr));
    let listed = user.types(&["job", "list", "-o", "json"]).await;
    let list: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(list["items"], serde_json::json!([]), "what was refused was not stored");
    let usage = user.types(&["job", "explode"]).await;
    assert_eq!(usage.status.code(), Some(2));
}

#[tokio::test]
async fn nobody_there_is_said_with_the_address() {
    let home = tempfile::tempdir().unwrap();
    let mut command = longshore(home.path(), &["status", "--url", "http://127.0.0.1:9"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert!(matches!(output.status.code(), Some(3 | 5)), "{output:?}");
    assert!(text(&output.stderr).contains("127.0.0.1:9"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn a_directory_runs_on_several_hosts_and_the_results_of_each_are_kept_apart() {
    let mut fleet = Fleet::start(2).await;
    // Its name is none for a directory.
    fleet.add_worker("web 01").await;
    let user = User::of(&fleet);
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("note.txt"), "old").unwrap();
    let dir = source.path().to_str().unwrap();
    // A link in the way, as an earlier run's results may have left it, leads nowhere.
    let (results, outside) = (user.dir.path().join("results"), user.dir.path().join("outside"));
    std::fs::create_dir(&results).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, results.join("host-1")).unwrap();
    let script = "echo $LONGSHORE_HOSTNAME > note.txt; hostname > same.txt";
    let asked = user.runs(&["--target", "_all", dir, "--", script]).await;
    assert!(text(&asked.stderr).contains("--yes"), "{}", text(&asked.stderr));
    let ran = user.runs(&["--target", "_all", "--yes", dir, "--", script]).await;
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
    let mut places: Vec<String> =
        std::fs::read_dir(&results).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    places.sort();
    let odd = user.data(&["agent", "list"]).await["items"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|agent| agent["hostname"].as_str().unwrap().starts_with("web").then(|| agent["id"].as_str().unwrap().to_owned()));
    let mut expected = vec!["host-0".to_owned(), "host-1".to_owned(), odd.unwrap()];
    expected.sort();
    assert_eq!(places, expected, "{}", text(&ran.stderr));
    for place in &places {
        assert!(results.join(place).join("same.txt").exists() && results.join(place).join("result.json").exists(), "{place}");
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert!(text(&ran.stderr).contains("host-0/  2 files"), "{}", text(&ran.stderr));
    let id = user.data(&["job", "list", "--limit", "1"]).await["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(user.types(&["job", "delete", &id]).await.status.code(), Some(0));
    let left: Vec<_> = fleet.nats.stored_subjects().await.into_iter().filter(|(_, subject)| subject.starts_with("$O.objects.M.")).collect();
    assert!(left.is_empty(), "{left:?}");
    let one = user.runs(&["--target", "host-0", dir, "--out", "flat", "--", script]).await;
    assert_eq!(one.status.code(), Some(0), "{}", text(&one.stderr));
    assert!(user.dir.path().join("flat/same.txt").exists(), "of one host they are where they were");
}

#[tokio::test]
async fn what_is_left_out_is_what_was_asked_for_and_only_what_is_wanted_comes_back() {
    let fleet = Fleet::start(1).await;
    let user = User::of(&fleet);
    let source = tempfile::tempdir().unwrap();
    for (path, content) in [(".gitignore", "*.log\n"), ("a.log", ""), ("b.tmp", ""), ("kept", "")] {
        std::fs::write(source.path().join(path), content).unwrap();
    }
    let dir = source.path().to_str().unwrap();
    let script = "ls -A | sort | paste -sd ' '; mkdir -p out; echo 1 > out/x.bin; echo 2 > out/x.o; ln -s x.bin out/link; chmod 750 out/x.bin; rm kept";
    for (flags, there) in [
        (&[][..], ".gitignore a.log b.tmp kept\n"),
        (&["--gitignore"], ".gitignore b.tmp kept\n"),
        (&["--gitignore", "--exclude", "*.tmp"], ".gitignore kept\n"),
    ] {
        let ran = user.runs(&[flags, &["--artifacts", "out/*.bin", "--artifacts", "out/link", dir, "--", script]].concat()).await;
        assert_eq!((ran.status.code(), text(&ran.stdout).as_str()), (Some(0), there), "{}", text(&ran.stderr));
    }
    let out = user.dir.path().join("results/out");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(out.join("x.bin")).unwrap().permissions());
    assert_eq!((mode & 0o777, std::fs::read_link(out.join("link")).unwrap()), (0o750, "x.bin".into()));
    assert!(!out.join("x.o").exists());
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(user.dir.path().join("results/result.json")).unwrap()).unwrap();
    assert_eq!(manifest["files"]["deleted"].as_array().map(Vec::len), Some(1), "{manifest}");
}

#[tokio::test]
async fn large_directories_go_up_and_come_back_in_little_memory() {
    const MIB: u64 = 1024 * 1024;
    // Goes over the broker as next to nothing, and the noise as it is.
    const SPARSE: u64 = 300;
    // It is about memory, and a broker that waits for the disk at each piece would only make it long.
    let nats = NatsServer::start_with(NatsOptions { sync_always: false, ..NatsOptions::default() }).await;
    let mut fleet = Fleet::start_on(nats, 1).await;
    let (agent, controller) = (fleet.agents[0].process().pid(), fleet.controller.process().pid());
    let user = User::of(&fleet);
    let source = tempfile::tempdir().unwrap();
    std::fs::File::create(source.path().join("sparse")).unwrap().set_len(SPARSE * MIB).unwrap();
    let noise = std::process::Command::new("head").args(["-c", "260M", "/dev/urandom"]).output().unwrap().stdout;
    std::fs::write(source.path().join("noise"), &noise).unwrap();
    let began = std::time::Instant::now();
    let (url, token_file) = (fleet.controller.said("url"), fleet.controller.said("token_file"));
    let dir = source.path().to_str().unwrap();
    let words = ["--url", &url, "--token-file", &token_file, "run", dir, "--", "cp sparse sparse-2; cp noise noise-2"];
    let mut command = longshore(fleet.dir.path(), &words);
    command.current_dir(user.dir.path());
    let mut process = longshore_testkit::Process::spawn(command);
    let mut peak = 0;
    let status = loop {
        if !process.is_running() {
            break process.wait(crate::fleet::PATIENCE).await;
        }
        peak = peak.max(peak_mib(process.pid()).unwrap_or(0));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert!(status.success(), "{}", process.output());
    let (agent, controller) = (peak_mib(agent).unwrap(), peak_mib(controller).unwrap());
    println!("560 MiB up and down in {:?}; peaks in MiB: run {peak}, agent {agent}, controller {controller}", began.elapsed());
    let results = user.dir.path().join("results");
    assert!(std::fs::read(results.join("noise-2")).unwrap() == noise, "it differs");
    assert_eq!(std::fs::metadata(results.join("sparse-2")).unwrap().len(), SPARSE * MIB);
    assert!(peak < 128 && agent < 100 && controller < 100, "peaks in MiB: run {peak}, agent {agent}, controller {controller}");
}

pub(crate) fn peak_mib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib / 1024)
}
