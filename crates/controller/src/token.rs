//! Bearer tokens: JSON Web Tokens signed with HS256 by whoever holds the controller's key.
//!
//! The signature is checked by the HMAC's own constant-time comparison; the time is handed in, so that nothing here reads a clock.

use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use longshore_model::access::{Caller, Roles, UnknownRole};
use longshore_model::target::ParseTargetError;
use serde::{Deserialize, Serialize};

use crate::SigningKey;

const ISSUER: &str = "longshore";

/// A token that is worth nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token, not ours, or altered.
    #[error("the token is not one of ours, or it was altered")]
    Invalid,
    /// Its time is over.
    #[error("the token expired at {0}")]
    Expired(Timestamp),
    /// It carries a role that does not exist.
    #[error(transparent)]
    Role(#[from] UnknownRole),
    /// It is for a target that cannot be.
    #[error("the token is for a target that cannot be")]
    Target(#[from] ParseTargetError),
}

#[derive(Serialize, Deserialize)]
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

/// Signs a token.
#[must_use]
pub fn issue(key: &SigningKey, grant: &Grant, now: Timestamp) -> String {
    let seconds = |lifetime: Duration| i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
    let claims = Claims {
        iss: ISSUER.to_owned(),
        sub: grant.subject.clone(),
        roles: grant.roles.clone(),
        permissions: grant.permissions.clone(),
        targets: grant.targets.clone(),
        iat: now.as_second(),
        exp: grant.lifetime.map(|lifetime| now.as_second().saturating_add(seconds(lifetime))),
    };
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(key.bytes()))
        .expect("HS256 takes any key, and the claims are plain JSON")
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
}

/// Checks a token and gives what it says.
///
/// # Errors
/// As [`verify`].
pub fn read(key: &SigningKey, known: &Roles, token: &str, now: Timestamp) -> Result<Valid, TokenError> {
    verify(key, known, token, now)?;
    let Claims { sub, roles, permissions, targets, exp, .. } = claims(key, token)?;
    Ok(Valid { subject: sub, roles, permissions, targets, expires_at: exp.and_then(|exp| Timestamp::from_second(exp).ok()) })
}

/// Checks a token and gives who it stands for.
///
/// # Errors
/// The token is not ours, is over, or carries a role or a target that cannot be.
pub fn verify(key: &SigningKey, known: &Roles, token: &str, now: Timestamp) -> Result<Caller, TokenError> {
    let claims = claims(key, token)?;
    if let Some(exp) = claims.exp {
        let at = Timestamp::from_second(exp).map_err(|_| TokenError::Invalid)?;
        if at <= now {
            return Err(TokenError::Expired(at));
        }
    }
    let targets = claims.targets.map(|targets| targets.iter().map(|target| target.parse()).collect()).transpose()?;
    Ok(Caller::new(claims.sub, known, &claims.roles, claims.permissions.as_deref(), targets)?)
}

fn claims(key: &SigningKey, token: &str) -> Result<Claims, TokenError> {
    let mut rules = Validation::new(Algorithm::HS256);
    rules.set_issuer(&[ISSUER]);
    rules.set_required_spec_claims(&["iss", "sub"]);
    // The library would read the clock; `exp` is judged below by the time we were handed.
    rules.validate_exp = false;
    rules.validate_aud = false;
    jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_secret(key.bytes()), &rules)
        .map(|data| data.claims)
        .map_err(|_| TokenError::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::new(b"0123456789abcdef0123456789abcdef".to_vec())
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_token_says_who_and_what_until_its_time_is_over() {
        let token = issue(
            &key(),
            &Grant { permissions: Some(vec!["job:read".into()]), lifetime: Some(Duration::from_secs(60)), ..Grant::new("ada", &["write"]) },
            at(100),
        );
        let caller = verify(&key(), &Roles::default(), &token, at(159)).unwrap();
        assert_eq!(caller.name, "ada");
        assert!(caller.may("job:read") && !caller.may("job:write"));
        assert_eq!(verify(&key(), &Roles::default(), &token, at(160)), Err(TokenError::Expired(at(160))));
    }

    #[test]
    fn foreign_and_altered_tokens_are_refused() {
        let token = issue(&key(), &Grant::new("ada", &["read"]), at(100));
        assert!(verify(&key(), &Roles::default(), &token, at(1_000_000_000)).is_ok());
        assert_eq!(verify(&SigningKey::new(b"other".to_vec()), &Roles::default(), &token, at(100)), Err(TokenError::Invalid));
        let (head, signature) = token.rsplit_once('.').unwrap();
        for forged in [format!("{head}."), format!("{head}x.{signature}"), head.to_owned(), String::new(), "a.b.c".to_owned()] {
            assert_eq!(verify(&key(), &Roles::default(), &forged, at(100)), Err(TokenError::Invalid), "{forged}");
        }
        // `{"alg":"none"}` with the same claims.
        let claims = head.split('.').nth(1).unwrap();
        assert_eq!(verify(&key(), &Roles::default(), &format!("eyJhbGciOiJub25lIn0.{claims}."), at(100)), Err(TokenError::Invalid));
    }

    #[test]
    fn unknown_roles_are_refused_as_a_whole() {
        let token = issue(&key(), &Grant::new("ada", &["root"]), at(100));
        assert!(matches!(verify(&key(), &Roles::default(), &token, at(100)), Err(TokenError::Role(_))));
    }
}
