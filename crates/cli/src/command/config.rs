//! `longshore config`: what is set, where that comes from, and what could be.

use clap::Subcommand;
use longshore_agent::worker::settings as worker_settings;
use serde_json::{Value, json};

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Format;
use crate::render::Table;
use crate::role::worker_settings::WorkerFlags;
use crate::settings::{Key, Keys, Loaded, Origin, schema};
use crate::target;

/// Look at the settings and where they come from.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Every setting in force; secrets are shown as ***.
    Show {
        /// Where each comes from.
        #[arg(long)]
        origin: bool,
        /// Those of `longshore worker start` here, which has files and variables of its own.
        #[arg(long)]
        worker: bool,
    },
    /// What a setting means, and what every layer says of it.
    Explain {
        /// Such as `nats.kv.ttl`.
        key: String,
    },
    /// Check the configuration without starting anything.
    Check,
    /// The JSON Schema of longshore.yaml.
    Schema,
}

impl Config {
    pub(crate) fn perform(self, app: &App) -> Result<Exit, Failure> {
        match self {
            Self::Show { origin, worker: false } => show(app, origin),
            Self::Show { origin, worker: true } => show_of_worker(app, origin),
            Self::Explain { key } => explain(app, &key),
            Self::Check => check(app),
            Self::Schema => {
                app.out.lines(serde_json::to_string_pretty(&schema()).expect("a schema is JSON"))?;
                Ok(Exit::Done)
            }
        }
    }
}

fn check(app: &App) -> Result<Exit, Failure> {
    let loaded = app.settings(Vec::new())?;
    let files: Vec<_> = loaded.files.iter().map(|path| path.display().to_string()).collect();
    let from = if files.is_empty() { "no file, only defaults and the environment".to_owned() } else { files.join(", ") };
    app.out.item(&json!({ "valid": true, "files": files }), |_| format!("valid: {from}"), || "valid".to_owned())?;
    Ok(Exit::Done)
}

fn show(app: &App, origin: bool) -> Result<Exit, Failure> {
    let loaded = app.settings(Vec::new())?;
    let mut rows: Vec<(&str, Value, Origin)> = loaded
        .keys()
        .iter()
        .filter_map(|(name, key)| loaded.in_force(name).map(|(value, origin)| (name, Loaded::shown(key, &value), origin)))
        .collect();
    if origin {
        // What client commands do about these two is decided beside the settings as well.
        let target = app.target(&loaded)?;
        let chosen = [(target::URL, target.url), (target::TOKEN, target.token.map(|(_, from)| ("***".to_owned(), from)))];
        for (key, value, from) in &mut rows {
            if let Some((_, Some((text, place)))) = chosen.iter().find(|(name, _)| name == key) {
                (*value, *from) = (Value::from(text.as_str()), place.clone());
            }
        }
    }
    // With origins a document cannot have the shape of the file, which has no room for them.
    let whole = (!origin).then(|| loaded.shown_tree());
    list(app, rows.into_iter().map(|(key, value, from)| (key.to_owned(), value, from.to_string())).collect(), whole)
}

/// The settings that a worker of a scheduler would have if it were started here.
fn show_of_worker(app: &App, origin: bool) -> Result<Exit, Failure> {
    let loaded = WorkerFlags::default().load(app)?;
    for warning in &loaded.warnings {
        app.out.say(warning);
    }
    let whole = serde_json::to_value(&loaded.settings).expect("settings are JSON");
    let origin_of = |name: &str| loaded.origins.get(name).cloned().unwrap_or_else(|| Origin::Default.to_string());
    let rows = worker_settings::names().map(|name| (name.to_owned(), whole[name].clone(), origin_of(name))).collect();
    list(app, rows, (!origin).then_some(whole))
}

/// Settings with their values and origins; `whole` is the document that is shown instead of the origins.
fn list(app: &App, rows: Vec<(String, Value, String)>, whole: Option<Value>) -> Result<Exit, Failure> {
    let flat: Vec<_> = rows.iter().map(|(key, value, origin)| json!({ "key": key, "value": value, "origin": origin })).collect();
    let table = |_| {
        let headings: &[&str] = if whole.is_none() { &["KEY", "VALUE", "ORIGIN"] } else { &["KEY", "VALUE"] };
        let mut table = Table::new(&app.out, headings);
        for (key, value, from) in &rows {
            let cells = [key.clone(), value_text(value), from.clone()];
            table.row(cells.into_iter().take(headings.len()));
        }
        table.text()
    };
    let document = whole.clone().unwrap_or_else(|| json!({ "items": flat }));
    app.out.list(&document, &flat, table, |item| item["key"].as_str().unwrap_or_default().to_owned())?;
    Ok(Exit::Done)
}

fn value_text(value: &Value) -> String {
    match value {
        Value::Null => "(none)".to_owned(),
        Value::String(text) if text == "***" => text.clone(),
        Value::String(_) | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Also what `longshore explain KEY` does.
pub(crate) fn explain(app: &App, name: &str) -> Result<Exit, Failure> {
    let keys = Keys::all();
    let Some((_, key)) = keys.iter().find(|(key, _)| *key == name) else {
        let failure = Failure::new(Exit::NotFound, format!("there is no setting `{name}`"));
        return Err(match keys.nearest(name) {
            Some(nearest) => failure.hint(format!("did you mean `{nearest}`?     longshore config explain {nearest}")),
            None => failure.hint("longshore config show lists every setting"),
        });
    };
    let loaded = app.settings(Vec::new())?;
    let (value, origin) = loaded.in_force(name).unwrap_or((Value::Null, Origin::Default));
    let layers: Vec<_> = loaded.said(name).iter().map(|entry| (entry.origin.to_string(), Loaded::shown(key, &entry.value))).collect();
    let document = json!({
        "key": name, "doc": key.doc, "default": key.default, "value": Loaded::shown(key, &value), "origin": origin.to_string(),
        "layers": layers.iter().map(|(origin, value)| json!({ "origin": origin, "value": value })).collect::<Vec<_>>(),
    });
    match app.out.format {
        Format::Table | Format::Wide => app.out.lines(explain_text(&app.out, name, key, &value, &layers))?,
        Format::Json | Format::Jsonl | Format::Yaml | Format::Name => app.out.item(&document, |_| String::new(), || name.to_owned())?,
    }
    Ok(Exit::Done)
}

fn explain_text(out: &crate::output::Output, name: &str, key: &Key, value: &Value, layers: &[(String, Value)]) -> String {
    let mut table = Table::new(out, &["", ""]);
    let in_force = |is_last: bool, value: &Value| format!("{}{}", value_text(value), if is_last { "   <- in force" } else { "" });
    table.row(["default".to_owned(), in_force(layers.is_empty(), &key.default)]);
    for (idx, (origin, value)) in layers.iter().enumerate() {
        table.row([origin.clone(), in_force(idx + 1 == layers.len(), value)]);
    }
    let rows = table.text().lines().skip(1).map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n");
    let secret = if key.secret { "\n  A secret: give it as {file: PATH} or {env: NAME}." } else { "" };
    format!("{name} = {}\n  {}{secret}\n{rows}", value_text(&Loaded::shown(key, value)), key.doc)
}
