//! The variables whose values are secret, as programs get them.

use std::collections::BTreeMap;

use longshore_model::wire::problem::ErrorCode;
use longshore_model::wire::secret::{Secret, Secrets};

use crate::finished::Finished;

/// The values in plain; the caller of the executor has opened them.
pub(crate) fn opened(secrets: &Secrets) -> Result<BTreeMap<String, String>, Box<Finished>> {
    let open = |(name, secret): (&String, &Secret)| match secret {
        Secret::Plain(text) => Ok((name.clone(), text.clone())),
        Secret::Sealed(_) => Err(Box::new(Finished::failed(ErrorCode::SecretsSealed, format!("the secret {name:?} was not opened")))),
    };
    secrets.iter().map(open).collect()
}
