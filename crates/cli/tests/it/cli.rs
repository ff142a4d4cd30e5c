//! Commands that need no controller, and what the others say without one.

use std::path::Path;
use std::process::{Command, Output};

/// The program with nothing of the caller's settings, its home below `home`.
pub(crate) fn longshore(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LONGSHORE_")) {
        command.env_remove(name);
    }
    command.env("HOME", home).env("XDG_CONFIG_HOME", home.join("config")).env("XDG_STATE_HOME", home.join("state")).args(args);
    command
}

pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn run(command: &mut Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().unwrap();
    Ran { code: status.code(), stdout: String::from_utf8(stdout).unwrap(), stderr: String::from_utf8(stderr).unwrap() }
}

fn plain(args: &[&str]) -> Ran {
    let home = tempfile::tempdir().unwrap();
    run(&mut longshore(home.path(), args))
}

#[test]
fn version_is_data_on_standard_output() {
    let ran = plain(&["version"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), concat!("longshore ", env!("CARGO_PKG_VERSION"), "\n"), ""));
    let ran = plain(&["version", "-o", "json"]);
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn completions_exist_for_three_shells_and_hide_what_is_hidden() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = plain(&["completion", shell]);
        assert_eq!(ran.code, Some(0), "{shell}");
        assert!(ran.stdout.contains("longshore") && ran.stdout.contains("operation"), "{shell}");
        assert!(!ran.stdout.contains("__supervise") && !ran.stdout.contains("__broker"), "{shell}");
    }
    assert_eq!(plain(&["completion", "tcsh"]).code, Some(2));
}

#[test]
fn codes_settings_and_exit_codes_are_explained_offline() {
    for what in ["no_agent", "unreachable", "nats.kv.ttl", "exit-codes"] {
        let ran = plain(&["explain", what]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{what}");
        assert!(ran.stdout.len() > 60, "{what}");
    }
    let ran = plain(&["explain", "no_agnet"]);
    assert_eq!(ran.code, Some(3));
    assert!(ran.stderr.contains("did you mean `no_agent`?"), "{}", ran.stderr);
}

#[test]
fn without_a_controller_each_command_says_what_to_do() {
    let ran = plain(&["job", "list"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(5), ""));
    assert!(ran.stderr.starts_with("error: no controller is known\n") && ran.stderr.contains("longshore start"), "{}", ran.stderr);
    assert_eq!(plain(&["status"]).code, Some(3));
    assert_eq!(plain(&["run", "--", "true"]).code, Some(125));
}

#[test]
fn a_controller_that_does_not_answer_is_named() {
    // Nobody listens on the port of a listener that is closed.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let ran = plain(&["--url", &url, "operation", "list"]);
    assert_eq!(ran.code, Some(5));
    assert!(ran.stderr.contains(&url) && ran.stderr.contains("refused") && ran.stderr.contains("code:  unreachable"), "{}", ran.stderr);

    let ran = plain(&["--url", &url, "operation", "list", "-o", "json"]);
    let document: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!((document["code"].as_str(), ran.stdout.as_str()), (Some("unreachable"), ""));
}

#[test]
fn wrong_usage_is_2_and_a_bad_id_never_leaves_the_host() {
    for line in [&["job"][..], &["job", "submit"], &["run"], &["--nope"], &["job", "list", "-o", "xml"], &["job", "list", "--limit", "0"]] {
        assert_eq!(plain(line).code, Some(2), "{line:?}");
    }
    for id in ["../x", "j-*", "j->", "x"] {
        let ran = plain(&["--url", "http://127.0.0.1:9", "job", "show", id]);
        assert_eq!(ran.code, Some(2), "{id}: {}", ran.stderr);
    }
}

#[test]
fn colours_follow_the_flag_and_the_environment() {
    let home = tempfile::tempdir().unwrap();
    let has_colour = |command: &mut Command| run(command).stderr.contains('\u{1b}');
    assert!(!has_colour(&mut longshore(home.path(), &["job", "list"])));
    assert!(has_colour(&mut longshore(home.path(), &["--color", "always", "job", "list"])));
    assert!(has_colour(longshore(home.path(), &["job", "list"]).env("CLICOLOR_FORCE", "1")));
    assert!(!has_colour(longshore(home.path(), &["--color", "never", "job", "list"]).env("CLICOLOR_FORCE", "1")));
}

#[test]
fn contexts_are_listed_used_and_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("config/longshore");
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("contexts.yaml");
    std::fs::write(&file, "current: a\ncontexts:\n  a: {url: 'http://127.0.0.1:1'}\n  b: {url: 'http://127.0.0.1:2'}\n").unwrap();
    assert_eq!(run(&mut longshore(home.path(), &["context", "list", "-o", "name"])).stdout, "a\nb\n");
    assert_eq!(run(&mut longshore(home.path(), &["context", "use", "b"])).code, Some(0));
    let ran = run(&mut longshore(home.path(), &["context", "list", "-o", "json"]));
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&document["items"][0]["current"], &document["items"][1]["current"]), (&false.into(), &true.into()));
    let ran = run(&mut longshore(home.path(), &["context", "use", "c"]));
    assert_eq!(ran.code, Some(3));
    assert!(ran.stderr.contains("there is: a, b"), "{}", ran.stderr);
    let ran = run(longshore(home.path(), &["job", "list"]).env("LONGSHORE_CONTEXT", "a"));
    assert!(ran.stderr.contains("http://127.0.0.1:1"), "{}", ran.stderr);
}

#[test]
fn a_controller_is_given_a_name_that_commands_go_by() {
    let home = tempfile::tempdir().unwrap();
    let token = home.path().join("token");
    std::fs::write(&token, "x.y.z").unwrap();
    let add = |words: &[&str]| run(longshore(home.path(), &[&["context", "add"], words].concat()).current_dir(home.path()));
    for (words, part) in [
        (&["prod"][..], "needs an address"),
        (&["prod", "--url", "nowhere"], "not a URL"),
        (&["../x", "--url", "http://127.0.0.1:1"], "no name for a context"),
        (&["prod", "--url", "http://127.0.0.1:1", "--token-file", "missing"], "cannot be read"),
    ] {
        let ran = add(words);
        assert!(ran.code == Some(2) && ran.stderr.contains(part), "{words:?}: {:?} {}", ran.code, ran.stderr);
    }
    let ran = add(&["prod", "--url", "http://127.0.0.1:1", "--token-file", "token"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), "context `prod` is for http://127.0.0.1:1, and is current\n"));
    assert_eq!(add(&["test", "--url", "http://127.0.0.1:2"]).stderr, "context `test` is for http://127.0.0.1:2\n");
    let taken = add(&["test", "--url", "http://127.0.0.1:3"]);
    assert!(taken.code == Some(1) && taken.stderr.contains("--force"), "{}", taken.stderr);
    assert_eq!(add(&["test", "--url", "http://127.0.0.1:3", "--force", "--use"]).code, Some(0));
    let ran = run(&mut longshore(home.path(), &["context", "list", "-o", "json"]));
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let items = &document["items"];
    assert_eq!((&items[0]["name"], &items[0]["token_file"]), (&"prod".into(), &token.to_str().unwrap().into()), "found from everywhere");
    assert_eq!((&items[1]["url"], &items[1]["current"]), (&"http://127.0.0.1:3".into(), &true.into()));
    assert!(run(&mut longshore(home.path(), &["job", "list"])).stderr.contains("http://127.0.0.1:3 "));
}

#[test]
fn tokens_need_a_signing_key_and_a_known_role() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let data = data.to_str().unwrap();
    assert_eq!(run(&mut longshore(home.path(), &["token", "generate", "ci", "--data", data])).code, Some(3));
    std::fs::create_dir_all(data).unwrap();
    std::fs::write(format!("{data}/signing.key"), "0123456789abcdef0123456789abcdef").unwrap();
    let ran = run(&mut longshore(home.path(), &["token", "generate", "ci", "--data", data]));
    assert_eq!((ran.code, ran.stdout.trim().split('.').count()), (Some(0), 3), "{}", ran.stderr);
    assert_eq!(run(&mut longshore(home.path(), &["token", "generate", "ci", "--role", "root", "--data", data])).code, Some(2));
}

#[test]
fn a_token_that_could_do_nothing_is_not_signed() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let data = data.to_str().unwrap();
    std::fs::create_dir_all(data).unwrap();
    std::fs::write(format!("{data}/signing.key"), "0123456789abcdef0123456789abcdef").unwrap();
    let generate = |more: &[&str]| run(&mut longshore(home.path(), &[&["token", "generate", "ci", "--data", data], more].concat()));
    let ran = generate(&["--permission", "job:raed"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    assert!(ran.stderr.contains("did you mean `job:read`?"), "{}", ran.stderr);
    let ran = generate(&["--role", "admin", "--permission", "job:raed"]);
    assert_eq!(ran.code, Some(2), "no role has it: {}", ran.stderr);
    let ran = generate(&["--permission", "command:execute"]);
    assert_eq!(ran.code, Some(2), "it is not part of `read`");
    assert!(ran.stderr.contains("--role admin --permission command:execute"), "{}", ran.stderr);
    for permission in ["job:read", "network:write", "command:execute", "workspace:execute"] {
        assert_eq!(generate(&["--role", "admin", "--permission", permission]).code, Some(0), "{permission}");
    }
}

#[test]
fn a_command_without_the_dashes_is_answered_with_where_they_go() {
    for line in [&["run", "uname", "-a"][..], &["run", "uname"], &["run", "sh", "-c", "a b"]] {
        let ran = plain(line);
        let words = line[1..].iter().map(|word| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() });
        let tip = format!("tip: put `--` before the command: longshore run -- {}\n", words.collect::<Vec<_>>().join(" "));
        assert_eq!(ran.code, Some(2));
        assert!(ran.stderr.contains(&tip) && ran.stderr.matches("tip:").count() == 1, "{}", ran.stderr);
    }
    assert!(plain(&["run", "/tmp"]).stderr.contains("longshore run /tmp -- make"));
}

#[test]
fn exit_codes_are_data_too() {
    let ran = plain(&["-o", "json", "explain", "6"]);
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&document["exit_code"], ran.code), (&6.into(), Some(0)));
    let ran = plain(&["-o", "json", "explain", "exit-codes"]);
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(document["items"][6]["meaning"], "a waited-for job failed for good");
    assert!(plain(&["explain", "77"]).stdout.contains("the command's own status"));
}

#[test]
fn a_context_that_something_outranks_says_so() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("config/longshore");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("contexts.yaml"), "current: a\ncontexts:\n  a: {url: 'http://127.0.0.1:1', token_file: /x}\n").unwrap();
    let ran = run(&mut longshore(home.path(), &["config", "show", "--origin"]));
    let line = |ran: &Ran, key: &str| ran.stdout.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
    assert!(line(&ran, "controller.client.url ").ends_with("context a"), "{}", ran.stdout);
    let token = line(&ran, "controller.client.security.bearer_token ");
    assert!(token.contains(" *** ") && token.ends_with("context a"), "{}", ran.stdout);
    assert_eq!(run(&mut longshore(home.path(), &["context", "use", "a"])).stderr, "context `a` is now current\n");

    std::fs::write(dir.join("longshore.yaml"), "controller: {client: {url: 'http://127.0.0.1:2'}}\n").unwrap();
    let ran = run(&mut longshore(home.path(), &["context", "use", "a"]));
    assert!(ran.stderr.contains("commands go to http://127.0.0.1:2") && ran.stderr.contains("longshore.yaml:1"), "{}", ran.stderr);
    let ran = run(longshore(home.path(), &["job", "list"]).env("LONGSHORE_CONTEXT", "nope"));
    assert_eq!(ran.code, Some(3), "{}", ran.stderr);

    let env_file = home.path().join("env");
    std::fs::write(&env_file, "LONGSHORE_URL=http://127.0.0.1:3\n").unwrap();
    let words = ["--env-file", env_file.to_str().unwrap(), "job", "list"];
    assert!(run(&mut longshore(home.path(), &words)).stderr.contains("http://127.0.0.1:3 "));
    let ran = run(longshore(home.path(), &words).env("LONGSHORE_URL", "http://127.0.0.1:4"));
    assert!(ran.stderr.contains("http://127.0.0.1:4 "), "the process's own wins: {}", ran.stderr);
}

#[test]
fn the_doctor_says_what_is_used_and_why_the_rest_is_not() {
    let ran = plain(&["agent", "doctor", "-o", "json"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let facilities = document["facilities"].as_array().unwrap();
    assert!(facilities.iter().all(|facility| facility["used"].is_boolean() && !facility["why"].as_str().unwrap().is_empty()));
    let supervisor = facilities.iter().find(|facility| facility["name"] == "supervisor").unwrap();
    assert_eq!(supervisor["used"], true, "{supervisor}");
    let table = plain(&["agent", "doctor"]).stdout;
    assert!(table.starts_with("FACILITY") && table.lines().count() == 1 + facilities.len(), "{table}");
}
