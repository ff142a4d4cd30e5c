//! What is said on the command line and in the environment, and how the program ends.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use longshore_testkit::credentials::Operator;
use longshore_testkit::{NatsOptions, NatsServer, Process, eventually};
use serde_json::{Value, json};

use super::{PATIENCE, Place};
use crate::fleet::longshore;

#[tokio::test]
async fn every_flag_of_a_worker_and_every_variable_has_its_effect() {
    let place = Place::new().await;
    let made = json!({ "name": "OUT", "subjects": ["out.>"], "num_replicas": 1 });
    place.nats.ask("$JS.API.STREAM.CREATE.OUT", &made).await;
    let dir = |name: &str| place.file(name).display().to_string();
    for (way, by_flag) in [("flag", true), ("variable", false)] {
        let said = [
            ("-u", "NATS_URL", place.nats.url()),
            ("-i", "WORKER_ID", format!("pool-{way}")),
            ("-j", "NATS_JOBS_DIR", dir(&format!("jobs-{way}"))),
            ("-w", "NATS_WORKSPACES_DIR", dir(&format!("work-{way}"))),
            ("-s", "NATS_STREAM", format!("S-{way}")),
            ("-k", "NATS_INPUT_SUBJECT", format!("in.{way}")),
            ("-r", "NATS_OUTPUT_SUBJECT", format!("out.{way}")),
            ("-o", "JOB_TIMEOUT", "5".to_owned()),
        ];
        let mut command = longshore(place.home.path(), &["workspace", "worker"]);
        for (flag, variable, value) in &said {
            if by_flag {
                command.args([flag, value.as_str()]);
            } else {
                command.env(variable, value);
            }
        }
        let source = place.file(&format!("jobs-{way}")).join("x");
        fs::create_dir_all(&source).unwrap();
        fs::write(source.join("job.json"), r#"{"steps":["pwd > where"]}"#).unwrap();

        let mut worker = Process::spawn(command);
        let info = eventually("the consumer is there", PATIENCE, async || {
            let info = place.nats.ask(&format!("$JS.API.CONSUMER.INFO.S-{way}.pool-{way}"), &Value::Null).await;
            info.get("config").cloned()
        })
        .await;
        assert_eq!(
            (&info["ack_wait"], &info["ack_policy"], &info["filter_subject"]),
            (&json!(300_000_000_000_u64), &json!("explicit"), &json!(format!("in.{way}")))
        );
        let stream = place.nats.ask(&format!("$JS.API.STREAM.INFO.S-{way}"), &Value::Null).await;
        assert_eq!(stream["config"]["subjects"], json!([format!("in.{way}")]));

        place.nats.ask_with(&format!("in.{way}"), r#"{"id":"x"}"#).await;
        assert_eq!(worker.wait(PATIENCE).await.code(), Some(0), "{}", worker.output());
        let stored = place.nats.stored_subjects().await;
        for subject in [format!("out.{way}"), format!("out.{way}.x")] {
            assert!(stored.contains(&("OUT".to_owned(), subject.clone())), "{subject}: {stored:?}");
        }
        let ran_in = fs::read_to_string(source.join("results/where")).unwrap();
        assert_eq!(ran_in.trim(), place.file(&format!("work-{way}")).join("x").display().to_string());
        let result: Value = serde_json::from_str(&fs::read_to_string(source.join("results/result.json")).unwrap()).unwrap();
        assert_eq!(result["worker"], json!(format!("pool-{way}")));
    }
}

#[tokio::test]
async fn the_time_out_of_the_worker_ends_a_job_that_has_none_of_its_own() {
    let place = Place::new().await;
    place.job("slow", &["echo begun > made", "sleep 60", "echo never"]);
    place.prepare("-o 0.02").await;
    place.send(&json!({ "id": "slow" })).await;
    let (code, said) = place.run("-o 0.02").await;
    assert_eq!(code, Some(0), "a job that failed is a result: {said}");
    let result = place.result("slow");
    assert_eq!((&result["status"], &result["reason"]), (&json!("failed"), &json!("timed_out")), "{result}");
    assert_eq!(place.read("slow", "made"), "begun\n", "what was made by then comes back");
    place.assert_nothing_left();
}

#[tokio::test]
async fn a_worker_logs_in_in_each_way_and_says_when_it_is_not_let_in() {
    let operator = Operator::generate();
    let home = tempfile::tempdir().unwrap();
    let creds = home.path().join("worker.creds");
    fs::write(&creds, operator.credentials()).unwrap();
    let creds = creds.display().to_string();
    let ways = [
        (
            "authorization { user: ann, password: hunter2x }".to_owned(),
            vec![("-n", "NATS_USERNAME", "ann"), ("-p", "NATS_PASSWORD", "hunter2x")],
        ),
        ("authorization { token: hunter2x }".to_owned(), vec![("-t", "NATS_TOKEN", "hunter2x")]),
        (operator.config(), vec![("--creds", "NATS_CREDS", creds.as_str())]),
    ];
    for (config, said) in ways {
        let nats = NatsServer::start_with(NatsOptions { extra_config: config, is_monitored: true, ..NatsOptions::default() }).await;
        let command = || {
            let mut command = longshore(home.path(), &["workspace", "worker", "--idle", "10ms", "-u", &nats.url()]);
            command.current_dir(home.path());
            command
        };
        let by_flag = {
            let mut command = command();
            for (flag, _, value) in &said {
                command.args([flag, value]);
            }
            command
        };
        let by_variable = {
            let mut command = command();
            for (_, variable, value) in &said {
                command.env(variable, value);
            }
            command
        };
        for (command, expected) in [(by_flag, 0), (by_variable, 0), (command(), 1)] {
            let mut worker = Process::spawn(command);
            assert_eq!(worker.wait(PATIENCE).await.code(), Some(expected), "{}", worker.output());
            assert!(!worker.output().contains("hunter2x"));
            assert!(expected == 0 || worker.output().contains("does not let us in"), "{}", worker.output());
        }
    }
}

#[test]
fn the_help_shows_no_values_of_variables_and_usage_errors_are_told() {
    let home = tempfile::tempdir().unwrap();
    let types = |words: &[&str]| {
        let mut command = longshore(home.path(), &[&["workspace", "worker"], words].concat());
        command.env("NATS_PASSWORD", "hunter2x").env("NATS_TOKEN", "hunter2x").env("NATS_URL", "nats://ann:hunter2x@h").output().unwrap()
    };
    let help = String::from_utf8(types(&["--help"]).stdout).unwrap();
    for flag in ["--url", "--username", "--password", "--token", "--id", "--jobs-dir", "--workspaces-dir", "--stream", "--input-subject"] {
        assert!(help.contains(flag), "{flag}: {help}");
    }
    assert!(help.contains("NATS_PASSWORD") && !help.contains("hunter2x") && !help.contains("--idle"), "{help}");
    for wrong in [&["--max-jobs", "2"][..], &["-o", "soon"], &["--no-such"], &["--stay", "--max-jobs", "0"]] {
        assert_eq!(types(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[tokio::test]
async fn without_a_broker_or_a_usable_stream_the_worker_ends_with_1() {
    let place = Place::new().await;
    let other = json!({ "name": "OTHER", "subjects": ["other.>"], "num_replicas": 1 });
    place.nats.ask("$JS.API.STREAM.CREATE.OTHER", &other).await;
    for (flags, reason) in [
        ("-s OTHER", "choose another --stream"),
        ("-i a.b", "cannot be used"),
        ("-k jobs.*", "not a subject"),
        ("-s RESULTS -k jobs.results", ""),
    ] {
        let (code, said) = place.run(&format!("{flags} --idle 10ms")).await;
        assert_eq!(code, Some(i32::from(!reason.is_empty())), "{flags}: {said}");
        assert!(said.contains(reason), "{flags}: {said}");
    }
    let mut command = longshore(place.home.path(), &["workspace", "worker", "-u", "nats://127.0.0.1:1"]);
    let mut nobody = Process::spawn(std::mem::replace(&mut command, Command::new("true")));
    assert_eq!(nobody.wait(PATIENCE).await.code(), Some(1));
    assert!(nobody.output().contains("could not be reached"), "{}", nobody.output());
}

#[tokio::test]
async fn a_dry_run_needs_no_broker_also_under_the_earlier_name() {
    let home = tempfile::tempdir().unwrap();
    let earlier = home.path().join("nats-fs-worker");
    symlink(env!("CARGO_BIN_EXE_longshore"), &earlier).unwrap();
    let run = || {
        let output = Command::new(&earlier).arg("--dry-run").current_dir(home.path()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, _, said) = run();
    assert_eq!(code, Some(1));
    assert!(said.contains("test-payload.json"), "{said}");

    let payload = |text: &str| fs::write(home.path().join("test-payload.json"), text).unwrap();
    payload(r#"{"id":"dry-run-test","steps":["echo 'Testing environment'; echo made > file"]}"#);
    let (code, response, said) = run();
    let response: Value = serde_json::from_str(&response).unwrap_or_else(|error| panic!("{error}: {response} {said}"));
    let expected = json!({ "id": "dry-run-test", "status": "success", "exitCode": 0, "manifestFile": "results/result.json" });
    assert_eq!((code, response), (Some(0), expected));
    let results = home.path().join("jobs/dry-run-test/results");
    assert_eq!(fs::read_to_string(results.join("step_0.log")).unwrap(), "Testing environment\n");
    assert_eq!(fs::read_to_string(results.join("file")).unwrap(), "made\n");
    assert_eq!(fs::read_dir(home.path().join("workspaces")).unwrap().count(), 0);

    payload(r#"{"id":"dry-run-test","steps":["exit 7"]}"#);
    let (code, response, _) = run();
    assert_eq!((code, serde_json::from_str::<Value>(&response).unwrap()["exitCode"].as_i64()), (Some(0), Some(7)));
    payload("{");
    assert_eq!(run().0, Some(1));
    payload(r#"{"id":"no-such-job"}"#);
    let (code, response, _) = run();
    assert_eq!(
        (code, serde_json::from_str::<Value>(&response).unwrap()["status"].as_str().map(str::to_owned)),
        (Some(1), Some("failed".to_owned()))
    );
}
