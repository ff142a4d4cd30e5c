//! `network.dns.*`, on machines that are directories, with programs that only write down how they were called.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use longshore_exec::Finished;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Outcome;
use serde_json::{Value, json};

use crate::support::{Bench, failure, task, write};

const STUB: (&str, &str) = ("run/systemd/resolve/stub-resolv.conf", "nameserver 127.0.0.53\nsearch lan\n");
const ROUTES: (&str, &str) = (
    "proc/net/route",
    "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\neth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n",
);
const CLOUD: &str = "etc/netplan/50-cloud-init.yaml";
const OURS: &str = "etc/netplan/90-longshore-dns.yaml";
const DROP_IN: &str = "etc/systemd/resolved.conf.d/90-longshore.conf";

fn machine(files: &[(&str, &str)]) -> Bench {
    let bench = Bench::of_machine();
    write(&bench.root(), &[("sys/class/net/eth0/address", "aa:bb:cc:00:11:22\n"), ("sys/class/net/lo/address", "")]);
    write(&bench.root(), files);
    bench
}

/// A machine on which systemd-resolved has the say.
fn resolved(files: &[(&str, &str)]) -> Bench {
    let bench = machine(files);
    write(&bench.root(), &[STUB, ("etc/hosts", "")]);
    symlink("../run/systemd/resolve/stub-resolv.conf", bench.root().join("etc/resolv.conf")).unwrap();
    bench
}

async fn get(bench: &Bench, args: Value) -> Finished {
    bench.run(task("network.dns.get", args)).await
}

async fn set(bench: &Bench, args: Value) -> Finished {
    bench.run(task("network.dns.set", args)).await
}

#[track_caller]
fn done(finished: Finished, changed: bool) -> Value {
    assert_eq!((finished.outcome, finished.changed), (Outcome::Completed, Some(changed)), "{finished:?}");
    finished.result.unwrap()
}

#[tokio::test]
async fn resolv_conf_is_read_where_nothing_else_is() {
    let bench = machine(&[("etc/resolv.conf", "nameserver 192.0.2.1\nsearch example.com\n")]);
    let expected = json!({"servers": ["192.0.2.1"], "search": ["example.com"], "source": "resolv_conf", "read_from": "/etc/resolv.conf"});
    assert_eq!(done(get(&bench, json!({})).await, false), expected);
    assert_eq!(done(get(&bench, json!({"interface": "eth0"})).await, false), expected, "of the host, and it says so");
}

#[tokio::test]
async fn an_interface_that_is_not_there_is_refused_with_what_it_may_have_been() {
    let bench = machine(&[("etc/resolv.conf", "nameserver 192.0.2.1\n")]);
    for finished in
        [get(&bench, json!({"interface": "eht0"})).await, set(&bench, json!({"interface": "eht0", "servers": ["192.0.2.9"]})).await]
    {
        assert_eq!(failure(&finished), (ErrorCode::Validation, "the host has no network interface \"eht0\": did you mean eth0?"));
    }
    let finished = get(&bench, json!({"interface": "wlp3s0"})).await;
    assert_eq!(failure(&finished).1, "the host has no network interface \"wlp3s0\": there are eth0, lo");
}

#[tokio::test]
async fn a_host_without_any_of_it_skips() {
    let bench = machine(&[]);
    for finished in [get(&bench, json!({})).await, set(&bench, json!({"servers": ["192.0.2.9"]})).await] {
        let (code, message) = failure(&finished);
        assert_eq!((finished.outcome, code), (Outcome::Skipped, ErrorCode::Unsupported));
        assert!(message.contains("neither systemd-resolved nor netplan nor /etc/resolv.conf"), "{message}");
    }
}

#[tokio::test]
async fn resolved_is_asked_where_it_has_the_say() {
    let bench = resolved(&[("run/systemd/resolve/resolv.conf", "nameserver 192.0.2.1\nsearch lan\n")]);
    let result = done(get(&bench, json!({})).await, false);
    assert_eq!((&result["servers"], &result["source"]), (&json!(["192.0.2.1"]), &json!("systemd_resolved")));
    assert_eq!(result["read_from"], "/run/systemd/resolve/resolv.conf");

    bench.program("resolvectl", "case $2 in dns) echo 'Link 2 (eth0): 192.0.2.1 fe80::1%2';; *) echo 'Link 2 (eth0): lan ~.';; esac");
    let result = done(get(&bench, json!({"interface": "eth0"})).await, false);
    assert_eq!((&result["servers"], &result["search"]), (&json!(["192.0.2.1", "fe80::1%2"]), &json!(["lan", "~."])));
    assert_eq!((&result["interface"], &result["source"]), (&json!("eth0"), &json!("systemd_resolved")));
    assert_eq!(bench.calls(), ["resolvectl [--] [dns] [eth0]", "resolvectl [--] [domain] [eth0]"]);
}

/// It runs, but programs do not ask it.
#[tokio::test]
async fn resolved_has_no_say_where_resolv_conf_names_others() {
    let bench = machine(&[("run/systemd/resolve/resolv.conf", "nameserver 192.0.2.7\n"), ("etc/resolv.conf", "nameserver 192.0.2.1\n")]);
    assert_eq!(done(get(&bench, json!({})).await, false)["source"], "resolv_conf");
    write(&bench.root(), &[("etc/resolv.conf", "nameserver 127.0.0.53\n")]);
    assert_eq!(done(get(&bench, json!({})).await, false)["source"], "systemd_resolved");
}

#[tokio::test]
async fn a_resolvectl_that_lies_floods_or_hangs_is_a_failure_and_no_more() {
    let bench = resolved(&[]);
    for (script, code) in [
        ("echo 'Failed to connect to bus' >&2; exit 1", ErrorCode::ExitStatus),
        ("head -c 10000000 /dev/zero", ErrorCode::HostFault),
        ("kill -9 $$", ErrorCode::ExitStatus),
        ("sleep 600", ErrorCode::TimedOut),
    ] {
        bench.program("resolvectl", script);
        let asked = crate::support::within(std::time::Duration::from_secs(3), task("network.dns.get", json!({"interface": "eth0"})));
        let finished = bench.run(asked).await;
        assert_eq!((finished.outcome, failure(&finished).0), (Outcome::Failed, code), "{script}");
    }
    bench.program("resolvectl", "head -c 100000 /dev/urandom");
    assert_eq!(get(&bench, json!({"interface": "eth0"})).await.outcome, Outcome::Completed);
}

#[tokio::test]
async fn netplan_files_are_read() {
    let text = "network:\n  ethernets:\n    eth0:\n      nameservers: {addresses: [192.0.2.1], search: [lan]}\n";
    let bench = machine(&[(CLOUD, text), ("etc/resolv.conf", "nameserver 127.0.0.1\n")]);
    let expected =
        json!({"servers": ["192.0.2.1"], "search": ["lan"], "source": "netplan", "read_from": "/etc/netplan/50-cloud-init.yaml"});
    assert_eq!(done(get(&bench, json!({})).await, false), expected);
    assert_eq!(done(get(&bench, json!({"interface": "eth0"})).await, false)["interface"], "eth0");

    write(&bench.root(), &[(CLOUD, "network: [")]);
    let finished = get(&bench, json!({})).await;
    assert!(failure(&finished).1.starts_with("/etc/netplan/50-cloud-init.yaml is not a netplan file: "), "{finished:?}");
}

#[tokio::test]
async fn resolv_conf_is_changed_and_keeps_its_other_lines() {
    let bench = machine(&[("etc/resolv.conf", "# by hand\noptions edns0\nnameserver 1.1.1.1\nsearch old\n")]);
    let args = json!({"servers": ["192.0.2.9", "2001:db8::9"]});
    let result = done(set(&bench, args.clone()).await, true);
    assert_eq!(result, json!({"servers": ["192.0.2.9", "2001:db8::9"], "source": "resolv_conf", "file": "/etc/resolv.conf"}));
    assert_eq!(bench.read("etc/resolv.conf"), "# by hand\noptions edns0\nnameserver 192.0.2.9\nnameserver 2001:db8::9\nsearch old\n");
    done(set(&bench, args).await, false);
    done(set(&bench, json!({"servers": ["192.0.2.9", "2001:db8::9"], "search": []})).await, true);
    assert!(!bench.read("etc/resolv.conf").contains("search"));
    assert_eq!(fs::read_dir(bench.root().join("etc")).unwrap().count(), 1, "no temporary file is left");
}

#[tokio::test]
async fn resolv_conf_is_left_alone_where_it_is_not_ours_to_write() {
    let args = json!({"servers": ["192.0.2.9"]});
    let bench = machine(&[("etc/hosts", "")]);
    let link = bench.root().join("etc/resolv.conf");
    for target in ["/run/systemd/resolve/stub-resolv.conf", "../run/NetworkManager/resolv.conf"] {
        symlink(target, &link).unwrap();
        let finished = set(&bench, args.clone()).await;
        let (code, message) = failure(&finished);
        assert_eq!((finished.outcome, code), (Outcome::Failed, ErrorCode::HostFault));
        assert!(message.contains("/etc/resolv.conf points to /run/") && message.ends_with("nothing was changed"), "{message}");
        fs::remove_file(&link).unwrap();
    }
    // One that leads to an ordinary file is followed, and stays.
    write(&bench.root(), &[("etc/resolv.conf.real", "nameserver 1.1.1.1\n")]);
    symlink("resolv.conf.real", &link).unwrap();
    assert_eq!(done(set(&bench, args).await, true)["file"], "/etc/resolv.conf.real");
    assert!(link.is_symlink());
    assert_eq!(bench.read("etc/resolv.conf.real"), "nameserver 192.0.2.9\n");

    for (args, part) in [
        (json!({"servers": ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]}), "3 servers at most"),
        (json!({"interface": "eth0", "servers": ["192.0.2.1"]}), "leave the interface out"),
    ] {
        let finished = set(&bench, args).await;
        assert!(failure(&finished).1.contains(part), "{finished:?}");
    }
    write(&bench.root(), &[("etc/resolv.conf.real", "x")]);
    fs::write(bench.root().join("etc/resolv.conf.real"), b"\xff\xfe").unwrap();
    let finished = set(&bench, json!({"servers": ["192.0.2.1"]})).await;
    assert!(failure(&finished).1.contains("is not text"), "{finished:?}");
}

#[tokio::test]
async fn resolved_gets_a_drop_in_and_is_told() {
    let bench = resolved(&[]);
    bench.program("systemctl", "");
    let args = json!({"servers": ["192.0.2.9"], "search": ["example.com"]});
    assert_eq!(done(set(&bench, args.clone()).await, true)["file"], "/etc/systemd/resolved.conf.d/90-longshore.conf");
    assert!(bench.read(DROP_IN).ends_with("[Resolve]\nDNS=\nDNS=192.0.2.9\nDomains=\nDomains=example.com\n"), "{}", bench.read(DROP_IN));
    assert_eq!(bench.calls(), ["systemctl [--no-ask-password] [--] [reload-or-restart] [systemd-resolved.service]"]);

    done(set(&bench, args).await, false);
    assert_eq!(bench.calls(), [""; 0]);
    done(set(&bench, json!({"servers": ["192.0.2.8"]})).await, true);
    assert!(bench.read(DROP_IN).ends_with("DNS=192.0.2.8\nDomains=\nDomains=example.com\n"), "search domains stay unless they are given");
    assert!(fs::symlink_metadata(bench.root().join("etc/resolv.conf")).unwrap().is_symlink());
}

#[tokio::test]
async fn a_change_the_service_refuses_is_taken_back() {
    let bench = resolved(&[]);
    bench.program(
        "systemctl",
        "grep -q 192.0.2.9 $ROOT/etc/systemd/resolved.conf.d/90-longshore.conf || exit 0; echo 'it broke' >&2; exit 1",
    );
    let finished = set(&bench, json!({"servers": ["192.0.2.9"]})).await;
    let (code, message) = failure(&finished);
    assert_eq!((finished.outcome, code, bench.calls().len()), (Outcome::Failed, ErrorCode::ExitStatus, 2));
    assert!(message.ends_with("it broke; the settings from before are in effect again"), "{message}");
    assert!(!bench.root().join(DROP_IN).exists());

    done(set(&bench, json!({"servers": ["192.0.2.8"]})).await, true);
    assert_eq!(set(&bench, json!({"servers": ["192.0.2.9"]})).await.outcome, Outcome::Failed);
    assert!(bench.read(DROP_IN).contains("DNS=192.0.2.8\n"));
}

/// The agent was killed between writing the file and telling the service.
#[tokio::test]
async fn a_change_that_may_not_have_taken_effect_is_applied_again() {
    let bench = resolved(&[]);
    bench.program("systemctl", "");
    let args = json!({"servers": ["192.0.2.9"]});
    done(set(&bench, args.clone()).await, true);
    fs::write(bench.state().join("dns-unapplied"), "").unwrap();
    bench.calls();
    done(set(&bench, args.clone()).await, true);
    assert_eq!(bench.calls().len(), 1);
    done(set(&bench, args).await, false);
}

#[tokio::test]
async fn resolved_is_told_of_one_interface() {
    let bench = resolved(&[]);
    let script = "d=$ROOT/link.$2; [ $# -gt 3 ] && { shift 3; echo \"Link 2 (eth0): $*\" >$d; exit 0; }; cat $d 2>/dev/null || echo 'Link 2 (eth0):'";
    bench.program("resolvectl", script);
    let args = json!({"interface": "eth0", "servers": ["192.0.2.9", "2001:db8::9"], "search": ["example.com"]});
    let result = done(set(&bench, args.clone()).await, true);
    assert_eq!((&result["interface"], result.get("file")), (&json!("eth0"), None));
    let calls = bench.calls();
    assert_eq!(calls[2..], ["resolvectl [--] [dns] [eth0] [192.0.2.9] [2001:db8::9]", "resolvectl [--] [domain] [eth0] [example.com]"]);
    done(set(&bench, args).await, false);
    assert_eq!(bench.calls().len(), 2, "asked only");
    done(set(&bench, json!({"interface": "eth0", "servers": ["192.0.2.9", "2001:db8::9"], "search": []})).await, true);
    assert_eq!(bench.calls()[2..], ["resolvectl [--] [domain] [eth0] []"]);
}

#[tokio::test]
async fn netplan_gets_a_file_of_ours_and_applies_it() {
    let cloud = "network:\n  version: 2\n  ethernets:\n    uplink:\n      match: {macaddress: 'aa:bb:cc:00:11:22'}\n      dhcp4: true\n";
    let bench = resolved(&[(CLOUD, cloud), ROUTES]);
    bench.program("netplan", "");
    let args = json!({"servers": ["192.0.2.9", "2001:db8::9"], "search": ["example.com"]});
    assert_eq!(done(set(&bench, args.clone()).await, true)["source"], "netplan");
    assert_eq!(bench.calls(), ["netplan [generate]", "netplan [apply]"]);
    let expected = "network:\n  version: 2\n  \"ethernets\":\n    \"uplink\":\n      nameservers:\n        \
                    addresses: [\"192.0.2.9\",\"2001:db8::9\"]\n        search: [\"example.com\"]\n";
    assert!(bench.read(OURS).ends_with(expected), "{}", bench.read(OURS));
    assert_eq!(fs::metadata(bench.root().join(OURS)).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(bench.read(CLOUD), cloud);

    done(set(&bench, args).await, false);
    assert_eq!(bench.calls(), [""; 0]);
    done(set(&bench, json!({"interface": "eth0", "servers": ["192.0.2.8"]})).await, true);
    assert!(bench.read(OURS).contains("[\"192.0.2.8\"]\n        search: [\"example.com\"]"), "{}", bench.read(OURS));
}

#[tokio::test]
async fn netplan_refusals_leave_everything_as_it_was() {
    let cloud = "network:\n  ethernets:\n    eth0:\n      nameservers: {addresses: [192.0.2.1]}\n";
    let bench = machine(&[(CLOUD, cloud), ROUTES, ("etc/resolv.conf", "nameserver 127.0.0.1\n")]);
    bench.program(
        "netplan",
        "[ $1 = apply ] || exit 0; [ -e $ROOT/etc/netplan/90-longshore-dns.yaml ] || exit 0; echo 'no carrier' >&2; exit 78",
    );
    let finished = set(&bench, json!({"servers": ["192.0.2.9"]})).await;
    let (_, message) = failure(&finished);
    assert!(message.starts_with("/etc/netplan/50-cloud-init.yaml gives eth0 192.0.2.1, and netplan adds up"), "{message}");
    assert_eq!(bench.calls(), [""; 0]);

    let finished = set(&bench, json!({"servers": ["192.0.2.1", "192.0.2.9"]})).await;
    assert!(failure(&finished).1.ends_with("no carrier; the settings from before are in effect again"), "{finished:?}");
    assert!(!bench.root().join(OURS).exists());
}

#[tokio::test]
async fn changes_at_the_same_time_are_made_one_after_the_other() {
    let bench = resolved(&[]);
    bench.program("systemctl", "mkdir $ROOT/busy || exit 9; sleep 0.1; rmdir $ROOT/busy");
    let change = |server: &str| set(&bench, json!({ "servers": [server] }));
    let (a, b, c) = tokio::join!(change("192.0.2.1"), change("192.0.2.2"), change("192.0.2.3"));
    for finished in [a, b, c] {
        done(finished, true);
    }
}
