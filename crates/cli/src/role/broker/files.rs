//! What a managed nats-server has in the data directory: its configuration, its token, its port, its store.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use super::endpoint::Endpoint;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::private;
use crate::role::data::unusable;
use crate::settings::Nats;

/// Its files.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    dir: PathBuf,
}

/// Ports that are tried: below what systems hand to outgoing connections, so that no client of somebody's sits on ours after a crash.
const PORTS: std::ops::Range<u16> = 10_240..32_000;

/// What all streams together may set aside: more than anybody configures.
const FILE_STORE_BYTES: u64 = 1 << 60;

impl Files {
    /// Below this data directory.
    pub(crate) fn below(data: &Path) -> Self {
        Self { dir: data.join("nats") }
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("nats-server.conf")
    }

    /// What the server writes its process id to.
    pub(crate) fn pid(&self) -> PathBuf {
        self.dir.join("nats-server.pid")
    }

    /// What the server says before it has its log, and of its own death.
    pub(crate) fn errors(&self) -> PathBuf {
        self.dir.join("nats-server.err")
    }

    /// The server's log.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("nats-server.log")
    }

    /// Makes everything ready for a start: directory, token, port, configuration. No server of a predecessor may run any more.
    pub(crate) fn prepare(&self, nats: &Nats) -> Result<Endpoint, Failure> {
        let failed = |error: io::Error| unusable(&self.dir, &error);
        private::directory(&self.dir).map_err(failed)?;
        let token_file = self.dir.join("token");
        let token = private::read_or_make(&token_file, || private::random_hex(32).map(String::into_bytes)).map_err(failed)?;
        let token = String::from_utf8_lossy(&token).trim_end().to_owned();
        let host = nats.server.host.clone();
        let port = match nats.server.port {
            Some(port) if port != 0 => port,
            Some(_) | None => self.kept_port(&host)?,
        };
        let server_name = format!("longshore-{}", private::random_hex(8).map_err(failed)?);
        let endpoint = Endpoint { host, port, token, token_file, server_name };
        let store = nats.server.store_dir.as_ref().map_or_else(|| self.dir.join("store"), PathBuf::from);
        private::directory(&store).map_err(|error| unusable(&store, &error))?;
        private::replace_file(&self.config(), self.content(&endpoint, &store).as_bytes()).map_err(failed)?;
        Ok(endpoint)
    }

    /// The port of the last start if it is still free, else another one, which is kept.
    fn kept_port(&self, host: &str) -> Result<u16, Failure> {
        let path = self.dir.join("port");
        let is_free = |port: &u16| TcpListener::bind((host, *port)).is_ok();
        let kept = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u16>().ok());
        if let Some(port) = kept.filter(is_free) {
            return Ok(port);
        }
        let random = private::random_hex(4).map_err(|error| unusable(&path, &error))?;
        let offset = u32::from_str_radix(&random, 16).unwrap_or_default();
        let n_ports = u32::from(PORTS.end - PORTS.start);
        let candidates = (0..n_ports).filter_map(|step| u16::try_from(u32::from(PORTS.start) + (offset % n_ports + step) % n_ports).ok());
        let port = candidates.take(1000).find(is_free).ok_or_else(|| {
            Failure::new(Exit::Failed, format!("no free port was found on {host}")).hint("name one with nats.server.port").code("broker")
        })?;
        private::replace_file(&path, format!("{port}\n").as_bytes()).map_err(|error| unusable(&path, &error))?;
        Ok(port)
    }

    fn content(&self, endpoint: &Endpoint, store: &Path) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let path = |path: &Path| quoted(&path.display().to_string());
        format!(
            "# Written by longshore at every start; changes are lost.\n\
             server_name: {}\n\
             host: {}\n\
             port: {}\n\
             pid_file: {}\n\
             log_file: {}\n\
             logfile_size_limit: 16MB\n\
             logfile_max_num: 3\n\
             # Each stream and bucket has its own bound. The server's own guess, three quarters of the free disk, would refuse to set these aside.\n\
             jetstream {{\n  store_dir: {}\n  sync_interval: always\n  max_file_store: {FILE_STORE_BYTES}\n}}\n\
             authorization {{\n  token: {}\n}}\n",
            quoted(&endpoint.server_name),
            quoted(&endpoint.host),
            endpoint.port,
            path(&self.pid()),
            path(&self.log()),
            path(store),
            quoted(&endpoint.token),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn token_and_port_stay_and_the_configuration_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::below(dir.path());
        let first = files.prepare(&Nats::default()).unwrap();
        let second = files.prepare(&Nats::default()).unwrap();
        assert_eq!((&first.token, first.port), (&second.token, second.port));
        assert_ne!(first.server_name, second.server_name);
        assert!(PORTS.contains(&first.port) && first.token.len() == 64);
        for path in [files.config(), first.token_file.clone()] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let content = std::fs::read_to_string(files.config()).unwrap();
        assert!(content.contains("sync_interval: always") && content.contains(&format!("port: {}", first.port)), "{content}");
        assert!(!format!("{first:?}").contains(&first.token));
    }

    #[test]
    fn a_kept_port_that_somebody_else_took_is_given_up_unless_it_is_configured() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::below(dir.path());
        let first = files.prepare(&Nats::default()).unwrap();
        let _taken = TcpListener::bind(("127.0.0.1", first.port)).unwrap();
        assert_ne!(files.prepare(&Nats::default()).unwrap().port, first.port);
        let mut nats = Nats::default();
        nats.server.port = Some(first.port);
        assert_eq!(files.prepare(&nats).unwrap().port, first.port);
    }
}
