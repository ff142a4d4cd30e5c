//! `network.dns.*`: where a host looks names up, and who on it has the say.
//!
//! ```text
//!                  reading                                setting
//!   host           resolved, netplan's files,             netplan for the interface of the default route,
//!                  /etc/resolv.conf                       a drop-in of resolved, /etc/resolv.conf
//!   interface      resolved, netplan's files,             netplan, resolved until the link goes down
//!                  what holds for the host
//! ```
//!
//! Systemd-resolved has the say where it runs and `/etc/resolv.conf` is its own or points programs to it; netplan where it has files.

mod change;
mod parse;

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_model::operation::InterfaceName;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::result::{DnsResult, DnsSource};

pub(crate) use change::set;

use self::parse::{Definition, Settings};
use super::{Ended, answer, no_interface, tool};
use crate::executor::Host;
use crate::finished::Finished;
use crate::process::Stops;

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// What resolved uses at the moment, over all interfaces.
const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// Where netplan's files are; a later directory's file hides an earlier one's of the same name.
const NETPLAN_DIRS: [&str; 3] = ["/lib/netplan", "/etc/netplan", "/run/netplan"];
const TOOL_LIMIT: Duration = Duration::from_secs(20);

/// A netplan file and what it says.
struct NetplanFile {
    path: String,
    definitions: Vec<Definition>,
}

/// `network.dns.get`.
pub(crate) async fn get(host: &Host, interface: Option<&InterfaceName>, stops: &Stops) -> Finished {
    let read = match interface {
        Some(interface) => of_interface(host, interface, stops).await,
        None => of_host(host, stops).await,
    };
    match read {
        Ok(result) => answer(false, &result),
        Err(finished) => *finished,
    }
}

async fn of_interface(host: &Host, interface: &InterfaceName, stops: &Stops) -> Ended<DnsResult> {
    check_interface(host, interface)?;
    let given = |settings, source, read_from| DnsResult { interface: Some(interface.to_string()), ..result(settings, source, read_from) };
    if has_resolved(host)?
        && let Some(resolvectl) = host.find("resolvectl")
    {
        let settings = ask_resolved(host, &resolvectl, Some(interface), stops).await?;
        return Ok(given(settings, DnsSource::SystemdResolved, resolvectl));
    }
    let mac = hardware_address(host, interface.as_str());
    for file in netplan_files(host)?.into_iter().rev() {
        let mut fitting = file.definitions.into_iter().filter(|definition| definition.is_for(interface.as_str(), &mac));
        if let Some(found) = fitting.find(|definition| !definition.settings.servers.is_empty()) {
            return Ok(given(found.settings, DnsSource::Netplan, file.path));
        }
    }
    of_host(host, stops).await
}

async fn of_host(host: &Host, stops: &Stops) -> Ended<DnsResult> {
    if has_resolved(host)? {
        if let Some(text) = read(host, RESOLVED_CONF)? {
            return Ok(result(parse::resolv_conf(&text), DnsSource::SystemdResolved, RESOLVED_CONF.to_owned()));
        }
        if let Some(resolvectl) = host.find("resolvectl") {
            let settings = ask_resolved(host, &resolvectl, None, stops).await?;
            return Ok(result(settings, DnsSource::SystemdResolved, resolvectl));
        }
    }
    let (mut all, mut paths) = (Settings::default(), Vec::new());
    for NetplanFile { path, definitions } in netplan_files(host)? {
        let settings: Vec<_> = definitions.into_iter().map(|definition| definition.settings).collect();
        if settings.iter().any(|settings| !settings.servers.is_empty()) {
            paths.push(path);
        }
        for Settings { servers, search } in settings {
            add(&mut all.servers, servers);
            add(&mut all.search, search);
        }
    }
    if !all.servers.is_empty() {
        return Ok(result(all, DnsSource::Netplan, paths.join(", ")));
    }
    match read(host, RESOLV_CONF)? {
        Some(text) => Ok(result(parse::resolv_conf(&text), DnsSource::ResolvConf, RESOLV_CONF.to_owned())),
        None => Err(nothing().into()),
    }
}

fn result(settings: Settings, source: DnsSource, read_from: String) -> DnsResult {
    DnsResult { servers: settings.servers, search: settings.search, source, read_from, interface: None }
}

fn nothing() -> Finished {
    Finished::skipped(
        "the host has neither systemd-resolved nor netplan nor /etc/resolv.conf: nothing that could say where names are looked up",
    )
}

fn add(all: &mut Vec<String>, more: Vec<String>) {
    for entry in more {
        if !all.contains(&entry) {
            all.push(entry);
        }
    }
}

fn read(host: &Host, path: &str) -> Ended<Option<String>> {
    host.machine.read_text(path).map_err(|error| Finished::system_fault(format_args!("read {path}"), &error).into())
}

fn check_interface(host: &Host, interface: &InterfaceName) -> Ended<()> {
    if host.machine.at("/sys/class/net").join(interface.as_str()).exists() { Ok(()) } else { Err(no_interface(host, interface).into()) }
}

fn hardware_address(host: &Host, interface: &str) -> String {
    host.machine.read_text(&format!("/sys/class/net/{interface}/address")).ok().flatten().unwrap_or_default().trim().to_owned()
}

/// Whether systemd-resolved has the say.
fn has_resolved(host: &Host) -> Ended<bool> {
    if !host.machine.at("/run/systemd/resolve").is_dir() {
        return Ok(false);
    }
    let real = host.machine.real_path(RESOLV_CONF).map_err(|error| Finished::system_fault(format_args!("follow {RESOLV_CONF}"), &error))?;
    if is_resolveds(&real) {
        return Ok(true);
    }
    let Some(text) = read(host, &real)? else { return Ok(true) };
    let servers = parse::resolv_conf(&text).servers;
    Ok(!servers.is_empty() && servers.iter().all(|server| matches!(server.as_str(), "127.0.0.53" | "127.0.0.54")))
}

/// Whether a file that `/etc/resolv.conf` points to belongs to systemd-resolved.
fn is_resolveds(path: &str) -> bool {
    ["/run/systemd/", "/usr/lib/systemd/", "/lib/systemd/"].iter().any(|dir| path.starts_with(dir))
}

async fn ask_resolved(host: &Host, resolvectl: &str, interface: Option<&InterfaceName>, stops: &Stops) -> Ended<Settings> {
    let ask = async |verb| {
        let args: Vec<_> = ["--", verb].into_iter().chain(interface.map(InterfaceName::as_str)).collect();
        tool::run(host, resolvectl, &args, TOOL_LIMIT, stops).await.map(|text| parse::resolvectl(&text))
    };
    Ok(Settings { servers: ask("dns").await?, search: ask("domain").await? })
}

/// Netplan's files, in the order in which they add to each other.
fn netplan_files(host: &Host) -> Ended<Vec<NetplanFile>> {
    let mut paths = BTreeMap::new();
    for dir in NETPLAN_DIRS {
        paths.extend(
            host.machine.names(dir, |name| name.ends_with(".yaml")).into_iter().map(|name| (name.clone(), format!("{dir}/{name}"))),
        );
    }
    let mut files = Vec::new();
    for path in paths.into_values() {
        let definitions = parse::netplan(&read(host, &path)?.unwrap_or_default())
            .map_err(|error| Finished::failed(ErrorCode::HostFault, format!("{path} is not a netplan file: {error}")))?;
        files.push(NetplanFile { path, definitions });
    }
    Ok(files)
}
