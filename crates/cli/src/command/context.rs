//! `longshore context`: which controller commands talk to.

use clap::Subcommand;
use serde_json::json;

use crate::app::App;
use crate::contexts::Contexts;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::render::Table;
use crate::settings::Origin;
use crate::target::Target;

/// Which controller commands talk to.
#[derive(Debug, Subcommand)]
pub(crate) enum Context {
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
            Self::Use { name } => {
                if !contexts.contexts.contains_key(&name) {
                    return Err(contexts.unknown(&name));
                }
                contexts.current = Some(name.clone());
                contexts.save(&path)?;
                app.out.say(format!("context `{name}` is now current"));
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

fn list(app: &App, contexts: &Contexts) -> Result<(), Failure> {
    let is_current = |name: &str| contexts.current.as_deref() == Some(name);
    let items: Vec<_> = contexts
        .contexts
        .iter()
        .map(|(name, context)| json!({ "name": name, "current": is_current(name), "url": context.url, "token_file": context.token_file }))
        .collect();
    if items.is_empty() {
        app.out.say("There is no context; `longshore start` makes one.");
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
