//! The tokens of sessions: what a worker shows to go on with the one it had. `base64url(JSON) "." base64url(HMAC-SHA-256)`.
//!
//! Signed with a key that is made of the controller's own, so that every controller of a fleet checks what another has given out. Bound to
//! the session, the worker's instance and its tenant.

use std::time::Duration;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use jiff::Timestamp;
use longshore_model::{AgentId, ExecutionId, JobId};
use longshore_seal::{fingerprint, is_fingerprint};
use longshore_session::control::Token;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::SigningKey;

/// Before what is signed, so that no other signature of the same key stands for a session.
const PURPOSE: &[u8] = b"longshore worker session 1\0";
/// The same for a pass.
const PASS_PURPOSE: &[u8] = b"longshore worker pass 1\0";

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
    (Token(write(key, PURPOSE, &claims)), Timestamp::from_second(exp).unwrap_or(Timestamp::MAX))
}

/// Whether a token is one of ours, for this session of this worker, and not too old.
pub(super) fn is_valid(key: &SigningKey, token: &Token, bearer: Bearer<'_>, now: Timestamp) -> bool {
    read::<Claims>(key, PURPOSE, &token.0).is_some_and(|Claims { exp, sid, tenant, wid, iat: _ }| {
        exp > now.as_second() && sid == bearer.session && tenant == bearer.tenant && wid == bearer.instance
    })
}

/// What a worker shows to fetch the bundle of one attempt and to bring its archive, beside its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pass {
    /// The worker.
    pub(super) agent: AgentId,
    /// The attempt.
    pub(super) attempt: u32,
    /// The execution.
    pub(super) execution: ExecutionId,
    /// When it ends, in seconds since 1970.
    pub(super) exp: i64,
    /// The job.
    pub(super) job: JobId,
}

impl Pass {
    /// As the worker shows it.
    pub(super) fn sign(self, key: &SigningKey) -> String {
        write(key, PASS_PURPOSE, &self)
    }

    /// One of ours that is not too old.
    pub(super) fn check(key: &SigningKey, text: &str, now: Timestamp) -> Option<Self> {
        read::<Self>(key, PASS_PURPOSE, text).filter(|pass| pass.exp > now.as_second())
    }
}

fn write<T: Serialize>(key: &SigningKey, purpose: &[u8], claims: &T) -> String {
    let json = serde_json::to_vec(claims).expect("numbers and text are JSON");
    let tag = HEXLOWER.decode(fingerprint(key.bytes(), &[purpose, &json].concat()).as_bytes()).expect("a fingerprint is hex");
    format!("{}.{}", BASE64URL_NOPAD.encode(&json), BASE64URL_NOPAD.encode(&tag))
}

fn read<T: DeserializeOwned>(key: &SigningKey, purpose: &[u8], text: &str) -> Option<T> {
    let (json, tag) = text.split_once('.')?;
    let decode = |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).ok();
    let (json, tag) = (decode(json)?, decode(tag)?);
    if !is_fingerprint(key.bytes(), &[purpose, &json].concat(), &tag) {
        return None;
    }
    serde_json::from_slice(&json).ok()
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

    #[test]
    fn a_pass_is_for_one_attempt_until_it_ends_and_no_session_is_one() {
        let key = SigningKey::new(vec![7; 32]);
        let agent = AgentId::from_bits(1);
        let pass = Pass { agent, attempt: 1, execution: ExecutionId::Agent(agent), exp: 1060, job: JobId::from_bits(2) };
        let at = |second| Timestamp::from_second(second).unwrap();
        let text = pass.sign(&key);
        assert_eq!((Pass::check(&key, &text, at(1059)), Pass::check(&key, &text, at(1060))), (Some(pass), None));
        assert_eq!(Pass::check(&SigningKey::new(vec![8; 32]), &text, at(0)), None);
        let (token, _) = issue(&key, Bearer { session: "s", tenant: "t", instance: "w" }, Duration::from_secs(60), at(0));
        assert_eq!(Pass::check(&key, &token.0, at(0)), None);
    }
}
