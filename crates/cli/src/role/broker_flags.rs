//! The way to a broker that runs elsewhere: the flags that say where it is and who we are to it, and what its refusals mean for people.
//!
//! The invariant guarded here: no secret is taken from the command line, which everybody on the host can read, and none is repeated in a
//! message, not even one that was given where the name of a file belongs.

use std::path::{Path, PathBuf};

use clap::Args;
use longshore_store::Store;
use longshore_store::jetstream::{self, ConnectError, TlsFault};
use serde_json::json;

use crate::app::Flag;
use crate::exit::Exit;
use crate::failure::Failure;

/// Where the broker is and how it knows us.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "The broker")]
pub(crate) struct BrokerFlags {
    /// Address of the broker, several comma separated.
    #[arg(long, value_name = "URL")]
    nats_url: Option<String>,
    /// File with the broker's token.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["creds", "nkey", "user", "password"])]
    nats_token_file: Option<PathBuf>,
    /// Credentials file: a user JWT and its nkey seed.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["nkey", "user", "password"])]
    creds: Option<PathBuf>,
    /// File with the seed of an nkey, or env:NAME for a variable that holds it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["user", "password"])]
    nkey: Option<String>,
    /// User.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// File with the user's password, or env:NAME for a variable that holds it.
    #[arg(long, value_name = "FILE")]
    password: Option<String>,
    /// File with the authorities that may vouch for the broker.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// File with our own certificate, for a broker that wants one.
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// File with the key of our certificate.
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
}

impl BrokerFlags {
    /// As settings. Paths become absolute, so that messages name them in full.
    pub(crate) fn flags(&self) -> Result<Vec<Flag>, Failure> {
        let mut flags = Vec::new();
        flags.extend(self.nats_url.iter().map(|url| ("nats.url", "--nats-url", url.clone())));
        let mut login = |name, kind: &str| flags.push(("nats.auth.type", name, kind.to_owned()));
        if self.nats_token_file.is_some() {
            login("--nats-token-file", "token");
        }
        if self.creds.is_some() {
            login("--creds", "creds");
        }
        if self.nkey.is_some() {
            login("--nkey", "nkey");
        }
        if self.user.is_some() {
            login("--user", "user_pass");
        } else if self.password.is_some() {
            login("--password", "user_pass");
        }
        if let Some(path) = &self.nats_token_file {
            flags.push(("nats.auth.token", "--nats-token-file", json!({ "file": path }).to_string()));
        }
        if let Some(place) = &self.nkey {
            flags.push(("nats.auth.nkey", "--nkey", secret("--nkey", "the seed", place)?));
        }
        flags.extend(self.user.iter().map(|user| ("nats.auth.user", "--user", user.clone())));
        if let Some(place) = &self.password {
            flags.push(("nats.auth.password", "--password", secret("--password", "the password", place)?));
        }
        for (key, name, path) in [
            ("nats.auth.creds", "--creds", &self.creds),
            ("nats.tls.ca", "--tls-ca", &self.tls_ca),
            ("nats.tls.cert", "--tls-cert", &self.tls_cert),
            ("nats.tls.key", "--tls-key", &self.tls_key),
        ] {
            flags.extend(path.iter().map(|path| (key, name, absolute(path))));
        }
        Ok(flags)
    }
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Where a secret is, as a setting. What names no file may be the secret itself, and is not repeated.
fn secret(flag: &str, what: &str, place: &str) -> Result<String, Failure> {
    if let Some(name) = place.strip_prefix("env:") {
        return Ok(json!({ "env": name }).to_string());
    }
    std::fs::metadata(place).map_err(|error| {
        Failure::new(Exit::Usage, format!("{flag} does not name a file that can be read"))
            .because(error.kind().to_string())
            .hint(format!("it takes the file that holds {what}, or env:NAME, never {what} as such: others on this host see command lines"))
    })?;
    Ok(json!({ "file": absolute(Path::new(place)) }).to_string())
}

/// Connects to the stores.
pub(crate) async fn connect(config: &jetstream::Config) -> Result<Store, Failure> {
    jetstream::connect(config).await.map_err(|error| {
        let failure = |exit, what: &str| Failure::new(exit, what).caused_by(&error);
        match &error {
            ConnectError::Connect { .. } => failure(Exit::Unreachable, "the broker could not be reached")
                .hint("start it:     longshore nats start")
                .hint("or say where it is:     --nats-url nats://HOST:4222")
                .code("broker"),
            ConnectError::NotLetIn { .. } if matches!(config.auth, jetstream::Auth::None) => {
                failure(Exit::NotAllowed, "the broker wants to know who we are")
                    .hint("a managed broker needs its token:     --nats-token-file FILE")
                    .hint("another may want     --user NAME --password FILE,  --creds FILE  or  --nkey FILE")
                    .code("broker_login")
            }
            ConnectError::NotLetIn { .. } => failure(Exit::NotAllowed, "the broker does not let us in")
                .hint("it knows nobody by these credentials: correct them, or let its administrator add them")
                .hint("where they come from:     longshore config show --origin")
                .code("broker_login"),
            ConnectError::Credentials(_) => failure(Exit::Invalid, "the broker's credentials cannot be used")
                .hint("longshore config explain nats.auth.type")
                .code("broker_login"),
            ConnectError::Tls { fault, .. } => {
                let exit = if matches!(fault, TlsFault::File { .. }) { Exit::Invalid } else { Exit::Unreachable };
                failure(exit, "there is no secure connection to the broker").hint(remedy(fault)).code("broker_tls")
            }
            ConnectError::TooOld { .. } | ConnectError::Name(_) | ConnectError::Setup(_) => {
                failure(Exit::Failed, "the broker cannot be used").code("broker")
            }
        }
    })
}

fn remedy(fault: &TlsFault) -> &'static str {
    match fault {
        TlsFault::File { .. } => "name the right file: --tls-ca, --tls-cert and --tls-key, or `nats.tls`, take PEM",
        TlsFault::UnknownAuthority => "name the authority that issued it:     --tls-ca FILE",
        TlsFault::WrongName(_) => "call the broker in --nats-url by a name of its certificate, or give it a certificate for this one",
        TlsFault::Expired => "renew the broker's certificate, or set the clocks right",
        TlsFault::ClientRefused(_) => "give a certificate of an authority that the broker trusts:     --tls-cert FILE --tls-key FILE",
        TlsFault::NotSpoken => "take `nats.tls` and the --tls flags away, or let the broker have a certificate",
        TlsFault::Other(_) => "compare `nats.tls` with the broker's own `tls` settings",
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::settings::{AuthKind, Secret, Settings, Sources};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        broker: BrokerFlags,
    }

    fn settings(words: &[&str]) -> Settings {
        let line = Line::try_parse_from([&["x"], words].concat()).unwrap();
        Sources { flags: line.broker.flags().unwrap(), ..Sources::default() }.load().unwrap().settings
    }

    #[test]
    fn every_flag_has_its_setting_and_the_way_to_log_in_follows() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let settings_of = |words: &[&str]| settings(words).nats;
        let nats = settings_of(&[
            "--nats-url",
            "nats://x:1",
            "--user",
            "ann",
            "--password",
            path,
            "--tls-ca",
            "/ca",
            "--tls-cert",
            "/c",
            "--tls-key",
            "/k",
        ]);
        assert_eq!((nats.url.as_deref(), nats.auth.kind, nats.auth.user.as_deref()), (Some("nats://x:1"), AuthKind::UserPass, Some("ann")));
        assert!(nats.auth.password == Some(Secret::File(path.into())));
        assert_eq!((nats.tls.ca.as_deref(), nats.tls.cert.as_deref(), nats.tls.key.as_deref()), (Some("/ca"), Some("/c"), Some("/k")));
        let nats = settings_of(&["--nkey", "env:SEED"]);
        assert!(nats.auth.kind == AuthKind::Nkey && nats.auth.nkey == Some(Secret::Env("SEED".to_owned())));
        let nats = settings_of(&["--creds", "/x.creds"]);
        assert_eq!((nats.auth.kind, nats.auth.creds.as_deref()), (AuthKind::Creds, Some("/x.creds")));
        let nats = settings_of(&["--nats-token-file", "/token"]);
        assert!(nats.auth.kind == AuthKind::Token && nats.auth.token == Some(Secret::File("/token".into())));
    }

    #[test]
    fn a_secret_on_the_command_line_is_refused_and_not_repeated() {
        for flag in ["--password", "--nkey"] {
            let line = Line::try_parse_from(["x", flag, "hunter2"]).unwrap();
            let refused = line.broker.flags().unwrap_err();
            assert_eq!(refused.exit, Exit::Usage);
            assert!(refused.text().contains(flag) && refused.text().contains("env:NAME") && !refused.text().contains("hunter2"));
        }
        for words in [["--creds", "a", "--nkey", "b"], ["--creds", "a", "--user", "b"], ["--nats-token-file", "a", "--password", "b"]] {
            assert!(Line::try_parse_from([&["x"][..], &words].concat()).is_err(), "{words:?}");
        }
    }
}
