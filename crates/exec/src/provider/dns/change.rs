//! `network.dns.set`. What is already so is left alone, unless an earlier change of ours may not have taken effect: a note in the
//! state directory says so from before a file is written until the service that reads it has taken it. A change that the service
//! refuses is taken back.

use std::time::Duration;

use longshore_model::operation::{DnsChange, InterfaceName};
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::result::{DnsSetResult, DnsSource};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::parse::{self, Definition, Settings};
use super::{
    RESOLV_CONF, TOOL_LIMIT, ask_resolved, check_interface, hardware_address, has_resolved, is_resolveds, netplan_files, nothing, read,
};
use crate::executor::Host;
use crate::finished::Finished;
use crate::process::Stops;
use crate::provider::{Ended, answer, tool};

/// Read after everybody else's, and ours alone.
const NETPLAN_FILE: &str = "/etc/netplan/90-longshore-dns.yaml";
const DROP_IN: &str = "/etc/systemd/resolved.conf.d/90-longshore.conf";
/// Reconfiguring the network can take its time.
const APPLY_LIMIT: Duration = Duration::from_secs(90);
/// Servers the C library reads from `/etc/resolv.conf`.
const RESOLV_CONF_SERVERS_MAX: usize = 3;

/// `network.dns.set`. Safe to repeat.
pub(crate) async fn set(host: &Host, change: &DnsChange, stops: &Stops) -> Finished {
    match perform(host, change, stops).await {
        Ok(finished) => finished,
        Err(finished) => *finished,
    }
}

/// A change in the words of the files.
struct Wanted<'a> {
    interface: Option<&'a InterfaceName>,
    servers: Vec<String>,
    search: Option<Vec<String>>,
}

async fn perform(host: &Host, change: &DnsChange, stops: &Stops) -> Ended<Finished> {
    let _one_at_a_time = tool::settings(host, stops).await?;
    let wanted = Wanted {
        interface: change.interface.as_ref(),
        servers: change.servers.iter().map(ToString::to_string).collect(),
        search: change.search.as_ref().map(|search| search.iter().map(ToString::to_string).collect()),
    };
    if let Some(interface) = wanted.interface {
        check_interface(host, interface)?;
    }
    let (changed, source, file) = by_whom(host, &wanted, stops).await?;
    let interface = wanted.interface.map(ToString::to_string);
    Ok(answer(changed, &DnsSetResult { servers: wanted.servers, search: wanted.search, source, interface, file }))
}

/// Whether something changed, who has the say, and the file it is in.
type Done = (bool, DnsSource, Option<String>);

async fn by_whom(host: &Host, wanted: &Wanted<'_>, stops: &Stops) -> Ended<Done> {
    if let Some(netplan) = host.find("netplan")
        && let Some(changed) = with_netplan(host, &netplan, wanted, stops).await?
    {
        return Ok((changed, DnsSource::Netplan, Some(NETPLAN_FILE.to_owned())));
    }
    match (has_resolved(host)?, wanted.interface) {
        (true, Some(interface)) => Ok((with_resolvectl(host, interface, wanted, stops).await?, DnsSource::SystemdResolved, None)),
        (true, None) => Ok((with_drop_in(host, wanted, stops).await?, DnsSource::SystemdResolved, Some(DROP_IN.to_owned()))),
        (false, Some(interface)) => {
            let message = format!(
                "name servers of one interface ({interface}) take netplan with a definition of it, or systemd-resolved; \
                 this host has neither: leave the interface out to set those of the whole host"
            );
            Err(Finished::failed(ErrorCode::Unsupported, message).into())
        }
        (false, None) => {
            let (changed, path) = in_resolv_conf(host, wanted).await?;
            Ok((changed, DnsSource::ResolvConf, Some(path)))
        }
    }
}

/// `None` if netplan does not define the interface.
async fn with_netplan(host: &Host, netplan: &str, wanted: &Wanted<'_>, stops: &Stops) -> Ended<Option<bool>> {
    let interface = match wanted.interface {
        Some(interface) => Some(interface.to_string()),
        None => parse::default_interface(&read(host, "/proc/net/route")?.unwrap_or_default()),
    };
    let Some(interface) = interface else { return Ok(None) };
    let mac = hardware_address(host, &interface);
    let (ours, others): (Vec<_>, Vec<_>) = netplan_files(host)?.into_iter().partition(|file| file.path == NETPLAN_FILE);
    let definition = others.iter().flat_map(|file| &file.definitions).find(|definition| definition.is_for(&interface, &mac));
    let Some(definition) = definition.cloned() else { return Ok(None) };

    let same = |other: &Definition| other.section == definition.section && other.id == definition.id;
    // Netplan adds the lists of its files up, so a file of ours cannot take away what another says.
    for file in &others {
        for Settings { servers, search } in file.definitions.iter().filter(|other| same(other)).map(|other| &other.settings) {
            let foreign_search = |domain: &&String| wanted.search.as_ref().is_some_and(|search| !search.contains(domain));
            let foreign = servers.iter().find(|server| !wanted.servers.contains(server)).or_else(|| search.iter().find(foreign_search));
            if let Some(foreign) = foreign {
                let message = format!(
                    "{} gives {interface} {foreign}, and netplan adds up what its files say: remove it there, or ask for it too; nothing was changed",
                    file.path
                );
                return Err(Finished::failed(ErrorCode::HostFault, message).into());
            }
        }
    }

    let mut definitions: Vec<_> = ours.into_iter().flat_map(|file| file.definitions).collect();
    let kept = definitions.iter().position(same).map(|at| definitions.remove(at).settings.search).unwrap_or_default();
    let settings = Settings { servers: wanted.servers.clone(), search: wanted.search.clone().unwrap_or(kept) };
    definitions.push(Definition::in_place_of(&definition, settings));
    definitions.sort_by(|a, b| (&a.section, &a.id).cmp(&(&b.section, &b.id)));
    let file = File { path: NETPLAN_FILE, content: parse::netplan_file(&definitions), mode: 0o600 };
    let changed = file.put(host, stops, &[(netplan, &["generate"]), (netplan, &["apply"])]).await?;
    Ok(Some(changed))
}

async fn with_drop_in(host: &Host, wanted: &Wanted<'_>, stops: &Stops) -> Ended<bool> {
    let Some(systemctl) = host.find("systemctl") else {
        return Err(missing("systemctl").into());
    };
    let kept = read(host, DROP_IN)?.as_deref().and_then(parse::drop_in_search);
    let search = wanted.search.clone().or(kept);
    let file = File { path: DROP_IN, content: parse::drop_in(&wanted.servers, search.as_deref()), mode: 0o644 };
    file.put(host, stops, &[(&systemctl, &["--no-ask-password", "--", "reload-or-restart", "systemd-resolved.service"])]).await
}

async fn with_resolvectl(host: &Host, interface: &InterfaceName, wanted: &Wanted<'_>, stops: &Stops) -> Ended<bool> {
    let Some(resolvectl) = host.find("resolvectl") else {
        return Err(missing("resolvectl").into());
    };
    let now = ask_resolved(host, &resolvectl, Some(interface), stops).await?;
    let is = now.servers.iter().map(|server| parse::address(server).map(|address| address.to_string()));
    let mut changed = false;
    if !is.eq(wanted.servers.iter().map(|server| Some(server.clone()))) {
        let args: Vec<_> = ["--", "dns", interface.as_str()].into_iter().chain(wanted.servers.iter().map(String::as_str)).collect();
        tool::run(host, &resolvectl, &args, TOOL_LIMIT, stops).await?;
        changed = true;
    }
    if let Some(search) = wanted.search.as_ref().filter(|search| **search != now.search) {
        let mut args: Vec<_> = ["--", "domain", interface.as_str()].into_iter().chain(search.iter().map(String::as_str)).collect();
        if search.is_empty() {
            args.push("");
        }
        tool::run(host, &resolvectl, &args, TOOL_LIMIT, stops).await?;
        changed = true;
    }
    Ok(changed)
}

fn missing(program: &str) -> Finished {
    Finished::failed(
        ErrorCode::Unsupported,
        format!("systemd-resolved manages the host's name servers, but {program} is not on the agent's PATH"),
    )
}

async fn in_resolv_conf(host: &Host, wanted: &Wanted<'_>) -> Ended<(bool, String)> {
    let machine = &host.machine;
    let fault = |doing: &str, path: &str, error: &std::io::Error| Box::new(Finished::system_fault(format_args!("{doing} {path}"), error));
    let path = machine.real_path(RESOLV_CONF).map_err(|error| fault("follow", RESOLV_CONF, &error))?;
    if is_resolveds(&path) || path.starts_with("/run/") {
        let message = format!(
            "{RESOLV_CONF} points to {path}, which a service writes that does not run, or that we do not know: nothing was changed"
        );
        return Err(Finished::failed(ErrorCode::HostFault, message).into());
    }
    if wanted.servers.len() > RESOLV_CONF_SERVERS_MAX {
        let message = format!("{path} takes {RESOLV_CONF_SERVERS_MAX} servers at most: the rest would never be asked; nothing was changed");
        return Err(Finished::failed(ErrorCode::Validation, message).into());
    }
    let before = match machine.read(&path) {
        Ok(content) => content,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(nothing().into()),
        Err(error) => return Err(fault("read", &path, &error)),
    };
    let text = String::from_utf8(before)
        .map_err(|_| Finished::failed(ErrorCode::HostFault, format!("{path} is not text; nothing was changed")))?;
    let now = parse::resolv_conf(&text);
    if now.servers == wanted.servers && wanted.search.as_ref().is_none_or(|search| *search == now.search) {
        return Ok((false, path));
    }
    let content = parse::resolv_conf_with(&text, &wanted.servers, wanted.search.as_deref());
    machine.replace(&path, content, None).await.map_err(|error| fault("write", &path, &error))?;
    Ok((true, path))
}

/// A file of ours that a service reads.
struct File {
    path: &'static str,
    content: String,
    mode: u32,
}

impl File {
    /// Writes it and has it taken by the service, unless that is so already.
    async fn put(&self, host: &Host, stops: &Stops, applying: &[(&str, &[&str])]) -> Ended<bool> {
        let Self { path, content, mode } = self;
        let before = read(host, path)?;
        let note = host.launcher.state_dir.clone() + "/dns-unapplied";
        let is_noted = std::path::Path::new(&note).exists();
        if before.as_ref() == Some(content) && !is_noted {
            return Ok(false);
        }
        std::fs::write(&note, path).map_err(|error| Finished::system_fault(format_args!("write {note}"), &error))?;
        if let Err(error) = host.machine.replace(path, content.as_str(), Some(*mode)).await {
            if !is_noted {
                let _at_worst_applied_again = std::fs::remove_file(&note);
            }
            return Err(Finished::system_fault(format_args!("write {path}"), &error).into());
        }
        let Err(mut finished) = apply(host, stops, applying).await else {
            let _at_worst_applied_again = std::fs::remove_file(&note);
            return Ok(true);
        };
        let restored = match &before {
            Some(before) => host.machine.replace(path, before.as_str(), Some(*mode)).await,
            None => host.machine.remove(path),
        };
        // That of the job may be what is over.
        let own_time = Stops { cancel: CancellationToken::new(), abandon: stops.abandon.clone(), deadline: Instant::now() + APPLY_LIMIT };
        let told = match restored {
            Ok(()) if apply(host, &own_time, applying).await.is_ok() => {
                let _at_worst_applied_again = std::fs::remove_file(&note);
                "; the settings from before are in effect again".to_owned()
            }
            Ok(()) => format!("; {path} is as it was before"),
            Err(error) => format!("; and {path} could not be put back: {error}"),
        };
        if let Some(failure) = &mut finished.failure {
            failure.message.push_str(&told);
        }
        Err(finished)
    }
}

async fn apply(host: &Host, stops: &Stops, programs: &[(&str, &[&str])]) -> Ended<()> {
    for (program, args) in programs {
        tool::run(host, program, args, APPLY_LIMIT, stops).await?;
    }
    Ok(())
}
