//! What steps inherit of the worker's environment: everything but its credentials and what is about the worker itself.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::flags::Said;

/// Variables that are the worker's own.
const OWN: &[&str] = &["NATS_USERNAME", "NATS_PASSWORD", "NATS_TOKEN", "NATS_CREDS", "NATS_NKEY", "PWD", "OLDPWD", "_", "CI"];
/// What the names of Longshore's own variables begin with.
const OWN_PREFIX: &str = "LONGSHORE_";
/// Bytes from which on a secret is looked for within values, too: what is shorter is everywhere.
const FOUND_BYTES_MIN: usize = 6;

/// What steps inherit. Variables that are not UTF-8 are not among it.
pub(super) fn inherited(variables: impl Iterator<Item = (OsString, OsString)>, said: &Said) -> BTreeMap<String, String> {
    let in_url =
        said.url.split(',').filter_map(|url| Some(url.split_once("://").map_or(url, |(_, rest)| rest).rsplit_once('@')?.0.to_owned()));
    let mut secrets: Vec<String> = [&said.password, &said.token].into_iter().flatten().cloned().collect();
    for login in in_url {
        secrets.extend(login.split_once(':').map(|(_, password)| password.to_owned()));
        secrets.push(login);
    }
    let is_secret = |value: &String| {
        secrets
            .iter()
            .filter(|secret| !secret.is_empty())
            .any(|secret| value == secret || secret.len() >= FOUND_BYTES_MIN && value.contains(secret.as_str()))
    };
    let texts = variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    texts.filter(|(name, value)| !OWN.contains(&name.as_str()) && !name.starts_with(OWN_PREFIX) && !is_secret(value)).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::command::workspace::Workspace;

    #[test]
    fn steps_inherit_everything_but_secrets_whatever_they_are_called() {
        let line = ["longshore", "workspace", "worker", "-u", "nats://ann:hunter2x@h:1", "-p", "pass word", "-t", "tok"];
        let Command::Workspace(Workspace::Worker(worker)) = Cli::try_parse_from(line).unwrap().command else { panic!() };
        let variables = [
            ("PATH", "/bin"),
            ("NPM_TOKEN", "npm"),
            ("NATS_URL", "nats://ann:hunter2x@h:1"),
            ("NATS_STREAM", "JOBS"),
            ("NATS_PASSWORD", "x"),
            ("NATS_TOKEN", "y"),
            ("NATS_CREDS", "/z"),
            ("NATS_USERNAME", "ann"),
            ("MY_COPY", "pass word"),
            ("WITHIN", "a=pass word;"),
            ("SHORT", "tok"),
            ("STOCK", "in stock: tok"),
            ("LONGSHORE_TOKEN", "t"),
            ("PWD", "/here"),
        ];
        let inherited = inherited(variables.into_iter().map(|(name, value)| (name.into(), value.into())), &worker.said());
        assert_eq!(inherited.keys().map(String::as_str).collect::<Vec<_>>(), ["NATS_STREAM", "NPM_TOKEN", "PATH", "STOCK"]);
    }
}
