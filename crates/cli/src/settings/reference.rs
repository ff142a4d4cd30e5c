//! `docs/settings.md`: every key and every flag of the roles, made from the structs and the command line, each with the test that shows its
//! effect. A key or a flag without a row here fails the test, as does a document that is not what this makes; `UPDATE=1` writes it anew.

use std::fmt::Write as _;
use std::path::Path;

use clap::CommandFactory;
use serde_json::Value;

use super::keys::Keys;
use crate::args::Cli;

const STREAMS: &str = "every_setting_of_streams_and_consumers_is_what_the_broker_says_of_them";
const RETENTION: &str = "after_a_load_every_stream_has_the_configured_bounds_also_when_they_change";
const OWN: &str = "a_managed_broker_and_its_controller_are_as_configured";
const FLAGS: &str = "every_flag_of_an_agent_is_seen_at_the_broker_or_in_what_it_does";
const USER: &str = "roles_log_in_with_user_and_password";
const TOKEN: &str = "roles_log_in_with_a_token";
const NKEY: &str = "roles_log_in_with_an_nkey";
const CREDS: &str = "roles_log_in_with_a_credentials_file";
const GATEWAY: &str = "the_settings_of_the_gateway_reach_it";
const GATEWAY_TLS: &str = "a_worker_with_a_certificate_attaches_over_tls_without_a_token";
const TLS: &str = "roles_and_broker_show_each_other_their_certificates";

/// Each key, and the tests that fail if it has no effect.
const EFFECTS: &[(&str, &[&str])] = &[
    ("agent.client_name", &[STREAMS, FLAGS]),
    ("agent.consumer.ack_wait", &[STREAMS, "the_broker_offers_work_as_configured_and_by_no_back_off_of_its_own"]),
    ("agent.consumer.back_off", &[STREAMS, "waits_between_attempts_are_the_jobs_own_or_else_its_agents"]),
    ("agent.consumer.max_ack_pending", &[STREAMS, "the_broker_offers_work_as_configured_and_by_no_back_off_of_its_own"]),
    ("agent.consumer.max_deliver", &[STREAMS, "the_broker_offers_work_as_configured_and_by_no_back_off_of_its_own"]),
    ("agent.consumer.replay_policy", &[STREAMS, "work_goes_to_one_queue_group_and_a_renamed_one_takes_over_what_nobody_uses"]),
    ("agent.conditions.disk_pressure_threshold", &["each_threshold_decides_what_the_host_counts_as_short_of"]),
    ("agent.conditions.high_load_multiplier", &["each_threshold_decides_what_the_host_counts_as_short_of"]),
    ("agent.conditions.memory_pressure_threshold", &["each_threshold_decides_what_the_host_counts_as_short_of"]),
    ("agent.facts.interval", &["facts_follow_the_host_at_the_interval"]),
    ("agent.hostname", &[STREAMS, FLAGS]),
    (
        "agent.jobs.opening_keys",
        &["a_secret_is_nowhere_but_in_the_program_it_is_for", "keys_are_changed_while_a_job_waits_and_a_wrong_key_is_told"],
    ),
    ("agent.jobs.trusted_keys", &["jobs_that_no_trusted_controller_signed_are_refused_by_agents"]),
    ("agent.labels", &[STREAMS, FLAGS]),
    ("agent.max_jobs", &[STREAMS, "an_agent_never_runs_more_jobs_at_once_than_it_may"]),
    ("agent.packages.dir", &["an_agents_python_is_the_one_that_is_set"]),
    ("agent.packages.python", &["an_agents_python_is_the_one_that_is_set"]),
    ("agent.queue_group", &[STREAMS, "work_goes_to_one_queue_group_and_a_renamed_one_takes_over_what_nobody_uses"]),
    (
        "controller.api.job_timeout",
        &["without_a_word_it_waits_as_long_as_the_configuration_says", "the_agent_and_the_controller_follow_their_settings"],
    ),
    ("agent.workspace.jobs_dir", &["a_job_runs_in_a_copy_of_a_directory_of_the_agents_drive_and_its_results_stay_there"]),
    ("agent.workspace.workspaces_dir", &["a_job_runs_in_a_copy_of_a_directory_of_the_agents_drive_and_its_results_stay_there"]),
    ("controller.api.listen", &[OWN]),
    ("controller.api.security.cors.allow_origins", &["pages_of_configured_origins_may_call_and_all_others_may_not"]),
    ("controller.api.security.roles", &[OWN]),
    ("controller.api.security.signing_key", &[OWN]),
    (
        "controller.api.security.verify_keys",
        &[
            "tokens_of_private_keys_are_taken_for_each_public_key_that_is_configured",
            "a_token_of_a_private_key_is_signed_and_understood_without_the_controllers_own_key",
        ],
    ),
    ("controller.client.security.bearer_token", &[OWN, "a_token_goes_to_the_controller_it_is_for_and_to_no_other"]),
    ("controller.client.url", &[OWN]),
    ("controller.gateway.cancel_within", &["a_cancel_that_its_worker_does_not_answer_is_unverified_after_a_while", GATEWAY]),
    ("controller.gateway.detached_max", &["the_session_of_a_worker_that_stays_away_is_forgotten", GATEWAY]),
    (
        "controller.gateway.doubt_within",
        &["a_task_that_its_worker_does_not_have_after_it_began_anew_is_given_up_by_the_jobs_policy", GATEWAY],
    ),
    ("controller.gateway.enabled", &["a_gateway_that_is_off_takes_nobody", GATEWAY]),
    ("controller.gateway.grace", &["a_job_whose_worker_does_not_answer_in_time_fails", GATEWAY]),
    ("controller.gateway.greeting_within", &["who_was_not_let_in_has_little_time_and_says_little", GATEWAY]),
    ("controller.gateway.max_message", &["a_frame_larger_than_the_gateway_takes_ends_the_connection_alone", GATEWAY]),
    ("controller.gateway.max_workers", &["who_finds_no_room_is_told_when_to_come_back", GATEWAY]),
    ("controller.gateway.session_lifetime", &["a_session_that_is_too_old_begins_with_a_handshake", GATEWAY]),
    ("controller.gateway.silence_max", &["a_worker_that_says_nothing_any_more_is_lost_and_back_when_it_attaches_again", GATEWAY]),
    ("controller.gateway.tenant", &["the_workers_of_another_tenant_are_refused", GATEWAY]),
    ("controller.gateway.tls.cert", &[GATEWAY_TLS]),
    ("controller.gateway.tls.client_ca", &[GATEWAY_TLS, "a_certificate_is_for_the_hosts_that_it_names"]),
    ("controller.gateway.tls.key", &[GATEWAY_TLS]),
    ("controller.gateway.tls.listen", &[GATEWAY_TLS]),
    (
        "controller.jobs.sealing_key",
        &["a_secret_is_nowhere_but_in_the_program_it_is_for", "without_a_sealing_key_jobs_with_secrets_are_refused_and_nothing_is_stored"],
    ),
    ("controller.jobs.signing_key", &["jobs_that_no_trusted_controller_signed_are_refused_by_agents"]),
    ("nats.audit.max_age", &[STREAMS, RETENTION]),
    ("nats.audit.max_bytes", &[STREAMS, RETENTION]),
    ("nats.audit.stream", &[STREAMS]),
    ("nats.auth.creds", &[CREDS]),
    ("nats.auth.nkey", &[NKEY]),
    ("nats.auth.password", &[USER]),
    ("nats.auth.token", &[TOKEN]),
    ("nats.auth.type", &[USER, TOKEN, NKEY, CREDS]),
    ("nats.auth.user", &[USER]),
    ("nats.dlq.max_age", &[STREAMS, RETENTION]),
    ("nats.dlq.max_bytes", &[STREAMS, RETENTION]),
    ("nats.dlq.stream", &[STREAMS]),
    ("nats.facts.bucket", &[STREAMS, RETENTION]),
    ("nats.facts.max_bytes", &[STREAMS, RETENTION]),
    ("nats.facts.ttl", &[STREAMS, RETENTION, "facts_are_kept_while_their_agent_lives_and_go_after_it"]),
    (
        "nats.inbox_prefix",
        &["an_agent_may_not_do_what_is_not_its_own", "an_agent_whose_user_may_do_no_more_than_the_document_says_runs_every_kind_of_work"],
    ),
    ("nats.kv.bucket", &[STREAMS]),
    ("nats.kv.max_bytes", &[STREAMS, RETENTION, "a_full_ledger_refuses_new_work_and_keeps_everything_unfinished"]),
    ("nats.kv.response_bucket", &[STREAMS]),
    ("nats.kv.ttl", &[STREAMS, RETENTION]),
    ("nats.logs.max_age", &[STREAMS, RETENTION]),
    ("nats.logs.max_bytes", &[STREAMS, RETENTION]),
    ("nats.logs.stream", &[STREAMS]),
    ("nats.objects.bucket", &[STREAMS]),
    ("nats.objects.max_age", &[STREAMS, RETENTION]),
    ("nats.objects.max_bytes", &[STREAMS, RETENTION]),
    ("nats.registry.bucket", &[STREAMS]),
    ("nats.registry.ttl", &[STREAMS, "an_agent_without_heartbeat_falls_silent"]),
    ("nats.server.binary", &[OWN]),
    ("nats.server.host", &[OWN]),
    ("nats.server.namespace", &[STREAMS, "two_namespaces_on_one_broker_do_not_see_each_other"]),
    ("nats.server.port", &[OWN]),
    ("nats.server.store_dir", &[OWN]),
    ("nats.state.bucket", &[STREAMS]),
    ("nats.stream.max_age", &[STREAMS, RETENTION]),
    ("nats.stream.max_bytes", &[STREAMS, RETENTION]),
    ("nats.stream.name", &[STREAMS]),
    (
        "nats.stream.replicas",
        &[
            "every_stream_has_as_many_copies_as_configured_and_work_survives_the_loss_of_a_server",
            "copies_that_a_single_server_cannot_keep_are_refused_by_name",
        ],
    ),
    ("nats.stream.storage", &[STREAMS]),
    ("nats.stream.subjects", &[STREAMS]),
    ("nats.tls.ca", &[TLS]),
    ("nats.tls.cert", &[TLS]),
    ("nats.tls.key", &[TLS]),
    ("nats.url", &[STREAMS]),
];

/// Commands whose flags are settings.
const COMMANDS: &[&[&str]] = &[&["start"], &["controller", "start"], &["agent", "start"], &["job", "worker", "start"], &["nats", "start"]];

/// Each flag of theirs, the setting that it says (none if there is none), and the test that shows its effect.
const OF_FLAGS: &[(&str, &str, &str)] = &[
    ("agent-client-name", "agent.client_name", FLAGS),
    ("agent-host", "nats.url", FLAGS),
    ("agent-hostname", "agent.hostname", FLAGS),
    ("agent-port", "nats.url", FLAGS),
    ("agent-queue-group", "agent.queue_group", FLAGS),
    ("consumer-ack-wait", "agent.consumer.ack_wait", FLAGS),
    ("consumer-back-off", "agent.consumer.back_off", FLAGS),
    ("consumer-max-ack-pending", "agent.consumer.max_ack_pending", FLAGS),
    ("consumer-max-deliver", "agent.consumer.max_deliver", FLAGS),
    ("consumer-replay-policy", "agent.consumer.replay_policy", FLAGS),
    ("creds", "nats.auth.creds", CREDS),
    ("data", "", "a_second_start_on_the_same_data_says_who_has_it"),
    ("label", "agent.labels", FLAGS),
    ("listen", "controller.api.listen", USER),
    ("max-jobs", "agent.max_jobs", FLAGS),
    ("nats-server", "nats.server.binary", "a_program_that_is_no_nats_server_is_refused_with_the_minimum"),
    ("nats-token-file", "nats.auth.token", TOKEN),
    ("nats-url", "nats.url", USER),
    ("nkey", "nats.auth.nkey", NKEY),
    ("password", "nats.auth.password", USER),
    ("port", "nats.server.port", "a_managed_broker_by_itself_follows_its_flags"),
    ("tls-ca", "nats.tls.ca", TLS),
    ("tls-cert", "nats.tls.cert", TLS),
    ("tls-key", "nats.tls.key", TLS),
    ("user", "nats.auth.user", USER),
    ("worker-client-name", "agent.client_name", FLAGS),
    ("worker-host", "nats.url", FLAGS),
    ("worker-hostname", "agent.hostname", FLAGS),
    ("worker-max-jobs", "agent.max_jobs", FLAGS),
    ("worker-port", "nats.url", FLAGS),
    ("worker-queue-group", "agent.queue_group", FLAGS),
];

const HEAD: &str = "\
# Settings

Made from the program by `UPDATE=1 cargo test -p longshore-cli --bins reference`; a test fails when it is not what the program reads.

Later wins: the defaults, `/etc/longshore/longshore.yaml`, the user's file (`~/.config/longshore/longshore.yaml`), `--config FILE`, `--env-file FILE`, environment
variables, flags. Keys nest in YAML and are joined by two underscores in variables: `nats.kv.ttl` is `LONGSHORE_NATS__KV__TTL`. Durations and sizes carry units (`30s`, `2m`,
`100MiB`; a bare size is bytes). Secrets are given by where they are, `{file: PATH}` or `{env: NAME}` (`LONGSHORE_NATS__AUTH__TOKEN__FILE=PATH`), and shown as `***`. An unknown key is
an error with a suggestion. `job.worker.KEY` is the older spelling of `agent.KEY`; both at once are an error that names both.
`longshore config show --origin`, `config explain KEY`, `config check` and `config schema` tell what is in force, why, whether it is valid, and what could be.

What must be the same for all roles of a fleet: `nats.server.namespace`, all of `nats.stream`, `nats.kv`, `nats.dlq`, `nats.logs`, `nats.audit`, `nats.registry`, `nats.facts`, `nats.state`, `nats.objects`,
and, for its agents, `agent.queue_group` and `agent.consumer`: whoever starts last brings the broker's bounds and the shared consumer to its own settings. The broker gives each piece of
work to one queue group only; an agent of another one is refused, and a renamed group takes over once the agents of the old one are gone.

## Keys

| key | default | meaning | tests |
| --- | --- | --- | --- |
";

fn document() -> String {
    let mut text = HEAD.to_owned();
    let keys = Keys::all();
    for (name, key) in keys.iter() {
        let tests = EFFECTS.iter().find(|(known, _)| *known == name).map(|(_, tests)| *tests);
        let tests = tests.unwrap_or_else(|| panic!("`{name}` has no row in EFFECTS: name the test that shows its effect"));
        let doc = key.doc.replace('|', "\\|").replace('\n', " ");
        let _ = writeln!(text, "| `{name}` | {} | {doc} | {} |", default(&key.default), quoted(tests));
    }
    text += "\n## Flags of the roles\n\n| flag | of | setting | tests |\n| --- | --- | --- | --- |\n";
    for (flag, commands) in flags() {
        let row = OF_FLAGS.iter().find(|(known, ..)| *known == flag);
        let (_, setting, test) = row.unwrap_or_else(|| panic!("--{flag} of {commands:?} has no row in OF_FLAGS"));
        let setting = if setting.is_empty() { "none".to_owned() } else { format!("`{setting}`") };
        let _ = writeln!(text, "| `--{flag}` | {} | {setting} | `{test}` |", commands.join(", "));
    }
    text
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn default(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) if text.is_empty() => "empty".to_owned(),
        Value::String(text) => format!("`{text}`"),
        Value::Array(items) => format!("`{}`", items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => format!("`{value}`"),
    }
}

/// By name, each with the commands that take it.
fn flags() -> std::collections::BTreeMap<String, Vec<String>> {
    let root = Cli::command();
    let mut flags = std::collections::BTreeMap::<String, Vec<String>>::new();
    for words in COMMANDS {
        let command = words.iter().fold(&root, |command, word| command.find_subcommand(word).expect("it is a command"));
        for flag in command.get_arguments().filter(|flag| !flag.is_global_set()).filter_map(clap::Arg::get_long) {
            flags.entry(flag.to_owned()).or_default().push(format!("`{}`", words.join(" ")));
        }
    }
    flags
}

#[test]
fn the_reference_of_settings_is_what_the_program_reads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/settings.md");
    let wanted = document();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = found.lines().zip(wanted.lines()).find(|(found, wanted)| found != wanted);
    assert!(found == wanted, "docs/settings.md is not what the program reads: UPDATE=1 writes it anew; the first difference: {differs:?}");
}

#[test]
fn every_row_is_of_a_key_or_a_flag_that_exists() {
    let keys = Keys::all();
    for (name, _) in EFFECTS {
        assert!(keys.iter().any(|(key, _)| key == *name), "there is no key `{name}`");
    }
    let flags = flags();
    for (flag, setting, _) in OF_FLAGS {
        assert!(flags.contains_key(*flag), "no role has --{flag}");
        assert!(setting.is_empty() || keys.iter().any(|(key, _)| key == *setting), "--{flag}: there is no key `{setting}`");
    }
}
