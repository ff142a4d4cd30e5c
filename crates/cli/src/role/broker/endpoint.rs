//! Where a managed broker is, and how its token is found by the other roles of the same user on the same host.

use std::path::{Path, PathBuf};

use crate::private;
use crate::settings::user_dir;

/// A managed broker as clients see it.
#[derive(Clone)]
pub(crate) struct Endpoint {
    /// Address it listens on.
    pub(crate) host: String,
    /// Port it listens on.
    pub(crate) port: u16,
    /// What it lets in.
    pub(crate) token: String,
    /// Where that is kept.
    pub(crate) token_file: PathBuf,
    /// What it calls itself: another one at every start, so that no other server is taken for it.
    pub(crate) server_name: String,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Endpoint").field(&self.url()).finish()
    }
}

impl Endpoint {
    /// Without the token.
    pub(crate) fn url(&self) -> String {
        format!("nats://{}:{}", self.host, self.port)
    }

    /// Notes where the token is, so that `--nats-url` alone is enough for this user on this host. Best effort: `--nats-token-file` is the
    /// sure way.
    pub(crate) fn make_known(&self) {
        if let Some(path) = user_dir().map(|dir| note(&dir, &self.url())) {
            let content = self.token_file.display().to_string();
            if let Err(error) = private::replace_file(&path, content.as_bytes()) {
                tracing::debug!(%error, path = %path.display(), "the broker's token was not made known");
            }
        }
    }

    /// The token of a managed broker of this user's at `url`.
    pub(crate) fn token_of_known(url: &str) -> Option<String> {
        let token_file = std::fs::read_to_string(note(&user_dir()?, url)).ok()?;
        let token = std::fs::read_to_string(token_file.trim_end()).ok()?;
        Some(token.trim_end().to_owned())
    }
}

fn note(dir: &Path, url: &str) -> PathBuf {
    let name: String =
        url.trim_start_matches("nats://").chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' }).collect();
    dir.join("brokers").join(name)
}
