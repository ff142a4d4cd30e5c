//! Whether a delivered definition may be run here: somebody trusted vouches for it, and its secrets open.
//!
//! Looked at as it came, before anything in it is read or replaced. The invariant guarded here: what is refused is answered, and nothing of
//! it is started.

use longshore_model::operation::has_secrets;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Definition, Failure};
use longshore_model::wire::secret::Secrets;
use longshore_model::{AgentId, Label};
use longshore_seal::{OpeningKeys, TrustedKeys};

use crate::Config;

/// Who is to run it, and what that one opens and trusts.
pub(crate) struct Reader<'a> {
    pub(crate) agent: AgentId,
    pub(crate) labels: &'a [Label],
    pub(crate) trusted_keys: Option<&'a TrustedKeys>,
    pub(crate) opening_keys: Option<&'a OpeningKeys>,
}

/// Why it is refused.
pub(crate) enum Refused {
    /// Nobody trusted vouches for it.
    Untrusted(String),
    /// Its secrets do not open.
    Sealed(String),
}

impl Refused {
    /// The same as whoever runs work there tells it.
    pub(crate) fn on(self, hostname: &str) -> Failure {
        match self {
            Self::Untrusted(why) => Failure { code: ErrorCode::Untrusted, message: format!("refused by the agent on {hostname}: {why}") },
            Self::Sealed(why) => {
                let message = format!("the agent on {hostname} cannot open its secrets: {why}");
                Failure { code: ErrorCode::SecretsSealed, message }
            }
        }
    }
}

/// The job's secrets in plain, or why it is refused here.
pub(crate) fn check(config: &Config, definition: &Definition) -> Result<Secrets, Failure> {
    let (trusted_keys, opening_keys) = (config.trusted_keys.as_ref(), config.opening_keys.as_ref());
    check_for(&Reader { agent: config.id, labels: &config.labels, trusted_keys, opening_keys }, definition)
        .map_err(|refused| refused.on(&config.hostname()))
}

/// The same for anybody.
pub(crate) fn check_for(reader: &Reader<'_>, definition: &Definition) -> Result<Secrets, Refused> {
    if let Some(trusted) = reader.trusted_keys {
        trusted.check(definition, reader.agent, reader.labels).map_err(|error| Refused::Untrusted(error.to_string()))?;
    }
    match reader.opening_keys {
        Some(keys) => keys.open(definition).map_err(|error| Refused::Sealed(error.to_string())),
        None if has_secrets(&definition.args) => Err(Refused::Sealed("it has no opening key".to_owned())),
        None => Ok(Secrets::new()),
    }
}
