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
    pub(crate) hostname: &'a str,
    pub(crate) labels: &'a [Label],
    pub(crate) trusted_keys: Option<&'a TrustedKeys>,
    pub(crate) opening_keys: Option<&'a OpeningKeys>,
}

/// The job's secrets in plain, or why it is refused here.
pub(crate) fn check(config: &Config, definition: &Definition) -> Result<Secrets, Failure> {
    let hostname = config.hostname();
    let (trusted_keys, opening_keys) = (config.trusted_keys.as_ref(), config.opening_keys.as_ref());
    check_for(&Reader { agent: config.id, hostname: &hostname, labels: &config.labels, trusted_keys, opening_keys }, definition)
}

/// The same for anybody.
pub(crate) fn check_for(reader: &Reader<'_>, definition: &Definition) -> Result<Secrets, Failure> {
    if let Some(trusted) = reader.trusted_keys
        && let Err(error) = trusted.check(definition, reader.agent, reader.labels)
    {
        let message = format!("refused by the agent on {}: {error}", reader.hostname);
        return Err(Failure { code: ErrorCode::Untrusted, message });
    }
    let refused = |why: String| {
        let message = format!("the agent on {} cannot open its secrets: {why}", reader.hostname);
        Failure { code: ErrorCode::SecretsSealed, message }
    };
    match reader.opening_keys {
        Some(keys) => keys.open(definition).map_err(|error| refused(error.to_string())),
        None if has_secrets(&definition.args) => Err(refused("it has no opening key".to_owned())),
        None => Ok(Secrets::new()),
    }
}
