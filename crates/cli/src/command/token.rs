//! `longshore token`: tokens for people and programs.

use std::path::PathBuf;

use clap::Subcommand;
use jiff::Timestamp;
use longshore_model::access::Caller;
use longshore_model::operation::Operation;
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

/// Refuses what would be signed and could do nothing: a role or a permission that does not exist, or one that no role given has.
fn checked(subject: &str, roles: &[String], permissions: Option<&[String]>) -> Result<(), Failure> {
    let caller = |roles: &[String], only| Caller::new(subject, roles, only).map_err(|error| Failure::new(Exit::Usage, error.to_string()));
    let given = caller(roles, permissions)?;
    let common = caller(&["write".to_owned()], None)?;
    for permission in permissions.unwrap_or_default() {
        let of_operations = Operation::ALL.iter().map(|operation| operation.spec().permission);
        if !common.may(permission) && !of_operations.clone().any(|known| known == permission) {
            let near = of_operations.chain(COMMON).map(|known| (strsim::jaro_winkler(permission, known), known));
            let failure = Failure::new(Exit::Usage, format!("there is no permission {permission:?}"));
            return Err(match near.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(likeness, _)| *likeness > 0.8) {
                Some((_, near)) => failure.hint(format!("did you mean `{near}`?")),
                None => failure.hint("longshore operation list -o wide shows those of operations"),
            });
        }
        if !given.may(permission) {
            return Err(Failure::new(Exit::Usage, format!("{permission:?} is not part of the role {}", roles.join(", ")))
                .because("permissions narrow the roles of a token and add nothing to them")
                .hint(format!("longshore token generate {subject} --role admin --permission {permission}")));
        }
    }
    Ok(())
}

/// Permissions that no operation needs, to tell the one that was meant.
const COMMON: [&str; 3] = ["job:read", "job:write", "agent:read"];

impl Token {
    pub(crate) fn perform(self, app: &App) -> Result<Exit, Failure> {
        let Self::Generate(generate) = self;
        let permissions = (!generate.permission.is_empty()).then_some(generate.permission);
        checked(&generate.subject, &generate.role, permissions.as_deref())?;
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
