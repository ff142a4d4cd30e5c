//! Whether a delivered definition may be run here: somebody trusted vouches for it, and its secrets open.
//!
//! Looked at as it came, before anything in it is read or replaced. The invariant guarded here: what is refused is answered, and nothing of
//! it is started.

use longshore_model::operation::has_secrets;
use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::record::{Definition, Failure};
use longshore_model::wire::secret::Secrets;

use crate::Config;

/// The job's secrets in plain, or why it is refused here.
pub(crate) fn check(config: &Config, definition: &Definition) -> Result<Secrets, Failure> {
    if let Some(trusted) = &config.trusted_keys
        && let Err(error) = trusted.check(definition, config.id, &config.labels)
    {
        let message = format!("refused by the agent on {}: {error}", config.hostname());
        return Err(Failure { code: ErrorCode::Untrusted, message });
    }
    let refused = |why: String| {
        let message = format!("the agent on {} cannot open its secrets: {why}", config.hostname());
        Failure { code: ErrorCode::SecretsSealed, message }
    };
    match &config.opening_keys {
        Some(keys) => keys.open(definition).map_err(|error| refused(error.to_string())),
        None if has_secrets(&definition.args) => Err(refused("it has no opening key".to_owned())),
        None => Ok(Secrets::new()),
    }
}
