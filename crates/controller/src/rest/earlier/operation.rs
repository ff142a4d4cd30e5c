//! Earlier operations: their names and the fields of their data, as ours.

use longshore_model::job::InvalidSubmission;
use longshore_model::operation::{Operation, nearest};
use longshore_model::wire::rest::JobRequest;
use serde_json::{Map, Value};

use super::wire::CreateJob;
use crate::app::Error;

/// Every earlier name that we have an operation for. Where an operation has two, the first is the one that is shown.
const NAMES: [(&str, Operation); 19] = [
    ("command.exec.execute", Operation::CommandExec),
    ("command.shell.execute", Operation::CommandShell),
    ("network.dns.get", Operation::NetworkDnsGet),
    ("network.dns.update", Operation::NetworkDnsSet),
    ("network.ping.do", Operation::NetworkPingRun),
    ("network.ping.execute", Operation::NetworkPingRun),
    ("node.disk.get", Operation::NodeDiskGet),
    ("node.hostname.get", Operation::NodeHostnameGet),
    ("node.hostname.update", Operation::NodeHostnameSet),
    ("node.load.get", Operation::NodeLoadGet),
    ("node.memory.get", Operation::NodeMemoryGet),
    ("node.os.get", Operation::NodeOsGet),
    ("node.status.get", Operation::NodeStatusGet),
    ("node.uptime.get", Operation::NodeUptimeGet),
    // They came after them, and have the one name.
    ("package.install", Operation::PackageInstall),
    ("package.list", Operation::PackageList),
    ("package.run", Operation::PackageRun),
    ("package.uninstall", Operation::PackageUninstall),
    ("workspace.run", Operation::WorkspaceRun),
];

/// The name that an operation of ours goes by in the earlier form.
pub(super) fn earlier_name(ours: &str) -> &str {
    let known = Operation::by_name(ours).and_then(|operation| NAMES.iter().find(|(_, of)| *of == operation));
    known.map_or(ours, |(name, _)| *name)
}

/// The submission that an earlier one stands for. Our own names are understood as well.
pub(super) fn request(CreateJob { operation, target_hostname }: CreateJob) -> Result<JobRequest, Error> {
    let named = NAMES.iter().find(|(name, _)| *name == operation.kind).map(|(_, of)| *of).or_else(|| Operation::by_name(&operation.kind));
    let Some(named) = named else {
        let nearest = nearest(&operation.kind, NAMES.iter().map(|(name, _)| *name));
        return Err(InvalidSubmission::UnknownOperation { name: operation.kind, nearest }.into());
    };
    let (data, timeout) = arguments(named, operation.data.unwrap_or_default());
    Ok(JobRequest { timeout, ..JobRequest::new(named.name(), data.into(), target_hostname) })
}

/// Where a field of the submission stands in the earlier form.
pub(super) fn place(pointer: &str) -> String {
    match pointer {
        "/operation" => "/operation/type".to_owned(),
        "/target" => "/target_hostname".to_owned(),
        "/timeout" => "/operation/data/timeout".to_owned(),
        other => other.strip_prefix("/args").map_or_else(|| other.to_owned(), |rest| format!("/operation/data{rest}")),
    }
}

/// The operation's arguments, and the job's time-out where earlier data held it. What is not known is left for the operation to refuse.
fn arguments(operation: Operation, mut data: Map<String, Value>) -> (Map<String, Value>, Option<String>) {
    match operation {
        Operation::CommandExec => {
            join_command(&mut data);
            let timeout = take_seconds(&mut data);
            (data, timeout)
        }
        Operation::CommandShell => {
            let timeout = take_seconds(&mut data);
            (data, timeout)
        }
        Operation::NetworkDnsGet | Operation::NetworkDnsSet => {
            for (earlier, ours) in [("interface_name", "interface"), ("dns_servers", "servers"), ("search_domains", "search")] {
                rename(&mut data, earlier, ours);
            }
            (data, None)
        }
        Operation::NetworkPingRun => {
            rename(&mut data, "target", "address");
            if let Some(timeout) = take_seconds(&mut data) {
                data.insert("timeout".to_owned(), timeout.into());
            }
            (data, None)
        }
        Operation::NodeHostnameSet => {
            rename(&mut data, "name", "hostname");
            (data, None)
        }
        Operation::NodeDiskGet
        | Operation::NodeHostnameGet
        | Operation::NodeLoadGet
        | Operation::NodeMemoryGet
        | Operation::NodeOsGet
        | Operation::NodeStatusGet
        | Operation::NodeUptimeGet
        | Operation::PackageInstall
        | Operation::PackageList
        | Operation::PackageRun
        | Operation::PackageUninstall
        | Operation::WorkspaceRun => (data, None),
    }
}

/// Gives a field its name of today, unless that is there too: then the earlier one is left to be refused.
fn rename(data: &mut Map<String, Value>, earlier: &str, ours: &str) {
    if !data.contains_key(ours)
        && let Some(value) = data.remove(earlier)
    {
        data.insert(ours.to_owned(), value);
    }
}

/// `{command: "ls", args: ["-l"]}` is `{command: ["ls", "-l"]}`.
fn join_command(data: &mut Map<String, Value>) {
    let Some(Value::String(program)) = data.get("command") else { return };
    let mut words = vec![Value::String(program.clone())];
    match data.get("args") {
        Some(Value::Array(args)) => words.extend(args.iter().cloned()),
        Some(Value::Null) | None => {}
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => return,
    }
    data.remove("args");
    data.insert("command".to_owned(), Value::Array(words));
}

/// Takes a time-out in whole seconds; 0 stands for the usual one. One with a unit is ours, and stays.
fn take_seconds(data: &mut Map<String, Value>) -> Option<String> {
    let seconds = data.get("timeout")?.as_u64()?;
    data.remove("timeout");
    (seconds > 0).then(|| format!("{seconds}s"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_operation_has_an_earlier_name_that_means_it() {
        for operation in Operation::ALL {
            let name = earlier_name(operation.name());
            assert!(NAMES.contains(&(name, operation)), "{name}");
        }
        assert_eq!(earlier_name("gone.since"), "gone.since");
    }

    #[test]
    fn earlier_data_become_todays_arguments() {
        let rows = [
            (
                "command.exec.execute",
                json!({"command": "ls", "args": ["-l", "/"], "cwd": "/", "timeout": 5}),
                json!({"command": ["ls", "-l", "/"], "cwd": "/"}),
                Some("5s"),
            ),
            ("command.exec.execute", json!({"command": "true", "timeout": 0}), json!({"command": ["true"]}), None),
            ("command.exec.execute", json!({"command": ["true"]}), json!({"command": ["true"]}), None),
            ("command.exec.execute", json!({"command": "ls", "args": "x"}), json!({"command": "ls", "args": "x"}), None),
            ("command.shell.execute", json!({"command": "ls", "timeout": 7}), json!({"command": "ls"}), Some("7s")),
            ("network.dns.get", json!({"interface_name": "eth0"}), json!({"interface": "eth0"}), None),
            ("network.dns.get", json!({"interface_name": "a", "interface": "b"}), json!({"interface_name": "a", "interface": "b"}), None),
            (
                "network.dns.update",
                json!({"dns_servers": ["192.0.2.1"], "search_domains": ["x.test"], "interface_name": "eth0"}),
                json!({"servers": ["192.0.2.1"], "search": ["x.test"], "interface": "eth0"}),
                None,
            ),
            (
                "network.ping.do",
                json!({"target": "192.0.2.1", "count": 2, "timeout": 3}),
                json!({"address": "192.0.2.1", "count": 2, "timeout": "3s"}),
                None,
            ),
            (
                "network.ping.execute",
                json!({"address": "192.0.2.1", "timeout": "3s"}),
                json!({"address": "192.0.2.1", "timeout": "3s"}),
                None,
            ),
            ("node.hostname.update", json!({"hostname": "web-02"}), json!({"hostname": "web-02"}), None),
        ];
        for (name, data, args, timeout) in rows {
            let earlier = json!({"operation": {"type": name, "data": data}, "target_hostname": "_any"});
            let request = request(serde_json::from_value(earlier).unwrap()).unwrap();
            assert_eq!((request.args, request.timeout.as_deref()), (args, timeout), "{name}");
        }
    }

    #[test]
    fn our_own_names_are_understood() {
        let earlier = json!({"operation": {"type": "network.ping.run", "data": null}});
        let request = request(serde_json::from_value(earlier).unwrap()).unwrap();
        assert_eq!((request.operation.as_str(), request.args, request.target.as_str()), ("network.ping.run", json!({}), "_any"));
    }
}
