//! Bearer tokens: JSON Web Tokens, signed with HS256 by whoever holds the controller's key, or with EdDSA (Ed25519) by whoever holds a
//! private key whose public half the controller knows.
//!
//! The signature is checked by the library, in constant time; the time is handed in, so that nothing here reads a clock.

mod keys;

use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use longshore_model::access::{Caller, Roles, UnknownRole};
use longshore_model::target::ParseTargetError;
use serde::{Deserialize, Serialize};

use crate::SigningKey;

pub use keys::{KeyError, Keyring, PrivateKey, VerifyKey};

const ISSUER: &str = "longshore";
/// How far the clock of who signed may be ahead of ours.
const AHEAD_MAX: Duration = Duration::from_secs(30);

/// A token that is worth nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token, not ours, or altered.
    #[error("the token is not one of ours, or it was altered")]
    Invalid,
    /// Its time is over.
    #[error("the token expired at {0}")]
    Expired(Timestamp),
    /// Its time has not come.
    #[error("the token is not valid before {0}")]
    Early(Timestamp),
    /// It carries a role that does not exist.
    #[error(transparent)]
    Role(#[from] UnknownRole),
    /// It is for a target that cannot be.
    #[error("the token is for a target that cannot be")]
    Target(#[from] ParseTargetError),
}

#[derive(Clone, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    roles: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    permissions: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    targets: Option<Vec<String>>,
    iat: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
}

/// What a token is to say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grant {
    /// Who it is for: a name for people and histories.
    pub subject: String,
    /// What it may.
    pub roles: Vec<String>,
    /// Narrows what the roles grant.
    pub permissions: Option<Vec<String>>,
    /// Narrows who may be told to do something; targets as in a submission.
    pub targets: Option<Vec<String>>,
    /// How long it is valid; for ever unless given.
    pub lifetime: Option<Duration>,
}

impl Grant {
    /// Everything that `roles` grant, for ever.
    #[must_use]
    pub fn new(subject: &str, roles: &[&str]) -> Self {
        Self { subject: subject.to_owned(), roles: roles.iter().map(|role| (*role).to_owned()).collect(), ..Self::default() }
    }
}

/// Signs a token with the controller's own key, HS256.
#[must_use]
pub fn issue(key: &SigningKey, grant: &Grant, now: Timestamp) -> String {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims_of(grant, now), &EncodingKey::from_secret(key.bytes()))
        .expect("HS256 takes any key, and the claims are plain JSON")
}

/// Signs a token with a private key, EdDSA. It names the key by its id.
#[must_use]
pub fn issue_with(key: &PrivateKey, grant: &Grant, now: Timestamp) -> String {
    let header = Header { kid: Some(key.id.clone()), ..Header::new(Algorithm::EdDSA) };
    jsonwebtoken::encode(&header, &claims_of(grant, now), &key.key)
        .expect("the key was tried when it was read, and the claims are plain JSON")
}

fn claims_of(grant: &Grant, now: Timestamp) -> Claims {
    let seconds = |lifetime: Duration| i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
    Claims {
        iss: ISSUER.to_owned(),
        sub: grant.subject.clone(),
        roles: grant.roles.clone(),
        permissions: grant.permissions.clone(),
        targets: grant.targets.clone(),
        iat: now.as_second(),
        nbf: None,
        exp: grant.lifetime.map(|lifetime| now.as_second().saturating_add(seconds(lifetime))),
    }
}

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Valid {
    /// Who it is for.
    pub subject: String,
    /// What it may.
    pub roles: Vec<String>,
    /// What that is narrowed to.
    pub permissions: Option<Vec<String>>,
    /// Whom it may have do something.
    pub targets: Option<Vec<String>>,
    /// When it ends, if it does.
    pub expires_at: Option<Timestamp>,
    /// The id of the public key that it was checked with; none for the controller's own.
    pub key_id: Option<String>,
}

impl Keyring {
    /// Checks a token and gives what it says.
    ///
    /// # Errors
    /// As [`Keyring::verify`].
    pub fn read(&self, known: &Roles, token: &str, now: Timestamp) -> Result<Valid, TokenError> {
        self.verify(known, token, now)?;
        let signed = self.signed(token)?;
        let Claims { sub, roles, permissions, targets, exp, .. } = signed.claims.clone();
        let expires_at = exp.and_then(|exp| Timestamp::from_second(exp).ok());
        Ok(Valid { subject: sub, roles, permissions, targets, expires_at, key_id: signed.key_id.clone() })
    }

    /// Checks a token and gives who it stands for.
    ///
    /// # Errors
    /// The token is not ours, is over or early, or carries a role or a target that cannot be.
    pub fn verify(&self, known: &Roles, token: &str, now: Timestamp) -> Result<Caller, TokenError> {
        let signed = self.signed(token)?;
        let claims = &signed.claims;
        let time = |second: i64| Timestamp::from_second(second).map_err(|_| TokenError::Invalid);
        if let Some(at) = claims.exp.map(time).transpose()?
            && at <= now
        {
            return Err(TokenError::Expired(at));
        }
        if let Some(at) = claims.nbf.map(time).transpose()?
            && now.saturating_add(AHEAD_MAX).is_ok_and(|latest| at > latest)
        {
            return Err(TokenError::Early(at));
        }
        let targets = claims.targets.as_ref().map(|targets| targets.iter().map(|target| target.parse()).collect()).transpose()?;
        Ok(Caller::new(claims.sub.clone(), known, &claims.roles, claims.permissions.as_deref(), targets)?)
    }
}

#[cfg(test)]
mod tests;
