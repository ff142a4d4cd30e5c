//! `longshore run`: a command, and a directory that is uploaded, built and brought back.

use std::path::Path;
use std::process::Output;

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
