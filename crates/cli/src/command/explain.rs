//! `longshore explain`: error codes, settings and exit codes, offline.

use clap::Args;
use longshore_client::ErrorCode;
use serde_json::json;

use super::config;
use crate::app::App;
use crate::exit::{Exit, MEANINGS};
use crate::failure::{Failure, OWN_CODES};
use crate::settings::Keys;

/// What an error code, a setting or an exit code means.
#[derive(Debug, Args)]
#[command(after_help = "Examples\n  longshore explain no_agent\n  longshore explain nats.kv.ttl\n  longshore explain exit-codes")]
pub(crate) struct Explain {
    /// An error code, a setting such as `nats.url`, an exit code such as `6`, or `exit-codes`.
    what: String,
}

impl Explain {
    pub(crate) fn perform(self, app: &App) -> Result<Exit, Failure> {
        if self.what == "exit-codes" {
            return exit_codes(app);
        }
        if let Some(meaning) = Exit::meaning(&self.what) {
            let document = json!({ "exit_code": self.what.parse::<u8>().ok(), "meaning": meaning });
            app.out.item(
                &document,
                |_| format!("exit code {}: {meaning}\n\nAll of them:     longshore explain exit-codes", self.what),
                || self.what.clone(),
            )?;
            return Ok(Exit::Done);
        }
        if let Some((code, title, explanation)) = codes().find(|(code, _, _)| *code == self.what) {
            let document = json!({ "code": code, "title": title, "explanation": explanation });
            app.out.item(&document, |_| format!("{code}: {title}\n\n{explanation}"), || code.to_owned())?;
            return Ok(Exit::Done);
        }
        if self.what.contains('.') {
            return config::explain(app, &self.what);
        }
        let failure = Failure::new(Exit::NotFound, format!("`{}` is neither an error code nor a setting", self.what));
        let keys = Keys::all();
        let near = codes().map(|(code, _, _)| code).chain(keys.iter().map(|(key, _)| key));
        let near = near.map(|name| (strsim::jaro_winkler(&self.what, name), name)).max_by(|a, b| a.0.total_cmp(&b.0));
        Err(match near.filter(|(likeness, _)| *likeness > 0.8) {
            Some((_, name)) => failure.hint(format!("did you mean `{name}`?     longshore explain {name}")),
            None => failure,
        })
    }
}

fn exit_codes(app: &App) -> Result<Exit, Failure> {
    let items: Vec<_> = MEANINGS.iter().map(|(code, meaning)| json!({ "exit_code": code, "meaning": meaning })).collect();
    let table = |_| MEANINGS.iter().map(|(code, meaning)| format!("{code:<5}{meaning}")).collect::<Vec<_>>().join("\n");
    app.out.list(&json!({ "items": items }), &items, table, |item| item["exit_code"].to_string())?;
    Ok(Exit::Done)
}

fn codes() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let api = ErrorCode::ALL.iter().map(|code| (code.as_str(), code.title(), code.explanation()));
    api.chain(OWN_CODES.iter().copied())
}
