//! Bearer tokens: JSON Web Tokens signed with HS256 by whoever holds the controller's key.
//!
//! The signature is checked by the HMAC's own constant-time comparison; the time is handed in, so that nothing here reads a clock.

use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use longshore_model::access::{Caller, UnknownRole};
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
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    roles: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    permissions: Option<Vec<String>>,
    iat: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
}

/// Signs a token for `subject`. `permissions` narrows what the roles grant; without a `lifetime` the token does not expire.
#[must_use]
pub fn issue(
    key: &SigningKey,
    subject: &str,
    roles: &[String],
    permissions: Option<Vec<String>>,
    lifetime: Option<Duration>,
    now: Timestamp,
) -> String {
    let seconds = |lifetime: Duration| i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
    let claims = Claims {
        iss: ISSUER.to_owned(),
        sub: subject.to_owned(),
        roles: roles.to_vec(),
        permissions,
        iat: now.as_second(),
        exp: lifetime.map(|lifetime| now.as_second().saturating_add(seconds(lifetime))),
    };
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(key.bytes()))
        .expect("HS256 takes any key, and the claims are plain JSON")
}

/// Checks a token and gives who it stands for.
///
/// # Errors
/// The token is not ours, is over, or carries a role that does not exist.
pub fn verify(key: &SigningKey, token: &str, now: Timestamp) -> Result<Caller, TokenError> {
    let mut rules = Validation::new(Algorithm::HS256);
    rules.set_issuer(&[ISSUER]);
    rules.set_required_spec_claims(&["iss", "sub"]);
    // The library would read the clock; `exp` is judged below by the time we were handed.
    rules.validate_exp = false;
    rules.validate_aud = false;
    let claims =
        jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_secret(key.bytes()), &rules).map_err(|_| TokenError::Invalid)?.claims;
    if let Some(exp) = claims.exp {
        let at = Timestamp::from_second(exp).map_err(|_| TokenError::Invalid)?;
        if at <= now {
            return Err(TokenError::Expired(at));
        }
    }
    Ok(Caller::new(claims.sub, &claims.roles, claims.permissions.as_deref())?)
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
        let token = issue(&key(), "ada", &["write".into()], Some(vec!["job:read".into()]), Some(Duration::from_secs(60)), at(100));
        let caller = verify(&key(), &token, at(159)).unwrap();
        assert_eq!(caller.name, "ada");
        assert!(caller.may("job:read") && !caller.may("job:write"));
        assert_eq!(verify(&key(), &token, at(160)), Err(TokenError::Expired(at(160))));
    }

    #[test]
    fn foreign_and_altered_tokens_are_refused() {
        let token = issue(&key(), "ada", &["read".into()], None, None, at(100));
        assert!(verify(&key(), &token, at(1_000_000_000)).is_ok());
        assert_eq!(verify(&SigningKey::new(b"other".to_vec()), &token, at(100)), Err(TokenError::Invalid));
        let (head, signature) = token.rsplit_once('.').unwrap();
        for forged in [format!("{head}."), format!("{head}x.{signature}"), head.to_owned(), String::new(), "a.b.c".to_owned()] {
            assert_eq!(verify(&key(), &forged, at(100)), Err(TokenError::Invalid), "{forged}");
        }
        // `{"alg":"none"}` with the same claims.
        let claims = head.split('.').nth(1).unwrap();
        assert_eq!(verify(&key(), &format!("eyJhbGciOiJub25lIn0.{claims}."), at(100)), Err(TokenError::Invalid));
    }

    #[test]
    fn unknown_roles_are_refused_as_a_whole() {
        let token = issue(&key(), "ada", &["root".into()], None, None, at(100));
        assert!(matches!(verify(&key(), &token, at(100)), Err(TokenError::Role(_))));
    }
}
