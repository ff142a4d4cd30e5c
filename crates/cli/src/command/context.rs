//! `longshore context`: which controller commands talk to.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use longshore_client::{Client, ClientConfig};
use serde_json::json;

use crate::app::App;
use crate::contexts::{self, Contexts};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render::Table;
use crate::settings::Origin;
use crate::target::{Named, Target};

/// Which controller commands talk to.
#[derive(Debug, Subcommand)]
pub(crate) enum Context {
    /// Give a controller a name: its address is `--url`, and the token for it in the file `--token-file`.
    #[command(
        after_help = "Examples\n  longshore context add prod --url https://longshore.example:8443 --token-file ~/.config/longshore/prod.token --use"
    )]
    Add {
        /// Its name.
        name: String,
        /// Make it the current one.
        #[arg(long = "use")]
        is_to_be_current: bool,
        /// Replace one of that name.
        #[arg(long)]
        force: bool,
    },
    /// List the contexts; the current one is marked.
    List,
    /// Make a context the current one.
    Use {
        /// Its name.
        name: String,
    },
}

impl Context {
    pub(crate) fn perform(self, app: &App) -> Result<Exit, Failure> {
        let path = Contexts::path()?;
        let mut contexts = Contexts::load(&path)?;
        match self {
            Self::List => list(app, &contexts)?,
            Self::Add { name, is_to_be_current, force } => {
                add(app, &mut contexts, &name, force)?;
                if is_to_be_current || contexts.current.is_none() {
                    contexts.current = Some(name.clone());
                }
                contexts.save(&path)?;
                let current = if contexts.current.as_deref() == Some(&*name) { ", and is current" } else { "" };
                app.out.say(format!("context `{name}` is for {}{current}", contexts.contexts[&name].url));
                tell_programs(app, &contexts, &name)?;
            }
            Self::Use { name } => {
                if !contexts.contexts.contains_key(&name) {
                    return Err(contexts.unknown(&name));
                }
                contexts.current = Some(name.clone());
                contexts.save(&path)?;
                app.out.say(format!("context `{name}` is now current"));
                tell_programs(app, &contexts, &name)?;
                if let Ok(Target { url: Some((url, origin)), .. }) = app.settings(Vec::new()).and_then(|loaded| app.target(&loaded))
                    && origin != Origin::Context(name)
                {
                    app.out.say(format!("but commands go to {url}: {origin} says so, which outranks the current context"));
                }
            }
        }
        Ok(Exit::Done)
    }
}

fn add(app: &App, contexts: &mut Contexts, name: &str, force: bool) -> Result<(), Failure> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(is_plain) {
        return Err(Failure::new(Exit::Usage, format!("{name:?} is no name for a context: letters, digits, `-`, `_` and `.` are")));
    }
    let Named { url: Some(url), token_file } = app.named() else {
        return Err(
            Failure::new(Exit::Usage, "a context needs an address").hint(format!("longshore context add {name} --url http://HOST:PORT"))
        );
    };
    // As the commands will find it wrong, so is it found wrong here.
    Client::new(ClientConfig { url: url.clone(), token: None })?;
    let absolute = |path: PathBuf| std::path::absolute(&path).map_err(|error| unreadable(&path, &error));
    let token_file = token_file.map(absolute).transpose()?;
    if let Some(path) = &token_file {
        std::fs::File::open(path).map_err(|error| unreadable(path, &error))?;
    }
    if let Some(other) = contexts.contexts.get(name).filter(|_| !force) {
        let refused = Failure::new(Exit::Failed, format!("there is a context `{name}` already, for {}", other.url));
        return Err(refused.hint("replace it with --force, or choose another name"));
    }
    contexts.contexts.insert(name.to_owned(), contexts::Context { url, token_file });
    Ok(())
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Usage, format!("the token file {} cannot be read", path.display())).caused_by(error)
}

/// The context that was changed, as data; to people it is said in words.
fn tell_programs(app: &App, contexts: &Contexts, name: &str) -> Result<(), Failure> {
    if !app.out.is_for_machines() {
        return Ok(());
    }
    app.out.item(&document(contexts, name), |_| String::new(), || name.to_owned())
}

fn document(contexts: &Contexts, name: &str) -> serde_json::Value {
    let context = &contexts.contexts[name];
    let is_current = contexts.current.as_deref() == Some(name);
    json!({ "name": name, "current": is_current, "url": context.url, "token_file": context.token_file })
}

fn list(app: &App, contexts: &Contexts) -> Result<(), Failure> {
    let is_current = |name: &str| contexts.current.as_deref() == Some(name);
    let items: Vec<_> = contexts.contexts.keys().map(|name| document(contexts, name)).collect();
    if items.is_empty() {
        app.out.say("There is no context; `longshore start` makes one, and so does `longshore context add`.");
    }
    let table = |_| {
        let mut table = Table::new(&app.out, &["CURRENT", "NAME", "URL"]);
        for (name, context) in &contexts.contexts {
            table.row([if is_current(name) { "*" } else { "" }, name, &context.url]);
        }
        table.text()
    };
    app.out.list(&json!({ "items": items }), &items, table, |item| item["name"].as_str().unwrap_or_default().to_owned())
}
