//! `longshore token`: tokens for people and programs.

use std::io::Read as _;
use std::path::PathBuf;

use clap::Subcommand;
use jiff::Timestamp;
use longshore_controller::token::{self, Grant};
use longshore_model::Target;
use longshore_model::access::{Caller, Roles};
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
    /// Sign a token with this host's key, or with a private key of your own. It is shown once.
    #[command(after_help = GENERATE_EXAMPLES)]
    Generate(Generate),
    /// Say whose a token is, and whether this host's controller would take it. It comes from a file or standard input, never from the command line.
    #[command(after_help = "Examples\n  longshore token validate ci.token\n  longshore token validate < ci.token")]
    Validate(Validate),
}

const GENERATE_EXAMPLES: &str = "\
Examples
  longshore token generate ci --role write --expires-in 720h > ci.token

With a key of your own, whose public half is in controller.api.security.verify_keys
  openssl genpkey -algorithm ed25519 -out tokens.key
  openssl pkey -in tokens.key -pubout -out tokens.pub
  longshore token generate ci --algorithm EdDSA --key tokens.key > ci.token";

/// Ways to sign a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Algorithm {
    /// With the controller's own key.
    #[default]
    #[value(name = "HS256")]
    Hs256,
    /// With an Ed25519 private key; the controller knows its public half.
    #[value(name = "EdDSA")]
    EdDsa,
}

/// Which token.
#[derive(Debug, clap::Args)]
pub(crate) struct Validate {
    /// File with the token; standard input unless given.
    file: Option<PathBuf>,
    /// Data directory with the signing key.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Bytes of a token's file.
const TOKEN_BYTES_MAX: u64 = 64 << 10;

/// What a token says.
#[derive(Debug, clap::Args)]
pub(crate) struct Generate {
    /// Who it is for: the name in lists and histories.
    subject: String,
    /// `read`, `write`, `admin`, or a role of `controller.api.security.roles`; may be repeated.
    #[arg(long, value_name = "ROLE", default_value = "read")]
    role: Vec<String>,
    /// Narrow the roles to these permissions, such as `job:read`; may be repeated.
    #[arg(long, value_name = "RESOURCE:VERB")]
    permission: Vec<String>,
    /// Only for this target: `_any`, a host, `KEY:VALUE` or `_any@KEY:VALUE`; may be repeated.
    #[arg(long, value_name = "TARGET")]
    target: Vec<Target>,
    /// How it is signed.
    #[arg(long, value_enum, default_value_t, ignore_case = true, value_name = "NAME")]
    algorithm: Algorithm,
    /// Ed25519 private key in PEM, for EdDSA.
    #[arg(long, value_name = "FILE", required_if_eq("algorithm", "EdDSA"))]
    key: Option<PathBuf>,
    /// The key's id, if it has another than its thumbprint in `controller.api.security.verify_keys`.
    #[arg(long, value_name = "ID", requires = "key")]
    kid: Option<String>,
    /// How long it is valid, such as `24h`; for ever unless given.
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<Span>,
    /// Data directory with the signing key.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Refuses what would be signed and could do nothing: a role or a permission that does not exist, or one that no role given has.
fn checked(known: &Roles, subject: &str, roles: &[String], permissions: Option<&[String]>) -> Result<(), Failure> {
    let caller = |roles: &[String], only| {
        Caller::new(subject, known, roles, only, None).map_err(|error| Failure::new(Exit::Usage, error.to_string()))
    };
    let given = caller(roles, permissions)?;
    let common = caller(&["write".to_owned()], None)?;
    for permission in permissions.unwrap_or_default() {
        let of_operations = Operation::ALL.iter().map(|operation| operation.spec().permission);
        if !common.may(permission) && !COMMON.contains(&permission.as_str()) && !of_operations.clone().any(|known| known == permission) {
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
const COMMON: [&str; 6] = ["job:read", "job:write", "agent:attach", "agent:read", "agent:write", "audit:read"];

impl Token {
    pub(crate) fn perform(self, app: &App) -> Result<Exit, Failure> {
        match self {
            Self::Generate(generate) => generate.perform(app),
            Self::Validate(validate) => validate.perform(app),
        }
    }
}

impl Generate {
    fn perform(self, app: &App) -> Result<Exit, Failure> {
        let settings = app.settings(Vec::new())?.settings;
        let known = settings.controller.api.security.roles().unwrap_or_default();
        let permissions = (!self.permission.is_empty()).then_some(self.permission);
        checked(&known, &self.subject, &self.role, permissions.as_deref())?;
        let grant = Grant {
            subject: self.subject,
            roles: self.role,
            permissions,
            targets: (!self.target.is_empty()).then(|| self.target.iter().map(Target::to_string).collect()),
            lifetime: self.expires_in.map(|span| span.0),
        };
        let (now, path) = (Timestamp::now(), self.key.as_deref());
        let (token, kid) = match (self.algorithm, path) {
            (Algorithm::Hs256, None) => {
                (token::issue(&keys::existing_signing_key(&settings, &data::directory(self.data)?)?, &grant, now), None)
            }
            (Algorithm::EdDsa, Some(path)) => {
                let key = keys::private_key(path, self.kid.as_deref())?;
                (token::issue_with(&key, &grant, now), Some(key.id().to_owned()))
            }
            (Algorithm::Hs256, Some(_)) | (Algorithm::EdDsa, None) => {
                return Err(Failure::new(Exit::Usage, "--key FILE and --algorithm EdDSA go together"));
            }
        };
        let document = json!({ "subject": grant.subject, "roles": grant.roles, "kid": kid, "token": token });
        app.out.item(&document, |_| token.clone(), || token.clone())?;
        Ok(Exit::Done)
    }
}

impl Validate {
    fn perform(self, app: &App) -> Result<Exit, Failure> {
        let settings = app.settings(Vec::new())?.settings;
        let known = settings.controller.api.security.roles().unwrap_or_default();
        let others = keys::verify_keys(&settings)?;
        // Who has public keys only can still say which tokens they are for.
        let own = match keys::existing_signing_key(&settings, &data::directory(self.data)?) {
            Err(failure) if others.is_empty() || failure.exit != Exit::NotFound => return Err(failure),
            own => own.ok(),
        };
        let ring = keys::keyring(own.as_ref(), &others)?;
        let place = self.file.as_ref().map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
        let unreadable =
            |error: std::io::Error| Failure::new(Exit::NotFound, format!("no token can be read from {place}")).caused_by(&error);
        let mut text = String::new();
        match &self.file {
            Some(path) => std::fs::File::open(path).map_err(unreadable)?.take(TOKEN_BYTES_MAX).read_to_string(&mut text),
            None => std::io::stdin().take(TOKEN_BYTES_MAX).read_to_string(&mut text),
        }
        .map_err(unreadable)?;
        let said = ring
            .read(&known, text.trim(), Timestamp::now())
            .map_err(|error| Failure::new(Exit::Failed, "the token is worth nothing").caused_by(&error))?;
        let all = |list: &Option<Vec<String>>, none: &str| list.as_ref().map_or_else(|| none.to_owned(), |list| list.join(", "));
        let table = |_| {
            format!(
                "{} is valid {}\n  roles        {}\n  permissions  {}\n  targets      {}\n  key          {}",
                said.subject,
                said.expires_at.map_or_else(|| "for ever".to_owned(), |at| format!("until {at}")),
                said.roles.join(", "),
                all(&said.permissions, "all of its roles"),
                all(&said.targets, "every agent"),
                said.key_id.as_deref().unwrap_or("the controller's own"),
            )
        };
        let data = json!({
            "subject": said.subject, "roles": said.roles, "permissions": said.permissions, "targets": said.targets,
            "expires_at": said.expires_at, "kid": said.key_id,
        });
        app.out.item(&data, table, || said.subject.clone())?;
        Ok(Exit::Done)
    }
}
