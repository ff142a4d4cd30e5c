//! The tokens of sessions: what a worker shows to go on with the one it had. `base64url(JSON) "." base64url(HMAC-SHA-256)`.
//!
//! Signed with a key that is made of the controller's own, so that every controller of a fleet checks what another has given out. Bound to
//! the session, the worker's instance and its tenant.

use std::time::Duration;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use jiff::Timestamp;
use longshore_seal::{fingerprint, is_fingerprint};
use longshore_session::control::Token;
use serde::{Deserialize, Serialize};

use crate::SigningKey;

/// Before what is signed, so that no other signature of the same key stands for a session.
const PURPOSE: &[u8] = b"longshore worker session 1\0";

/// What a token says. The fields are sorted, as in the existing scheduler's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    exp: i64,
    iat: i64,
    sid: String,
    tenant: String,
    wid: String,
}

/// Whose session a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bearer<'a> {
    pub(super) session: &'a str,
    pub(super) tenant: &'a str,
    pub(super) instance: &'a str,
}

/// A token for `lifetime` from `now`, and when that ends.
pub(super) fn issue(key: &SigningKey, bearer: Bearer<'_>, lifetime: Duration, now: Timestamp) -> (Token, Timestamp) {
    let seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
    let exp = now.as_second().saturating_add(seconds);
    let Bearer { session, tenant, instance } = bearer;
    let claims = Claims { exp, iat: now.as_second(), sid: session.to_owned(), tenant: tenant.to_owned(), wid: instance.to_owned() };
    let json = serde_json::to_vec(&claims).expect("numbers and text are JSON");
    let tag = HEXLOWER.decode(fingerprint(key.bytes(), &signed(&json)).as_bytes()).expect("a fingerprint is hex");
    let token = format!("{}.{}", BASE64URL_NOPAD.encode(&json), BASE64URL_NOPAD.encode(&tag));
    (Token(token), Timestamp::from_second(exp).unwrap_or(Timestamp::MAX))
}

/// Whether a token is one of ours, for this session of this worker, and not too old.
pub(super) fn is_valid(key: &SigningKey, token: &Token, bearer: Bearer<'_>, now: Timestamp) -> bool {
    let parts = token.0.split_once('.').and_then(|(json, tag)| {
        let decode = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).ok();
        Some((decode(json)?, decode(tag)?))
    });
    let Some((json, tag)) = parts else { return false };
    if !is_fingerprint(key.bytes(), &signed(&json), &tag) {
        return false;
    }
    serde_json::from_slice(&json).is_ok_and(|Claims { exp, sid, tenant, wid, iat: _ }| {
        exp > now.as_second() && sid == bearer.session && tenant == bearer.tenant && wid == bearer.instance
    })
}

fn signed(json: &[u8]) -> Vec<u8> {
    [PURPOSE, json].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_token_is_for_one_session_of_one_worker_until_it_ends() {
        let key = SigningKey::new(vec![7; 32]);
        let bearer = Bearer { session: "s", tenant: "default", instance: "w" };
        let at = |second| Timestamp::from_second(second).unwrap();
        let (token, until) = issue(&key, bearer, Duration::from_secs(60), at(1000));
        assert_eq!(until, at(1060));
        assert!(is_valid(&key, &token, bearer, at(1059)));
        assert!(!is_valid(&key, &token, bearer, at(1060)), "its time is over");
        for other in [Bearer { session: "t", ..bearer }, Bearer { tenant: "other", ..bearer }, Bearer { instance: "v", ..bearer }] {
            assert!(!is_valid(&key, &token, other, at(1000)), "{other:?}");
        }
        assert!(!is_valid(&SigningKey::new(vec![8; 32]), &token, bearer, at(1000)), "another fleet's");
        for at_byte in 0..token.0.len() {
            let mut bytes = token.0.clone().into_bytes();
            bytes[at_byte] = if bytes[at_byte] == b'A' { b'B' } else { b'A' };
            let altered = Token(String::from_utf8(bytes).unwrap());
            // The last character of unpadded base64 has bits that say nothing; they are refused too.
            assert!(!is_valid(&key, &altered, bearer, at(1000)), "byte {at_byte}");
        }
        for nonsense in ["", ".", "a.b", "..", "%%.%%"] {
            assert!(!is_valid(&key, &Token(nonsense.to_owned()), bearer, at(1000)), "{nonsense:?}");
        }
    }
}
