//! Settings of the host itself: the kernel's name of it, `/etc/hostname`, `/etc/resolv.conf`, packets that find no way. Each test runs itself
//! again in namespaces of its own, where what it changes is nobody else's; that takes root, and is skipped with a word without.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use longshore_exec::{Executor, Machine};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::Outcome;
use serde_json::{Value, json};

use crate::support::{Bench, config, failure, task};

/// Says which namespaces the outside has, to whoever runs inside.
const OUTSIDE: &str = "LONGSHORE_TEST_OUTSIDE";
const KINDS: [&str; 3] = ["uts", "mnt", "net"];

fn namespaces() -> String {
    KINDS.map(|kind| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string()).join(" ")
}

/// Whether this is the inside. From the outside the test `name` is run again there.
#[expect(clippy::print_stderr, reason = "whoever reads the tests' output should see that they could not look")]
fn is_inside(name: &str) -> bool {
    if let Ok(outside) = std::env::var(OUTSIDE) {
        let apart = namespaces().split(' ').zip(outside.split(' ')).all(|(ours, theirs)| ours != theirs);
        assert!(apart, "the host's own name and files are not for tests");
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: {name} takes root, for namespaces of its own");
        return false;
    }
    let mut inside = Command::new("unshare");
    inside.args(["--uts", "--mount", "--net", "--propagation", "private", "--"]).arg(std::env::current_exe().unwrap());
    inside.args(["--exact", &format!("real::{name}"), "--nocapture"]).env(OUTSIDE, namespaces()).process_group(0);
    let before = (rustix::system::uname().nodename().to_owned(), fs::read("/etc/hostname").ok(), fs::read("/etc/resolv.conf").ok());
    let output = match inside.output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED: {name}: `unshare` cannot be run: {error}");
            return false;
        }
    };
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if said.contains("unshare failed") {
        eprintln!("SKIPPED: {name}: this host gives no namespaces: {said}");
        return false;
    }
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    let after = (rustix::system::uname().nodename().to_owned(), fs::read("/etc/hostname").ok(), fs::read("/etc/resolv.conf").ok());
    assert_eq!(before, after, "nothing of it was seen outside");
    false
}

fn mount(words: &[&str]) {
    let output = Command::new("mount").args(words).output().unwrap();
    assert!(output.status.success(), "mount {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// This machine, with an `/etc` of its own below `place`, and without services that manage its settings.
fn bench(place: &Path) -> Bench {
    let etc = place.join("etc");
    fs::create_dir(&etc).unwrap();
    mount(&["--bind", etc.to_str().unwrap(), "/etc"]);
    for dir in ["/run/systemd", "/run/netplan", "/lib/netplan"] {
        if Path::new(dir).is_dir() {
            mount(&["-t", "tmpfs", "none", dir]);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let nothing = dir.path().join("bin");
    fs::create_dir(&nothing).unwrap();
    let machine = Machine { root: "/".into(), path: Some(nothing.to_str().unwrap().to_owned()) };
    let state = config(&dir.path().join("state"), std::time::Duration::from_millis(200));
    Bench { executor: Executor::open_on(state, machine).unwrap(), dir }
}

async fn done(bench: &Bench, operation: &str, args: Value, changed: bool) -> Value {
    let finished = bench.run(task(operation, args)).await;
    assert_eq!((finished.outcome, finished.changed), (Outcome::Completed, Some(changed)), "{operation}: {finished:?}");
    finished.result.unwrap()
}

#[tokio::test]
async fn the_kernel_and_the_file_get_the_hosts_name() {
    if !is_inside("the_kernel_and_the_file_get_the_hosts_name") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let bench = bench(place.path());
    let before = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    fs::write("/etc/hostname", format!("{before}\n")).unwrap();

    let set = done(&bench, "node.hostname.set", json!({"hostname": "web-01.example"}), true).await;
    assert_eq!((&set["hostname"], &set["previous"]), (&json!("web-01.example"), &json!(before)));
    assert_eq!(rustix::system::uname().nodename().to_str(), Ok("web-01.example"), "the kernel has it now");
    assert_eq!(fs::read_to_string("/etc/hostname").unwrap(), "web-01.example\n", "and will have it after the next boot");
    assert_eq!(done(&bench, "node.hostname.get", json!({}), false).await["hostname"], "web-01.example");
    assert_eq!(done(&bench, "node.status.get", json!({}), false).await["hostname"], "web-01.example");
    assert_eq!(longshore_exec::host_name(), "web-01.example", "and so has the agent");
    done(&bench, "node.hostname.set", json!({"hostname": "web-01.example"}), false).await;

    // What somebody else changes in only one of the two places is put right.
    rustix::system::sethostname(b"elsewhere").unwrap();
    done(&bench, "node.hostname.set", json!({"hostname": "web-01.example"}), true).await;
    // As in a container, whose file cannot be replaced by another.
    let file = place.path().join("mounted");
    fs::write(&file, "web-01.example\n").unwrap();
    mount(&["--bind", file.to_str().unwrap(), "/etc/hostname"]);
    done(&bench, "node.hostname.set", json!({"hostname": "web-02"}), true).await;
    assert_eq!((fs::read_to_string(&file).unwrap().as_str(), longshore_exec::host_name().as_str()), ("web-02\n", "web-02"));

    // A file that cannot be written: the name is set, and the failure says what is not.
    mount(&["-o", "remount,bind,ro", "/etc/hostname"]);
    let finished = bench.run(task("node.hostname.set", json!({"hostname": "web-03"}))).await;
    let (_, message) = failure(&finished);
    assert!(message.contains("/etc/hostname") && message.contains("will not survive a reboot"), "{message}");
    assert_eq!(longshore_exec::host_name(), "web-03");
}

#[tokio::test]
async fn name_servers_are_read_from_and_written_to_the_hosts_own_file() {
    if !is_inside("name_servers_are_read_from_and_written_to_the_hosts_own_file") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let bench = bench(place.path());
    fs::write("/etc/resolv.conf", "# ours\nnameserver 192.0.2.1\noptions edns0\nsearch lan\n").unwrap();
    let found = done(&bench, "network.dns.get", json!({}), false).await;
    assert_eq!((&found["servers"], &found["search"], &found["source"]), (&json!(["192.0.2.1"]), &json!(["lan"]), &json!("resolv_conf")));
    let of_lo = done(&bench, "network.dns.get", json!({"interface": "lo"}), false).await;
    assert_eq!(of_lo["servers"], json!(["192.0.2.1"]), "the machine's own interface");

    let args = json!({"servers": ["192.0.2.9", "2001:db8::9"], "search": ["example.com"]});
    assert_eq!(done(&bench, "network.dns.set", args.clone(), true).await["file"], "/etc/resolv.conf");
    let written = "# ours\nnameserver 192.0.2.9\nnameserver 2001:db8::9\noptions edns0\nsearch example.com\n";
    let text = fs::read_to_string("/etc/resolv.conf").unwrap();
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&text), sorted(written));
    done(&bench, "network.dns.set", args.clone(), false).await;
    assert_eq!(done(&bench, "network.dns.get", json!({}), false).await["servers"], json!(["192.0.2.9", "2001:db8::9"]));

    // As in a container, whose file is mounted from outside.
    let file = place.path().join("mounted");
    fs::write(&file, "nameserver 192.0.2.2\n").unwrap();
    mount(&["--bind", file.to_str().unwrap(), "/etc/resolv.conf"]);
    done(&bench, "network.dns.set", args, true).await;
    assert!(fs::read_to_string(&file).unwrap().contains("nameserver 192.0.2.9\n"));
    mount(&["-o", "remount,bind,ro", "/etc/resolv.conf"]);
    let finished = bench.run(task("network.dns.set", json!({"servers": ["192.0.2.3"]}))).await;
    assert!(failure(&finished).1.contains("/etc/resolv.conf"), "{finished:?}");
    assert!(fs::read_to_string(&file).unwrap().contains("nameserver 192.0.2.9\n"), "it is as it was");
}

/// In a network of its own a host reaches nobody until its loopback is up, and then itself alone, over both families.
#[tokio::test]
async fn packets_find_their_way_over_both_families_or_say_why_not() {
    if !is_inside("packets_find_their_way_over_both_families_or_say_why_not") {
        return;
    }
    let bench = Bench::new();
    let ping = async |address: &str| bench.run(task("network.ping.run", json!({"address": address, "count": 3, "timeout": "500ms"}))).await;
    for address in ["192.0.2.1", "2001:db8::1"] {
        let finished = ping(address).await;
        let (code, message) = failure(&finished);
        assert_eq!(code, ErrorCode::HostFault, "{finished:?}");
        assert!(message.starts_with(&format!("the host cannot reach {address}: ")), "{message}");
    }
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    if !up.is_ok_and(|status| status.success()) {
        return;
    }
    for address in ["127.0.0.1", "127.0.0.9", "::1"] {
        if address == "::1" && fs::read_to_string("/proc/net/if_inet6").unwrap_or_default().is_empty() {
            continue;
        }
        let finished = ping(address).await;
        assert_eq!(finished.outcome, Outcome::Completed, "{address}: {finished:?}");
        let result = finished.result.unwrap();
        assert_eq!((&result["address"], &result["sent"], &result["received"]), (&json!(address), &json!(3), &json!(3)), "{result}");
        assert!(result["round_trip"]["max_ms"].as_f64().unwrap() > 0.0, "{result}");
    }
    assert_eq!(failure(&ping("192.0.2.1").await).0, ErrorCode::HostFault, "there is still no way out");
}
