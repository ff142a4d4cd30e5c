//! Where the nats-server is.

use std::path::{Path, PathBuf};

/// The version that `cargo xtask setup` installs.
pub const NATS_SERVER_VERSION: &str = "2.15.1";

/// The nats-server that tests run: what `NATS_SERVER_BIN` names, else what `cargo xtask setup` installed, else the one on `PATH`.
///
/// # Panics
/// There is none; the message says what to do.
#[must_use]
pub fn nats_server_binary() -> PathBuf {
    if let Some(named) = std::env::var_os("NATS_SERVER_BIN").filter(|value| !value.is_empty()) {
        let named = PathBuf::from(named);
        assert!(named.is_file(), "NATS_SERVER_BIN names {}, which is not a file: correct or unset it", named.display());
        return named;
    }
    let installed = workspace().join(format!("target/tools/nats-server-{NATS_SERVER_VERSION}/nats-server"));
    if installed.is_file() {
        return installed;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join("nats-server")).find(|candidate| candidate.is_file()).unwrap_or_else(|| {
        panic!(
            "no nats-server: NATS_SERVER_BIN is not set, {} is not there, and PATH has none.\n\
             Run `cargo xtask setup` once; it installs nats-server {NATS_SERVER_VERSION} into target/tools.",
            installed.display()
        )
    })
}

fn workspace() -> &'static Path {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.ancestors().nth(2).expect("this package lies two levels below the workspace")
}
