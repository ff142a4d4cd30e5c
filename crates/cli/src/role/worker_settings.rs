//! Where the settings of a worker are looked for: as the existing worker does, so that its files and variables go on working.

use std::path::{Path, PathBuf};

use clap::Args;
use longshore_agent::worker::settings::{Loaded, Settings, SettingsError, Sources};
use serde_json::Value;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::settings::yaml;

/// Where a file is looked for if nobody names one.
const USUAL: [&str; 4] = ["/etc/astraflow/worker.yaml", "/etc/astraflow/worker.yml", "./config/worker.yaml", "./config/worker.yml"];

/// What the command line says of the settings.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct WorkerFlags {
    /// The scheduler: `ws://…` or `wss://…`.
    #[arg(long, value_name = "URL")]
    scheduler_ws_url: Option<String>,
    /// The tenant of all work.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// The worker's name.
    #[arg(long, value_name = "NAME")]
    worker_name: Option<String>,
    /// The file with the token that it shows.
    #[arg(long, value_name = "FILE")]
    auth_token_file: Option<PathBuf>,
    /// Where packages are.
    #[arg(long, value_name = "DIR")]
    packages_dir: Option<PathBuf>,
    /// Where tasks have their data.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// `websocket`, or `dummy` for none.
    #[arg(long, value_name = "KIND")]
    transport: Option<String>,
    /// DEBUG, INFO, WARNING, ERROR or CRITICAL.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Any setting, by its name; secrets have files.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = pair)]
    others: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a setting is NAME=VALUE")?;
    if name.eq_ignore_ascii_case("auth_token") {
        return Err("a token on the command line can be read by everybody on this host: name a file with --auth-token-file".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

impl WorkerFlags {
    fn arguments(&self) -> Vec<(String, String)> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let own = [
            ("scheduler_ws_url", self.scheduler_ws_url.clone()),
            ("tenant", self.tenant.clone()),
            ("worker_name", self.worker_name.clone()),
            ("auth_token_file", path(&self.auth_token_file)),
            ("packages_dir", path(&self.packages_dir)),
            ("data_dir", path(&self.data_dir)),
            ("transport", self.transport.clone()),
            ("log_level", self.log_level.clone()),
        ];
        let own = own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        self.others.iter().cloned().chain(own).collect()
    }

    /// The settings in force, with absolute paths, and what to tell of them.
    pub(crate) fn load(&self, app: &App) -> Result<Loaded, Failure> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut warnings = Vec::new();
        let (config, env_file) = app.named_files();
        let file = match config {
            Some(path) => Some((path.to_owned(), read(path)?)),
            None => discover(variable("ASTRA_WORKER_CONFIG_FILE"), &mut warnings)?,
        };
        let dot_env = match env_file {
            Some(path) => Some(text_of(path)?),
            None => std::fs::read_to_string(".env").ok(),
        };
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect();
        let sources = Sources { arguments: self.arguments(), file, environment, dot_env };
        let mut loaded = Settings::load(&sources)
            .map_err(|error: SettingsError| Failure::new(Exit::Invalid, "the worker's settings cannot be used").caused_by(&error))?;
        warnings.append(&mut loaded.warnings);
        loaded.warnings = warnings;
        let settings = &mut loaded.settings;
        let root = variable("ASTRA_PACKAGES_ROOT").filter(|_| settings.packages_dir.is_none());
        if root.is_some() {
            loaded.origins.insert("packages_dir", "ASTRA_PACKAGES_ROOT in the environment".to_owned());
        }
        let packages = settings.packages_dir.take().or_else(|| root.map(PathBuf::from));
        settings.packages_dir = Some(absolute(&packages.unwrap_or_else(|| PathBuf::from("node-packages")))?);
        settings.data_dir = absolute(&settings.data_dir)?;
        for path in [
            &mut settings.state_dir,
            &mut settings.auth_token_file,
            &mut settings.tls_ca_file,
            &mut settings.tls_cert_file,
            &mut settings.tls_key_file,
            &mut settings.package_wheels_dir,
            &mut settings.job_opening_keys_file,
            &mut settings.job_trusted_keys_file,
        ] {
            *path = path.as_deref().map(absolute).transpose()?;
        }
        Ok(loaded)
    }
}

type Found = Option<(PathBuf, serde_json::Map<String, Value>)>;

/// The first that exists and has a known suffix stands alone.
fn discover(named: Option<String>, warnings: &mut Vec<String>) -> Result<Found, Failure> {
    let named = named.map(|name| home_expanded(Path::new(&name)));
    let has_suffix = |path: &Path| path.extension().is_some_and(|suffix| suffix == "yaml" || suffix == "yml" || suffix == "json");
    if let Some(path) = &named
        && !(path.exists() && has_suffix(path))
    {
        let why = if path.exists() { "is neither .yaml, .yml nor .json" } else { "does not exist" };
        warnings.push(format!("ASTRA_WORKER_CONFIG_FILE names {}, which {why}: it is passed over", path.display()));
    }
    let candidates = named.into_iter().chain(USUAL.map(PathBuf::from));
    match candidates.into_iter().find(|path| path.exists() && has_suffix(path)) {
        Some(path) => {
            let entries = read(&path)?;
            Ok(Some((path, entries)))
        }
        None => Ok(None),
    }
}

fn text_of(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::new(Exit::Invalid, format!("{} cannot be read", path.display())).caused_by(&error))
}

fn read(path: &Path) -> Result<serde_json::Map<String, Value>, Failure> {
    let text = text_of(path)?;
    let bad = |why: String| Failure::new(Exit::Invalid, format!("{} is no settings file", path.display())).because(why);
    let value = if path.extension().is_some_and(|suffix| suffix == "json") && !text.trim().is_empty() {
        serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?
    } else {
        yaml::Node::parse(&text).map_err(bad)?.into_value()
    };
    match value {
        Value::Object(entries) => Ok(entries),
        Value::Null => Ok(serde_json::Map::new()),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Err(bad("it should be a mapping of settings".to_owned())),
    }
}

fn home_expanded(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => Path::new(&home).join(rest),
        (Ok(_) | Err(_), _) => path.to_owned(),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(home_expanded(path))
        .map_err(|error| Failure::new(Exit::Failed, "the current directory cannot be told").caused_by(&error))
}
