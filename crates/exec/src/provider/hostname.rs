//! `node.hostname.*`: the host's name, which is in the kernel until the next boot and in `/etc/hostname` after it.

use std::time::Duration;

use longshore_model::operation::NodeName;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::result::{HostnameResult, HostnameSetResult};
use rustix::io::Errno;

use super::{Ended, answer, tool};
use crate::executor::Host;
use crate::finished::Finished;
use crate::process::Stops;

const STORED: &str = "/etc/hostname";
const TOOL_LIMIT: Duration = Duration::from_secs(30);

/// `node.hostname.get`.
pub(crate) fn get(host: &Host) -> Finished {
    answer(false, &HostnameResult { hostname: host.machine.hostname() })
}

/// `node.hostname.set`. Safe to repeat: what is already so is left alone.
pub(crate) async fn set(host: &Host, name: &NodeName, stops: &Stops) -> Finished {
    match change(host, name, stops).await {
        Ok(finished) => finished,
        Err(finished) => *finished,
    }
}

async fn change(host: &Host, name: &NodeName, stops: &Stops) -> Ended<Finished> {
    let _one_at_a_time = tool::settings(host, stops).await?;
    let machine = &host.machine;
    let previous = machine.hostname();
    let stored = machine.read_text(STORED).map_err(|error| Finished::system_fault(format_args!("read {STORED}"), &error))?;
    let result = HostnameSetResult { hostname: name.to_string(), previous: previous.clone() };
    if previous == name.as_str() && stored.as_deref().and_then(name_in) == Some(name.as_str()) {
        return Ok(answer(false, &result));
    }
    match host.find("hostnamectl").filter(|_| machine.at("/run/systemd/system").is_dir()) {
        Some(hostnamectl) => {
            tool::run(host, &hostnamectl, &["--no-ask-password", "--", "set-hostname", name.as_str()], TOOL_LIMIT, stops).await?;
            let now = machine.hostname();
            if now != name.as_str() {
                let message = format!("{hostnamectl} said that it was done, but the host's name is {now:?}");
                return Err(Finished::failed(ErrorCode::HostFault, message).into());
            }
        }
        None => {
            // First where the right to do it shows: a file that says otherwise than the kernel would be half a change.
            machine.set_hostname(name).map_err(|error| match error.raw_os_error() {
                Some(errno) if errno == Errno::NOSYS.raw_os_error() => Finished::skipped("the platform has no way to set a host's name"),
                _ => Finished::system_fault("set the host's name", &error),
            })?;
            machine.replace(STORED, format!("{name}\n"), None).await.map_err(|error| {
                Finished::system_fault(format_args!("write {STORED} (the name is set, but will not survive a reboot)"), &error)
            })?;
        }
    }
    Ok(answer(true, &result))
}

/// The name in the text of `/etc/hostname`.
fn name_in(text: &str) -> Option<&str> {
    text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_name_is_the_first_line_that_says_something() {
        for (text, expected) in [("web-01\n", Some("web-01")), ("# why\n\n web-01 \nother\n", Some("web-01")), ("", None), ("\n#\n", None)]
        {
            assert_eq!(name_in(text), expected, "{text:?}");
        }
    }
}
