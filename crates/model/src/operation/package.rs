//! Packages: which is installed or removed, and which node of which is run, with what its handler gets.

use serde_json::{Map, Value};

use super::call::{CallError, fault, is_sha256, stored};
use super::secret;
use crate::limits::{PACKAGE_NAME_BYTES_MAX, PACKAGE_URL_BYTES_MAX, PARAMETERS_BYTES_MAX, PARAMETERS_DEPTH_MAX};
use crate::unit::ByteSize;
use crate::wire::args::{PackageArgs, PackageInstallArgs, PackageUninstallArgs};
use crate::wire::secret::Secrets;

/// Where handlers find what they are bound to, secrets among it, in their parameters: the name that packages for the existing worker know.
pub const RESOURCE_BINDINGS: &str = "__resourceBindings";

/// What `package.run` does. Every name is one that a package can have, so it is safe in a path.
#[derive(Debug, Clone, PartialEq)]
pub struct PackageRun {
    /// The package.
    pub package: String,
    /// Its version; the highest that its host has unless given.
    pub version: Option<String>,
    /// Which of its nodes.
    pub node: String,
    /// What its handler gets; at most [`PARAMETERS_BYTES_MAX`] as JSON.
    pub parameters: Map<String, Value>,
    /// What it gets beside them and nobody else may see. No name is among the parameters' [`RESOURCE_BINDINGS`].
    pub secrets: Secrets,
}

impl PackageRun {
    pub(super) fn parse(PackageArgs { package, version, node, parameters, secrets }: PackageArgs) -> Result<Self, CallError> {
        check_identity(&package, version.as_deref())?;
        if !is_node_type(&node) {
            let what = format!("is not a node's type: letters, digits and `_.-`, {PACKAGE_NAME_BYTES_MAX} bytes at most");
            return Err(fault("/args/node", what));
        }
        if parameters.values().any(|value| is_deeper_than(value, PARAMETERS_DEPTH_MAX - 1)) {
            return Err(fault("/args/parameters", format!("is nested more than {PARAMETERS_DEPTH_MAX} deep")));
        }
        if serde_json::to_vec(&parameters).map_or(usize::MAX, |json| json.len()) > PARAMETERS_BYTES_MAX {
            return Err(fault("/args/parameters", format!("at most {} as JSON", ByteSize(PARAMETERS_BYTES_MAX as u64))));
        }
        secret::check("/args/secrets", &secrets, &[])?;
        check_bindings(&parameters, &secrets)?;
        Ok(Self { package, version, node, parameters, secrets })
    }

    /// With no more of its secrets than may be stored.
    pub(super) fn args(&self) -> PackageArgs {
        let Self { package, version, node, parameters, secrets } = self.clone();
        PackageArgs { package, version, node, parameters, secrets: stored(&secrets) }
    }
}

/// Nothing that was given in the clear is replaced by a secret.
fn check_bindings(parameters: &Map<String, Value>, secrets: &Secrets) -> Result<(), CallError> {
    let Some(bindings) = parameters.get(RESOURCE_BINDINGS).filter(|_| !secrets.is_empty()) else { return Ok(()) };
    let Value::Object(bindings) = bindings else {
        return Err(fault(format!("/args/parameters/{RESOURCE_BINDINGS}"), "must be an object, since there are secrets to put into it"));
    };
    match secrets.keys().find(|name| bindings.contains_key(name.as_str())) {
        Some(name) => Err(fault("/args/secrets", format!("{name:?} is in `parameters.{RESOURCE_BINDINGS}`, too"))),
        None => Ok(()),
    }
}

/// What `package.install` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageInstall {
    /// The package that it must be.
    pub package: String,
    /// The version that it must have.
    pub version: String,
    /// Where its archive is: `http`, `https` or `file`, at most [`PACKAGE_URL_BYTES_MAX`].
    pub url: String,
    /// SHA-256 that the archive must have, 64 lower-case hex digits.
    pub sha256: Option<String>,
}

impl PackageInstall {
    pub(super) fn parse(PackageInstallArgs { package, version, url, sha256 }: PackageInstallArgs) -> Result<Self, CallError> {
        check_identity(&package, Some(&version))?;
        let rest = ["http://", "https://", "file://"].iter().find_map(|scheme| url.strip_prefix(scheme));
        if url.len() > PACKAGE_URL_BYTES_MAX || rest.is_none_or(str::is_empty) || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
            let what = format!("is not an address: `http://…`, `https://…` or `file://…`, {PACKAGE_URL_BYTES_MAX} bytes at most");
            return Err(fault("/args/url", what));
        }
        // Everybody who may read the job would read it.
        if rest.is_some_and(|rest| rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@'))) {
            return Err(fault("/args/url", "has a user or a password in it, which is kept nowhere secret"));
        }
        if sha256.as_deref().is_some_and(|sha256| !is_sha256(sha256)) {
            return Err(fault("/args/sha256", "is not a digest: 64 digits of 0-9 and a-f"));
        }
        Ok(Self { package, version, url, sha256 })
    }

    pub(super) fn args(&self) -> PackageInstallArgs {
        let Self { package, version, url, sha256 } = self.clone();
        PackageInstallArgs { package, version, url, sha256 }
    }
}

/// What `package.uninstall` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageUninstall {
    /// The package.
    pub package: String,
    /// Its version; every version unless given.
    pub version: Option<String>,
}

impl PackageUninstall {
    pub(super) fn parse(PackageUninstallArgs { package, version }: PackageUninstallArgs) -> Result<Self, CallError> {
        check_identity(&package, version.as_deref())?;
        Ok(Self { package, version })
    }

    pub(super) fn args(&self) -> PackageUninstallArgs {
        let Self { package, version } = self.clone();
        PackageUninstallArgs { package, version }
    }
}

fn check_identity(package: &str, version: Option<&str>) -> Result<(), CallError> {
    if !is_package_name(package) {
        let what =
            format!("is not a package's name: words of a-z and 0-9 with one of `._-` between them, {PACKAGE_NAME_BYTES_MAX} bytes at most");
        return Err(fault("/args/package", what));
    }
    if version.is_some_and(|version| !is_version(version)) {
        return Err(fault("/args/version", "is not a version, such as `1.2.0`"));
    }
    Ok(())
}

/// `^[a-z0-9]+([._-][a-z0-9]+)*$`
fn is_package_name(text: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    text.len() <= PACKAGE_NAME_BYTES_MAX && text.split(['.', '_', '-']).all(is_word)
}

fn is_version(text: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-');
    text.len() <= PACKAGE_NAME_BYTES_MAX && text.starts_with(|first: char| first.is_ascii_digit()) && text.bytes().all(sound)
}

fn is_node_type(text: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=PACKAGE_NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(sound)
}

/// The descent ends at the limit, so the stack is bounded too.
fn is_deeper_than(value: &Value, left: usize) -> bool {
    match value {
        Value::Array(items) => left == 0 || items.iter().any(|item| is_deeper_than(item, left - 1)),
        Value::Object(fields) => left == 0 || fields.values().any(|field| is_deeper_than(field, left - 1)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::operation::Call;

    #[track_caller]
    fn fault_of(args: serde_json::Value) -> Option<String> {
        Call::parse("package.run", args).err().map(|error| error.to_string())
    }

    #[test]
    fn arguments_of_a_package_survive_their_text() {
        let args = json!({"package": "example.pkg", "version": "1.2.0", "node": "example.echo", "parameters": {"a": [1, {"b": null}]}});
        assert_eq!(Call::parse("package.run", args.clone()).unwrap().args_json(), args);
        let least = json!({"package": "p", "node": "N"});
        assert_eq!(Call::parse("package.run", least.clone()).unwrap().args_json(), least);
    }

    #[test]
    fn names_that_no_package_can_have_are_refused_by_field() {
        let long = "x".repeat(200);
        for package in ["", "../victim", "/etc", "A", "a..b", ".a", "a b", "a/b", long.as_str()] {
            assert!(fault_of(json!({"package": package, "node": "n"})).unwrap().starts_with("/args/package"), "{package:?}");
        }
        for version in ["", "../1", "v1", "1 2"] {
            assert!(
                fault_of(json!({"package": "p", "node": "n", "version": version})).unwrap().starts_with("/args/version"),
                "{version:?}"
            );
        }
        for node in ["", "a/b", "a b", long.as_str()] {
            assert!(fault_of(json!({"package": "p", "node": node})).unwrap().starts_with("/args/node"), "{node:?}");
        }
        assert!(fault_of(json!({"package": "p", "node": "n", "more": 1})).is_some());
    }

    #[test]
    fn a_secret_takes_no_place_that_the_parameters_have() {
        let with = |bindings: serde_json::Value, name: &str| {
            fault_of(json!({"package": "p", "node": "n", "parameters": {"__resourceBindings": bindings}, "secrets": {name: "hunter2"}}))
        };
        assert_eq!(with(json!({"other": {"value": "x"}}), "key"), None);
        for (bindings, expected) in
            [(json!({"key": {}}), "/args/secrets: \"key\" is in"), (json!([]), "/args/parameters/__resourceBindings")]
        {
            let refusal = with(bindings, "key").unwrap();
            assert!(refusal.starts_with(expected) && !refusal.contains("hunter2"), "{refusal}");
        }
    }

    #[test]
    fn what_is_to_be_installed_or_removed_survives_its_text_and_is_refused_by_field() {
        let digest = "0".repeat(64);
        let install = json!({"package": "p", "version": "1.0.0", "url": "https://packages.example/p.zip?a=b@c", "sha256": digest});
        assert_eq!(Call::parse("package.install", install.clone()).unwrap().args_json(), install);
        for args in [json!({"package": "p"}), json!({"package": "p", "version": "1.0.0"})] {
            assert_eq!(Call::parse("package.uninstall", args.clone()).unwrap().args_json(), args);
        }
        assert_eq!(Call::parse("package.list", json!({})).unwrap().args_json(), json!({}));
        let with = |field: &str, value: serde_json::Value| {
            let mut args = install.clone();
            args[field] = value;
            Call::parse("package.install", args).unwrap_err().to_string()
        };
        let long = format!("https://{}", "x".repeat(4096));
        for (field, value) in [
            ("package", "../victim"),
            ("version", "../1"),
            ("version", ""),
            ("url", ""),
            ("url", "p.zip"),
            ("url", "ftp://host/p.zip"),
            ("url", "https://"),
            ("url", "https://host/a b"),
            ("url", "https://host/\n"),
            ("url", "https://user:secret@host/p.zip"),
            ("url", long.as_str()),
            ("sha256", "abc"),
            ("sha256", ""),
        ] {
            let said = with(field, json!(value));
            assert!(said.starts_with(&format!("/args/{field}")), "{field} {value:?}: {said}");
        }
        assert!(
            Call::parse("package.uninstall", json!({"package": "-"})).is_err() && Call::parse("package.list", json!({"a": 1})).is_err()
        );
    }

    #[test]
    fn parameters_are_bounded_in_depth_and_size() {
        let deep = |levels: usize| (1..levels).fold(json!({}), |inner, _| json!({"in": inner}));
        assert_eq!(fault_of(json!({"package": "p", "node": "n", "parameters": deep(64)})), None);
        assert!(fault_of(json!({"package": "p", "node": "n", "parameters": deep(65)})).unwrap().contains("nested"));
        let large = json!({"text": "x".repeat(600 * 1024)});
        assert!(fault_of(json!({"package": "p", "node": "n", "parameters": large})).unwrap().contains("at most"));
    }
}
