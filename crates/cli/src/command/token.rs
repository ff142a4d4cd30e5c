//! `longshore token`: tokens for people and programs.

use std::path::PathBuf;

use clap::Subcommand;
use jiff::Timestamp;
use longshore_model::unit::Span;
use serde_json::json;

use crate::app::App;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::role::{data, keys};

/// Tokens for people and programs.
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Sign a token with this host's key. It is shown once.
    #[command(after_help = "Examples\n  longshore token generate ci --role write --expires-in 720h > ci.token")]
    Generate(Generate),
}

/// What a token says.
#[derive(Debug, clap::Args)]
pub(crate) struct Generate {
    /// Who it is for: the name in lists and histories.
    subject: String,
    /// `read`, `write` or `admin`; may be repeated.
    #[arg(long, value_name = "ROLE", default_value = "read")]
    role: Vec<String>,
    /// Narrow the roles to these permissions, such as `job:read`; may be repeated.
    #[arg(long, value_name = "RESOURCE:VERB")]
    permission: Vec<String>,
    /// How long it is valid, such as `24h`; for ever unless given.
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<Span>,
    /// Data directory with the signing key.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Token {
    pub(crate) fn perform(self, app: &App) -> Result<Exit, Failure> {
        let Self::Generate(generate) = self;
        let permissions = (!generate.permission.is_empty()).then_some(generate.permission);
        longshore_model::access::Caller::new(&generate.subject, &generate.role, permissions.as_deref())
            .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
        let settings = app.settings(Vec::new())?.settings;
        let dir = data::directory(generate.data)?;
        let key = keys::existing_signing_key(&settings, &dir)?;
        let lifetime = generate.expires_in.map(|span| span.0);
        let token = longshore_controller::token::issue(&key, &generate.subject, &generate.role, permissions, lifetime, Timestamp::now());
        app.out.item(
            &json!({ "subject": generate.subject, "roles": generate.role, "token": token }),
            |_| token.clone(),
            || token.clone(),
        )?;
        Ok(Exit::Done)
    }
}
