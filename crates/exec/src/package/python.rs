//! A package's own Python environment: made only when its manifest names dependencies, and beside the package it is for.
//!
//! Only finished wheels are installed, so no code of a dependency runs meanwhile; they come from a directory of the host or from one
//! index of the settings, and from nowhere else. What a requirement could say beyond a name and versions is refused.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::manifest::Python;
use super::program::{self, ProgramError, Run};
use super::registry::Staged;
use crate::process::Launcher;

const REQUIREMENT_BYTES_MAX: usize = 512;
const REQUIREMENTS_MAX: usize = 256;
/// Where pip reads the index from. Its address may hold a password, and the words of a command can be read by everybody on the host.
const INDEX: &str = "index.txt";
/// Says with its status whether the interpreter that runs it is one of those asked for. One without pip is asked again when it has it.
const FITS: &str = "import sys, platform\n\
    try:\n\
    \x20   from pip._vendor.packaging.specifiers import SpecifierSet\n\
    except ImportError:\n\
    \x20   sys.exit(0)\n\
    fits = SpecifierSet(sys.argv[1]).contains(platform.python_version(), prereleases=True)\n\
    sys.exit(None if fits else f'Python {platform.python_version()} is not {sys.argv[1]}')";

/// How environments are made.
#[derive(Debug, Clone)]
pub struct PythonConfig {
    /// The interpreter.
    pub program: String,
    /// A directory of wheels; then no network is used.
    pub wheels: Option<PathBuf>,
    /// The address of an index, used if there is no directory of wheels.
    pub index: Option<String>,
    /// The longest that making one environment may take.
    pub timeout: Duration,
}

impl Default for PythonConfig {
    fn default() -> Self {
        Self { program: "python3".to_owned(), wheels: None, index: None, timeout: Duration::from_secs(600) }
    }
}

/// Why a package has no environment.
#[derive(Debug, thiserror::Error)]
pub enum PythonError {
    /// A dependency that is more than a name and versions.
    #[error("install the dependency {0:?}: it takes a name with versions, no option, path or address")]
    Requirement(String),
    /// There is nowhere to take them from.
    #[error("install the package's dependencies: neither a directory of wheels nor an index is named in the settings")]
    NoSource,
    /// A program of Python's failed.
    #[error("make the package's Python environment")]
    Program(#[source] ProgramError),
}

/// Makes the environment that a manifest asks for; nothing if it asks for none.
pub(super) async fn environment(
    asked: &Python,
    staged: &Staged,
    config: &PythonConfig,
    launcher: &Launcher,
    stop: &CancellationToken,
) -> Result<Option<PathBuf>, PythonError> {
    if asked.dependencies.is_empty() {
        return Ok(None);
    }
    if asked.dependencies.len() > REQUIREMENTS_MAX {
        return Err(PythonError::Requirement(format!("more than {REQUIREMENTS_MAX}")));
    }
    if let Some(strange) = asked.dependencies.iter().find(|text| !is_plain(text)) {
        return Err(PythonError::Requirement(strange.chars().take(REQUIREMENT_BYTES_MAX).collect()));
    }
    let home = staged.scratch("home");
    let source: Vec<String> = match (&config.wheels, &config.index) {
        (Some(wheels), _) => vec!["--no-index".to_owned(), "--find-links".to_owned(), wheels.display().to_string()],
        (None, Some(_)) => vec!["--requirement".to_owned(), home.join(INDEX).display().to_string()],
        (None, None) => return Err(PythonError::NoSource),
    };
    let venv = staged.environment();
    let python = venv.join("bin").join("python");
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let venv_text = venv.display().to_string();
    let python_text = python.display().to_string();
    let make = words(&[&config.program, "-I", "-m", "venv", &venv_text]);
    let fits = |python: &str| words(&[python, "-I", "-c", FITS, &asked.requires]);
    let mut install = words(&[&python_text, "-I", "-m", "pip", "--isolated", "install", "--no-input", "--disable-pip-version-check"]);
    install.extend(words(&["--no-cache-dir", "--only-binary", ":all:", "--progress-bar", "off"]));
    install.extend(source);
    install.push("--".to_owned());
    install.extend(asked.dependencies.iter().cloned());

    std::fs::create_dir_all(&home)
        .and_then(|()| config.index.as_ref().map_or(Ok(()), |index| private_line(&home.join(INDEX), &format!("--index-url {index}"))))
        .map_err(|error| ProgramError::NotRun { program: config.program.clone(), reason: error.to_string() })
        .map_err(PythonError::Program)?;
    for words in [fits(&config.program), make, fits(&python_text), install] {
        let run = Run { words, cwd: &home, home: &home, variables: &[], limit: config.timeout };
        program::run(launcher, run, stop).await.map_err(PythonError::Program)?;
    }
    let _left_for_nobody = std::fs::remove_dir_all(&home);
    Ok(Some(python))
}

/// Writes a file of one line that only we can read.
fn private_line(path: &Path, line: &str) -> std::io::Result<()> {
    if line.contains(char::is_control) {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "the index of the settings is no address"));
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{line}")
}

/// A name, extras, versions and markers; no option, path, address or second line.
fn is_plain(requirement: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || " .,_-[]<>=!~*;()'\"+".contains(c);
    requirement.len() <= REQUIREMENT_BYTES_MAX
        && requirement.starts_with(|c: char| c.is_ascii_alphanumeric())
        && requirement.chars().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_is_a_name_with_versions_and_nothing_else() {
        for good in ["requests", "requests>=2,<3", "uvicorn[standard]==0.30.*", "x ~= 1.4; python_version < '3.12'"] {
            assert!(is_plain(good), "{good}");
        }
        let long = "a".repeat(1000);
        for bad in [
            "",
            "-r /etc/passwd",
            "--index-url=http://x",
            "x @ https://evil/x.whl",
            "./x",
            "/x",
            "x\n--pre",
            "x\\y",
            "git+https://x",
            &long,
        ] {
            assert!(!is_plain(bad), "{bad}");
        }
    }
}
