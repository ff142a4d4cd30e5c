//! What is taken for an operation and what is refused, by rows.

use serde_json::json;

use super::*;

#[track_caller]
fn refused(operation: &str, args: serde_json::Value) -> String {
    Call::parse(operation, args).unwrap_err().to_string()
}

#[test]
fn arguments_round_trip() {
    for (operation, args) in [
        ("node.hostname.get", json!({})),
        ("network.dns.get", json!({})),
        ("network.dns.get", json!({"interface": "eth0"})),
        ("network.dns.set", json!({"servers": ["192.0.2.1", "2001:db8::1"]})),
        ("network.dns.set", json!({"interface": "eth0", "servers": ["192.0.2.1"], "search": []})),
        ("network.dns.set", json!({"servers": ["192.0.2.1"], "search": ["example.com"]})),
        ("network.ping.run", json!({"address": "fe80::1%eth0", "count": 100, "interval": "1s", "timeout": "500ms"})),
        ("node.hostname.set", json!({"hostname": "Web-01.example"})),
        ("node.uptime.get", json!({})),
        ("command.exec", json!({"command": ["uname", "-a"], "cwd": "/tmp", "env": {"A": "b"}})),
        ("command.exec", json!({"command": ["dmesg"], "max_output": "64MiB"})),
        ("command.shell", json!({"command": "dmesg", "max_output": "0B"})),
        ("command.shell", json!({"command": "echo 'quoted'"})),
        (
            "workspace.run",
            json!({"steps": ["make", {"run": "./x", "timeout": "30s", "continue_on_error": true}], "shell": "bash", "artifacts": ["*.o"]}),
        ),
        (
            "workspace.run",
            json!({"steps": ["make"], "limits": {"output": "1KiB", "memory": "1GiB", "cpu": "1.5", "processes": 9, "file_size": "1GiB"}}),
        ),
    ] {
        let call = Call::parse(operation, args.clone()).unwrap();
        assert_eq!(call.args_json(), args, "{operation}");
        assert_eq!(call.operation().name(), operation);
    }
}

#[test]
fn refusals_name_the_field() {
    for (operation, args, expected) in [
        ("node.hostname.get", json!({"verbose": true}), "/args/verbose: unknown field"),
        ("node.hostname.set", json!({}), "/args: missing field `hostname`"),
        ("node.hostname.set", json!({"hostname": "web_01"}), "/args/hostname: \"web_01\" is not a host's name"),
        ("network.dns.get", json!({"interface": "../eth0"}), "/args/interface: \"../eth0\" is not an interface"),
        ("network.dns.set", json!({"servers": []}), "/args/servers: 1 to 8"),
        ("network.dns.set", json!({"servers": ["192.0.2.1", "192.0.2.1"]}), "/args/servers/1: 192.0.2.1 is there twice"),
        ("network.dns.set", json!({"servers": ["dns.example"]}), "/args/servers/0: \"dns.example\" is not an IP address"),
        ("network.dns.set", json!({"servers": ["224.0.0.1"]}), "/args/servers/0: 224.0.0.1 is not the address of one host"),
        ("network.dns.set", json!({"servers": ["192.0.2.1"], "search": ["a b"]}), "/args/search/0: \"a b\" is not a domain"),
        ("network.ping.run", json!({"address": "127.1"}), "/args/address: \"127.1\" ends in a number"),
        ("network.ping.run", json!({"address": "::1", "count": 0}), "/args/count: 1 to 100"),
        ("network.ping.run", json!({"address": "::1", "count": 101}), "/args/count: 1 to 100"),
        ("network.ping.run", json!({"address": "::1", "count": -1}), "/args/count: invalid value"),
        ("network.ping.run", json!({"address": "::1", "interval": "199ms"}), "/args/interval: 200ms to 1m"),
        ("network.ping.run", json!({"address": "::1", "timeout": "0s"}), "/args/timeout: 1ms to 1m"),
        ("network.ping.run", json!({"address": "::1", "timeout": "5"}), "/args/timeout: \"5\" is not a duration"),
        ("command.exec", json!({}), "/args: missing field `command`"),
        ("command.exec", json!({"command": "ls"}), "/args/command: invalid type"),
        ("command.exec", json!({"command": []}), "/args/command: needs at least"),
        ("command.exec", json!({"command": ["a\0b"]}), "/args/command: must not contain NUL"),
        ("command.exec", json!({"command": ["ls", 7]}), "/args/command/1: invalid type"),
        ("command.exec", json!({"command": ["ls"], "cwd": "../x"}), "/args/cwd: must be an absolute path"),
        ("command.exec", json!({"command": ["ls"], "max_output": "67108865"}), "/args/max_output: at most 64MiB; the log keeps more"),
        (
            "command.shell",
            json!({"command": "ls", "max_output": "much"}),
            "/args/max_output: \"much\" is not a size: write it such as `512KiB`, `100MiB`, `4GiB`, or in bytes",
        ),
        ("command.exec", json!({"command": ["ls"], "env": {"A=B": ""}}), "/args/env: \"A=B\" is not"),
        ("command.shell", json!({"command": "  "}), "/args/command: is empty"),
        ("workspace.run", json!({"steps": []}), "/args/steps: 1 to 256"),
        ("workspace.run", json!({"steps": ["x"], "bundle": "../x"}), "/args/bundle: must be"),
        ("workspace.run", json!({"steps": [{"run": "x", "timeout": "5"}]}), "/args/steps/0/timeout: \"5\" is not a duration"),
        ("workspace.run", json!({"steps": ["x"], "limits": {"output": "1TiB"}}), "/args/limits/output: 1B to 64MiB"),
        ("workspace.run", json!({"steps": ["x"], "limits": {"memory": "1KiB"}}), "/args/limits/memory: 1MiB to 1024TiB"),
        ("workspace.run", json!({"steps": ["x"], "limits": {"file_size": "2048TiB"}}), "/args/limits/file_size: 1B to 1024TiB"),
        ("workspace.run", json!({"steps": ["x"], "limits": {"processes": 0}}), "/args/limits/processes: 1 to 4194304"),
        ("workspace.run", json!({"steps": ["x"], "limits": {"cpu": "2 cores"}}), "/args/limits/cpu: a number of processors"),
        ("workspace.run", json!({"steps": ["x"], "limits": {"disk": "1GiB"}}), "/args/limits/disk: unknown field"),
    ] {
        let text = refused(operation, args.clone());
        assert!(text.starts_with(expected), "{operation} {args}: {text}");
    }
}

/// What no name and no address is.
const HOSTILE: [&str; 33] = [
    "",
    " ",
    "-f",
    "--help",
    "'",
    "\"",
    "a'b",
    "; id",
    "$(id)",
    "`id`",
    "a|b",
    "a\nb",
    "\n",
    "a\rb",
    "a\tb",
    "a\0b",
    "\u{1b}[31m",
    "\u{7f}",
    "\u{202e}a",
    "../x",
    "/etc/passwd",
    "a/b",
    "..",
    "@file",
    "+short",
    "%s",
    "a=b",
    "a,b",
    "a:b c",
    "ü",
    "*",
    "~",
    "#",
];

/// What no host must ever be handed as a name or an address: refused before anything is stored.
#[test]
fn hostile_text_is_refused_in_every_name_and_address() {
    let long = "a".repeat(300);
    type Make = fn(&str) -> serde_json::Value;
    let fields: [(&str, &str, Make); 8] = [
        ("node.hostname.set", "/args/hostname", |text| json!({ "hostname": text })),
        ("network.dns.get", "/args/interface", |text| json!({ "interface": text })),
        ("network.dns.set", "/args/interface", |text| json!({ "servers": ["192.0.2.1"], "interface": text })),
        ("network.dns.set", "/args/servers/0", |text| json!({ "servers": [text] })),
        ("network.dns.set", "/args/search/0", |text| json!({ "servers": ["192.0.2.1"], "search": [text] })),
        ("network.ping.run", "/args/address", |text| json!({ "address": text })),
        ("network.ping.run", "/args/interval", |text| json!({ "address": "::1", "interval": text })),
        ("network.ping.run", "/args/timeout", |text| json!({ "address": "::1", "timeout": text })),
    ];
    for (operation, pointer, make) in fields {
        for text in HOSTILE.into_iter().chain([long.as_str()]) {
            let refusal = refused(operation, make(text));
            assert!(refusal.starts_with(pointer) && refusal.len() < 400, "{operation} {text:?}: {refusal}");
            assert!(!refusal.contains(|c: char| c.is_control()), "{operation} {text:?}: {refusal:?}");
        }
    }
}

/// Where text is the user's own program or script, it stays as it is, except for what the system cannot pass.
#[test]
fn hostile_text_passes_unharmed_through_commands_except_for_nul() {
    let long = "a".repeat(300);
    for text in ["-f", "'", "\"", "; id", "$(id)", "a\nb", "../x", "\u{1b}[31m", &long] {
        let call = Call::parse("command.exec", json!({"command": ["echo", text], "env": {"A": text}})).unwrap();
        let Call::CommandExec(Command { words, env, .. }) = call else { panic!("{call:?}") };
        assert_eq!((words[1].as_str(), env["A"].as_str()), (text, text));
        let call = Call::parse("command.shell", json!({ "command": text })).unwrap();
        assert!(matches!(&call, Call::CommandShell { script, .. } if script == text), "{call:?}");
        assert!(refused("command.exec", json!({"command": ["echo", format!("{text}\0")]})).contains("NUL"));
    }
}

/// Every field of every operation that takes text, with something in it. Secrets have tests of their own.
fn samples() -> Vec<(Operation, serde_json::Value)> {
    let env = || json!({"A": "b"});
    let step = json!({"run": "true", "name": "first", "env": env(), "timeout": "30s", "continue_on_error": true, "shell": ["sh", "-c"]});
    let limits = json!({"output": "1MiB", "memory": "1GiB", "cpu": "1.5", "processes": 9, "file_size": "1GiB"});
    let workspace = json!({"steps": ["make", step], "env": env(), "shell": "bash", "artifacts": ["*.o"], "limits": limits});
    let with = |name: &str, value: &str| {
        let mut args = workspace.clone();
        args[name] = json!(value);
        args
    };
    vec![
        (Operation::CommandExec, json!({"command": ["uname", "-a"], "cwd": "/tmp", "env": env(), "max_output": "1MiB"})),
        (Operation::CommandShell, json!({"command": "uname", "cwd": "/tmp", "env": env(), "max_output": "1MiB"})),
        (Operation::NetworkDnsGet, json!({"interface": "eth0"})),
        (Operation::NetworkDnsSet, json!({"interface": "eth0", "servers": ["192.0.2.1"], "search": ["example.com"]})),
        (Operation::NetworkPingRun, json!({"address": "192.0.2.1", "count": 1, "interval": "1s", "timeout": "1s"})),
        (Operation::NodeHostnameSet, json!({"hostname": "web-01"})),
        (
            Operation::PackageInstall,
            json!({"package": "a.b", "version": "1.0.0", "url": "https://packages.example/p.zip", "sha256": "0".repeat(64)}),
        ),
        (Operation::PackageUninstall, json!({"package": "a.b", "version": "1.0.0"})),
        (Operation::PackageRun, json!({"package": "a.b", "version": "1.0.0", "node": "c.d", "parameters": {"text": "x"}})),
        (Operation::WorkspaceRun, with("bundle", &"0".repeat(64))),
        (Operation::WorkspaceRun, with("source", "job-1")),
    ]
}

/// Where there is text in a value.
fn texts(value: &serde_json::Value, place: &str, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => fields.iter().for_each(|(name, value)| texts(value, &format!("{place}/{name}"), found)),
        serde_json::Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, item)| texts(item, &format!("{place}/{index}"), found));
        }
        serde_json::Value::String(_) => found.push(place.to_owned()),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
    }
}

#[test]
fn text_of_any_kind_in_any_field_of_any_operation_is_kept_as_it_is_or_refused_in_one_clean_line() {
    for operation in Operation::ALL {
        let schema = operation.args_schema();
        let fields = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name);
        let sampled = |name: &String| samples().iter().any(|(known, args)| *known == operation && args.get(name).is_some());
        let missing: Vec<_> = fields.filter(|name| *name != "secrets" && !sampled(name)).collect();
        assert!(missing.is_empty(), "{operation:?} has no sample of {missing:?}");
    }
    let long = "a".repeat(70_000);
    let hostile =
        HOSTILE.into_iter().chain(["a\0b", "\0", "\u{feff}a", "\u{2028}", "&& id", "${IFS}", "%00", "{{x}}", "~root", "-", long.as_str()]);
    for (operation, args) in samples() {
        let mut places = Vec::new();
        texts(&args, "", &mut places);
        for (place, text) in places.iter().flat_map(|place| hostile.clone().map(move |text| (place, text))) {
            let mut args = args.clone();
            *args.pointer_mut(place).unwrap() = json!(text);
            match Call::parse(operation.name(), args.clone()) {
                Ok(call) => {
                    assert_eq!(call.args_json(), args, "{operation:?} {place} {text:?}");
                    // Data for a handler and the name of a step are told as JSON; nothing else reaches a host with a NUL in it.
                    let is_told = place.starts_with("/parameters/") || place.ends_with("/name");
                    assert!(!text.contains('\0') || is_told, "{operation:?} {place} {text:?}");
                }
                Err(refusal) => {
                    let said = refusal.to_string();
                    assert!(said.starts_with("/args") && said.len() < 600, "{operation:?} {place} {text:?}: {said}");
                    assert!(!said.contains(|c: char| c.is_control()), "{operation:?} {place} {text:?}: {said:?}");
                }
            }
        }
    }
}

#[test]
fn processors_are_counted_in_thousandths() {
    for (text, millis) in [("1", Some(1000)), ("0.5", Some(500)), ("1.25", Some(1250)), ("0.01", Some(10)), ("1024", Some(1_024_000))] {
        let call = Call::parse("workspace.run", json!({"steps": ["x"], "limits": {"cpu": text}})).unwrap();
        let Call::WorkspaceRun { run, .. } = call else { panic!("{call:?}") };
        assert_eq!(run.limits.cpu_millis, millis, "{text}");
    }
    for text in ["", "0", "0.001", "1025", "-1", "1e3", "1.2345", ".5", "1.", "99999999999"] {
        refused("workspace.run", json!({"steps": ["x"], "limits": {"cpu": text}}));
    }
}
