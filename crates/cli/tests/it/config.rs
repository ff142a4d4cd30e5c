//! Settings as a user meets them.

use serde_json::Value;

use crate::cli::{Ran, longshore, run};

struct Home(tempfile::TempDir);

impl Home {
    fn with(yaml: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("config/longshore")).unwrap();
        std::fs::write(home.path().join("config/longshore/longshore.yaml"), yaml).unwrap();
        Self(home)
    }

    fn run(&self, args: &[&str], variables: &[(&str, &str)]) -> Ran {
        run(longshore(self.0.path(), args).envs(variables.iter().copied()))
    }
}

#[test]
fn show_has_the_effective_values_with_their_origins() {
    let home = Home::with("agent:\n  max_jobs: 3\nnats: {kv: {ttl: 2h}}\n");
    let ran = home.run(&["config", "show", "--origin", "-o", "jsonl"], &[("LONGSHORE_NATS__KV__TTL", "3h")]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let row = |key: &str| -> Value {
        let rows = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.into_iter().find(|row| row["key"] == key).unwrap()
    };
    assert_eq!(row("agent.max_jobs")["value"], 3);
    assert!(row("agent.max_jobs")["origin"].as_str().unwrap().ends_with("longshore.yaml:2"));
    assert_eq!((&row("nats.kv.ttl")["value"], &row("nats.kv.ttl")["origin"]), (&"3h".into(), &"env LONGSHORE_NATS__KV__TTL".into()));
    assert_eq!(row("nats.stream.name")["origin"], "default");
}

#[test]
fn settings_of_a_worker_are_shown_with_the_spelling_and_the_source_that_stand() {
    let home = Home::with("");
    std::fs::create_dir(home.0.path().join("config")).ok();
    std::fs::write(home.0.path().join("config/worker.yaml"), "worker_name: usual\nwrker_version: x\n").unwrap();
    std::fs::write(home.0.path().join(".env"), "ASTRA_WORKER_WORKER_NAME=lower\nASTRA_WORKER_TENANT=blue\n").unwrap();
    let variables = [
        ("ASTRA_WORKER_HANDLER_DISPATCH_QUEUE_MAX", "1"),
        ("ASTRA_WORKER_DISPATCH_QUEUE_MAX", "2"),
        ("ASTRA_WORKER_AUTH_TOKEN", "nobody-may-see"),
        ("ASTRA_PACKAGES_ROOT", "/srv/packages"),
    ];
    let shown = |words: &[&str]| {
        let words = [&["config", "show", "--worker"], words].concat();
        run(longshore(home.0.path(), &words).current_dir(home.0.path()).envs(variables))
    };
    let ran = shown(&["--origin", "-o", "jsonl"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("wrker_version in ") && ran.stderr.contains("worker_version is one"), "{}", ran.stderr);
    let rows: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (key, value, origin) in [
        ("dispatch_queue_max", Value::from(1), "ASTRA_WORKER_HANDLER_DISPATCH_QUEUE_MAX in the environment"),
        ("worker_name", "usual".into(), "worker_name in ./config/worker.yaml"),
        ("tenant", "blue".into(), "ASTRA_WORKER_TENANT in .env"),
        ("auth_token", "***".into(), "ASTRA_WORKER_AUTH_TOKEN in the environment"),
        ("packages_dir", "/srv/packages".into(), "ASTRA_PACKAGES_ROOT in the environment"),
        ("session_window_size", 64.into(), "default"),
        ("tls_ca_file", Value::Null, "default"),
    ] {
        let row = rows.iter().find(|row| row["key"] == key).unwrap();
        assert_eq!((&row["value"], row["origin"].as_str()), (&value, Some(origin)), "{key}");
    }
    let document: Value = serde_json::from_str(&shown(&["-o", "json"]).stdout).unwrap();
    assert_eq!((&document["worker_name"], &document["dispatch_queue_overflow"]), (&"usual".into(), &"block".into()));
    let table = shown(&["--origin"]);
    assert!(table.stdout.contains("ORIGIN") && table.stdout.contains("in .env"), "{}", table.stdout);
    assert!(!format!("{}{}{}{document}", table.stdout, table.stderr, ran.stdout).contains("nobody-may-see"));
}

#[test]
fn what_show_prints_as_yaml_is_a_settings_file() {
    let home = Home::with("agent: {max_jobs: 3, hostname: 'größe: x'}\n");
    let shown = home.run(&["config", "show", "-o", "yaml"], &[]).stdout;
    let other = Home::with(&shown);
    let ran = other.run(&["config", "show", "-o", "yaml"], &[]);
    assert_eq!((ran.code, ran.stdout), (Some(0), shown), "{}", ran.stderr);
}

#[test]
fn an_unknown_key_is_an_error_with_its_place_and_a_suggestion() {
    let home = Home::with("nats:\n  ulr: nats://x\n");
    for args in [&["config", "check"][..], &["config", "show"], &["job", "list"], &["agent", "start"]] {
        let ran = home.run(args, &[]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(10), ""), "{args:?}");
        for part in ["`nats.ulr`", "longshore.yaml:2", "did you mean `nats.url`?"] {
            assert!(ran.stderr.contains(part), "{part} in {}", ran.stderr);
        }
    }
}

#[test]
fn secrets_never_print() {
    let home = Home::with("nats: {auth: {type: token, token: {file: /run/secret-place}}}\n");
    for args in [
        &["config", "show"][..],
        &["config", "show", "--origin", "-o", "json"],
        &["config", "explain", "nats.auth.token"],
        &["config", "show", "-o", "yaml"],
    ] {
        let ran = home.run(args, &[]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(ran.stdout.contains("***") && !ran.stdout.contains("secret-place"), "{args:?}: {}", ran.stdout);
    }
    let ran = Home::with("nats: {auth: {token: hunter2}}\n").run(&["config", "check"], &[]);
    assert_eq!(ran.code, Some(10));
    assert!(ran.stderr.contains("{file: PATH}") && !ran.stderr.contains("hunter2"), "{}", ran.stderr);
}

#[test]
fn credentials_in_the_brokers_address_never_print() {
    let home = Home::with("nats: {url: 'nats://me:hunter2@h:4222'}\n");
    for args in [
        &["config", "show"][..],
        &["config", "show", "-o", "yaml"],
        &["config", "show", "--origin", "-o", "json"],
        &["config", "explain", "nats.url"],
        &["explain", "nats.url", "-o", "json"],
    ] {
        let ran = home.run(args, &[("LONGSHORE_NATS__URL", "nats://me:hunter2@g:4222")]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(ran.stdout.contains("nats://g:4222") && !ran.stdout.contains("hunter2"), "{args:?}: {}", ran.stdout);
    }
}

#[test]
fn a_value_out_of_its_bounds_is_refused_by_check_and_by_what_would_use_it() {
    let home = Home::with("nats:\n  registry: {ttl: 0s}\n");
    for args in [&["config", "check"][..], &["agent", "start"], &["job", "list"]] {
        let ran = home.run(args, &[]);
        assert_eq!(ran.code, Some(10), "{args:?}");
        assert!(ran.stderr.contains("`nats.registry.ttl`") && ran.stderr.contains("longshore.yaml:2"), "{}", ran.stderr);
    }
    let ran = home.run(&["config", "check"], &[("LONGSHORE_NATS__REGISTRY__TTL", "30s"), ("LONGSHORE_AGENT__MAX_JOBS", "0")]);
    assert!(ran.stderr.contains("`agent.max_jobs`") && ran.stderr.contains("1 to 10000"), "{}", ran.stderr);
}

#[test]
fn each_layer_wins_over_the_ones_before_it() {
    let home = Home::with("agent: {max_jobs: 2}\n");
    let file = |name: &str, content: &str| {
        let path = home.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let (config, env_file) = (file("config.yaml", "agent: {max_jobs: 3}\n"), file("env", "LONGSHORE_AGENT__MAX_JOBS=4\n"));
    let in_force = |words: &[&str], variables: &[(&str, &str)]| -> (Value, String) {
        let ran = home.run(&[words, &["config", "show", "--origin", "-o", "jsonl"]].concat(), variables);
        let rows = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let row = rows.into_iter().find(|row| row["key"] == "agent.max_jobs").unwrap_or_else(|| panic!("{}", ran.stderr));
        (row["value"].clone(), row["origin"].as_str().unwrap().to_owned())
    };
    let (files, all) = (["--config", config.as_str()], ["--config", config.as_str(), "--env-file", env_file.as_str()]);
    let (environment, other) = ([("LONGSHORE_AGENT__MAX_JOBS", "5")], [("LONGSHORE_AGENT__HOSTNAME", "x")]);
    for (words, variables, value, origin) in [
        (&[][..], &other[..], 2, "longshore.yaml:1"),
        (&files[..], &other, 3, "config.yaml:1"),
        (&all, &other, 4, "env:1"),
        (&all, &environment, 5, "env LONGSHORE_AGENT__MAX_JOBS"),
    ] {
        let (found, from) = in_force(words, variables);
        assert!(found == value && from.ends_with(origin), "{value}: {found} {from}");
    }
}

#[test]
fn the_older_spelling_is_read_and_both_at_once_are_an_error_that_names_both() {
    let home = Home::with("job: {worker: {max_jobs: 3, queue_group: crew, hostname: harbor, labels: {group: web}}}\n");
    let ran = home.run(&["config", "show"], &[]);
    for part in ["3", "crew", "harbor", "web"] {
        assert!(ran.stdout.contains(part), "{part}: {} {}", ran.stdout, ran.stderr);
    }
    let ran = home.run(&["config", "check"], &[("LONGSHORE_AGENT__MAX_JOBS", "4")]);
    assert_eq!(ran.code, Some(10));
    assert!(ran.stderr.contains("`job.worker.max_jobs`") && ran.stderr.contains("`agent.max_jobs`"), "{}", ran.stderr);
    assert!(ran.stderr.contains("longshore.yaml:1") && ran.stderr.contains("LONGSHORE_AGENT__MAX_JOBS"), "{}", ran.stderr);
}

#[test]
fn explain_shows_every_layer_and_which_is_in_force() {
    let home = Home::with("agent: {max_jobs: 3}\n");
    let ran = home.run(&["config", "explain", "agent.max_jobs"], &[("LONGSHORE_AGENT__MAX_JOBS", "4")]);
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines[0], "agent.max_jobs = 4");
    assert!(lines[2].contains("default") && lines[2].ends_with("10"), "{}", ran.stdout);
    assert!(lines[3].contains("longshore.yaml:1") && lines[4].ends_with("4   <- in force"), "{}", ran.stdout);
    assert_eq!(home.run(&["config", "explain", "agent.maxjobs"], &[]).code, Some(3));
}

#[test]
fn check_and_schema_work_without_any_file() {
    let home = tempfile::tempdir().unwrap();
    let ran = run(&mut longshore(home.path(), &["config", "check"]));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let ran = run(&mut longshore(home.path(), &["config", "schema"]));
    let schema: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(schema["properties"]["nats"]["additionalProperties"], false);
    let ran = run(&mut longshore(home.path(), &["--config", "/does/not/exist.yaml", "config", "check"]));
    assert_eq!(ran.code, Some(2));
}

#[test]
fn a_configured_role_is_signed_into_tokens_and_told_of_them() {
    let home = Home::with("controller: {api: {security: {roles: {ops: {permissions: [node:read, job:read]}}}}}\n");
    let data = home.0.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("signing.key"), "k".repeat(32)).unwrap();
    let data = data.to_str().unwrap();
    let generate = |more: &[&str]| home.run(&[&["token", "generate", "ci", "--role", "ops", "--data", data], more].concat(), &[]);
    assert_eq!(generate(&["--permission", "job:write"]).code, Some(2), "a role grants what it lists");
    let token = home.0.path().join("token");
    std::fs::write(&token, generate(&["--target", "group:web", "--expires-in", "1h"]).stdout).unwrap();
    let said = home.run(&["token", "validate", token.to_str().unwrap(), "--data", data, "-o", "json"], &[]);
    let said: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((&said["subject"], &said["roles"][0], &said["targets"][0]), (&"ci".into(), &"ops".into(), &"group:web".into()));
    assert!(said["expires_at"].is_string());

    std::fs::write(&token, "eyJhbGciOiJub25lIn0.e30.").unwrap();
    let forged = home.run(&["token", "validate", token.to_str().unwrap(), "--data", data], &[]);
    assert!(forged.code == Some(1) && !forged.stderr.contains("eyJ"), "{}", forged.stderr);
    let taken = Home::with("controller: {api: {security: {roles: {admin: {permissions: [job:read]}}}}}\n").run(&["config", "check"], &[]);
    assert!(taken.code != Some(0) && taken.stderr.contains("controller.api.security.roles"), "{}", taken.stderr);
}

#[test]
fn origins_and_keys_of_tokens_are_checked_where_they_are_written() {
    for (origins, is_sound) in
        [("['https://ops.example']", true), ("['*']", true), ("[]", true), ("['https://ops.example/']", false), ("['null']", false)]
    {
        let ran = Home::with(&format!("controller:\n  api: {{security: {{cors: {{allow_origins: {origins}}}}}}}\n"))
            .run(&["config", "check"], &[]);
        assert_eq!(ran.code, Some(if is_sound { 0 } else { 10 }), "{origins}: {}", ran.stderr);
        assert!(is_sound || ran.stderr.contains("controller.api.security.cors.allow_origins"), "{}", ran.stderr);
    }
    let home = Home::with("");
    let ran = home.run(
        &["config", "show", "-o", "json"],
        &[("LONGSHORE_CONTROLLER__API__SECURITY__CORS__ALLOW_ORIGINS", "['https://a.example', 'https://b.example']")],
    );
    let shown: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(shown["controller"]["api"]["security"]["cors"]["allow_origins"][1], "https://b.example", "{}", ran.stderr);
    let ran = Home::with("controller: {api: {security: {verify_keys: [{fil: /x}]}}}\n").run(&["config", "check"], &[]);
    assert!(ran.code == Some(10) && ran.stderr.contains("controller.api.security.verify_keys"), "{}", ran.stderr);
}
