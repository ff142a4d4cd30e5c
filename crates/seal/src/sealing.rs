//! Sealing secrets for the agents of a fleet: HPKE (RFC 9180) with X25519, HKDF-SHA-256 and AES-256-GCM.
//!
//! A sealed value is `KEY.DATA`: the id of the key, and base64 of the encapsulated key with the ciphertext. It is bound to its name, to the
//! job it was sealed for and to what that job does: anywhere else it does not open.

use std::{fmt, sync::Arc};

use aws_lc_rs::agreement::{PrivateKey, X25519};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use longshore_model::JobId;
use longshore_model::operation::{Call, sealing_context};
use longshore_model::wire::record::Definition;
use longshore_model::wire::secret::{Secret, Secrets};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey, HpkePublicKey};

use crate::key::{self, KEY_BYTES, KeyError, Kind};

const INFO: &[u8] = b"longshore secret 1";
/// Bytes of an X25519 share, which a sealed value begins with.
const SHARE_BYTES: usize = 32;

/// Seals; cannot open. Not a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct SealingKey {
    id: String,
    bytes: [u8; KEY_BYTES],
}

/// The secrets could not be sealed: a fault of ours. Nothing was stored.
#[derive(Debug, thiserror::Error)]
#[error("the secrets could not be sealed")]
pub struct SealError(#[source] rustls::Error);

impl SealingKey {
    /// Reads its text.
    ///
    /// # Errors
    /// It is no sealing key.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        key::read(Kind::Sealing, text).map(Self::new)
    }

    fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self { id: key::id_of(&bytes), bytes }
    }

    /// Seals every plain secret of `call` for the job `of`.
    ///
    /// # Errors
    /// A fault of ours. `call` is as it was then.
    pub fn seal(&self, of: JobId, call: &mut Call) -> Result<(), SealError> {
        let context = sealing_context(of, call.operation().name(), &call.args_json());
        let Some(secrets) = call.secrets_mut() else { return Ok(()) };
        let sealed = |(name, secret): (&String, &Secret)| match secret {
            Secret::Plain(text) => Ok((name.clone(), Secret::Sealed(self.seal_one(&context, name, text)?))),
            Secret::Sealed(_) => Ok((name.clone(), secret.clone())),
        };
        *secrets = secrets.iter().map(sealed).collect::<Result<_, _>>().map_err(SealError)?;
        Ok(())
    }

    fn seal_one(&self, context: &[u8], name: &str, text: &str) -> Result<String, rustls::Error> {
        let key = HpkePublicKey(self.bytes.to_vec());
        let (share, sealed) = SUITE.seal(INFO, &bound_to(context, name), text.as_bytes(), &key)?;
        Ok(format!("{}.{}", self.id, BASE64.encode([share.0, sealed].concat())))
    }
}

impl fmt::Display for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&key::write(Kind::Sealing, &self.bytes))
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.id)
    }
}

/// Opens what was sealed with any of several keys, so that they can be changed. Hides itself from `Debug`.
#[derive(Clone)]
pub struct OpeningKeys(Arc<Vec<(String, HpkePrivateKey)>>);

/// Secrets that cannot be opened. Nothing of them is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is no key that they were sealed for.
    #[error("the secret {name:?} is sealed for the key {key}, and the agent has {}", .have.join(", "))]
    NoKey {
        /// Whose value.
        name: String,
        /// Which key.
        key: String,
        /// The keys there are.
        have: Vec<String>,
    },
    /// Not a sealed value.
    #[error("the secret {name:?} is not a sealed value")]
    Malformed {
        /// Whose value.
        name: String,
    },
    /// Altered, or of another job.
    #[error("the secret {name:?} does not open: it was altered, or sealed for another job or for other work than this")]
    Refused {
        /// Whose value.
        name: String,
    },
}

impl OpeningKeys {
    /// Reads a list of keys, one a line, the newest first.
    ///
    /// # Errors
    /// A line that is no opening key, or no line at all.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let pair = |bytes: [u8; KEY_BYTES]| {
            let public = public_of(&bytes).ok_or(KeyError::None)?;
            Ok((key::id_of(&public), HpkePrivateKey::from(bytes.to_vec())))
        };
        let keys: Vec<_> = key::read_list(Kind::Opening, text)?.into_iter().map(pair).collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(keys)))
    }

    /// What seals for the newest of them.
    ///
    /// # Panics
    /// Never: the keys were read before.
    #[must_use]
    pub fn sealing_key(&self) -> SealingKey {
        let bytes = self.0[0].1.secret_bytes();
        SealingKey::new(public_of(bytes).expect("it was made of the same bytes when it was read"))
    }

    /// The secrets of a stored definition, in plain.
    ///
    /// # Errors
    /// One of them does not open.
    pub fn open(&self, definition: &Definition) -> Result<Secrets, OpenError> {
        let sealed_for = definition.sealed_for.unwrap_or(definition.id);
        let context = sealing_context(sealed_for, &definition.operation, &definition.args);
        let open = |(name, text)| Ok((String::clone(name), Secret::Plain(self.open_one(&context, name, text)?)));
        sealed_values(definition).map(open).collect()
    }

    fn open_one(&self, context: &[u8], name: &str, text: Option<&str>) -> Result<String, OpenError> {
        let malformed = || OpenError::Malformed { name: name.to_owned() };
        let (id, encoded) = text.and_then(|text| text.split_once('.')).ok_or_else(malformed)?;
        let Some((_, key)) = self.0.iter().find(|(known, _)| known == id) else {
            let have = self.0.iter().map(|(id, _)| id.clone()).collect();
            return Err(OpenError::NoKey { name: name.to_owned(), key: id.chars().take(32).collect(), have });
        };
        let data = BASE64.decode(encoded).map_err(|_| malformed())?;
        let (share, sealed) = data.split_at_checked(SHARE_BYTES).ok_or_else(malformed)?;
        let refused = |_| OpenError::Refused { name: name.to_owned() };
        let opened = SUITE.open(&EncapsulatedSecret(share.to_vec()), INFO, &bound_to(context, name), sealed, key).map_err(refused)?;
        String::from_utf8(opened).map_err(|_| malformed())
    }
}

impl fmt::Debug for OpeningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(id, _)| id)).finish()
    }
}

/// Every secret of a definition by its name; `None` for what is not sealed.
fn sealed_values(definition: &Definition) -> impl Iterator<Item = (&String, Option<&str>)> {
    let secrets = definition.args.get("secrets").and_then(serde_json::Value::as_object);
    secrets.into_iter().flatten().map(|(name, value)| (name, value.get("sealed").and_then(serde_json::Value::as_str)))
}

/// A new opening key in text.
///
/// # Panics
/// If the system has no random numbers: then nothing here is safe.
#[must_use]
pub fn generate_opening_key() -> String {
    let (_, private) = SUITE.generate_key_pair().expect("the system has random numbers");
    key::write(Kind::Opening, private.secret_bytes())
}

fn public_of(private: &[u8]) -> Option<[u8; KEY_BYTES]> {
    PrivateKey::from_private_key(&X25519, private).ok()?.compute_public_key().ok()?.as_ref().try_into().ok()
}

fn bound_to(context: &[u8], name: &str) -> Vec<u8> {
    [context, name.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use longshore_model::job::{Job, Submission};
    use longshore_testkit::sample;
    use serde_json::json;

    use super::*;

    const TEXT: &str = "hunter2 hunter2 \u{e9}\n'\"$(id)";

    fn keys() -> OpeningKeys {
        OpeningKeys::parse(&generate_opening_key()).unwrap()
    }

    /// A stored job with one secret, sealed.
    fn stored(keys: &OpeningKeys, command: &str) -> Definition {
        let mut call = Call::parse("command.shell", json!({"command": command, "secrets": {"TOKEN": TEXT, "OTHER": "x"}})).unwrap();
        keys.sealing_key().seal(sample::job_id(1), &mut call).unwrap();
        let job = Job { call, ..sample::shell_any(sample::job_id(1), "2026-01-02T03:04:05Z".parse().unwrap(), "true") };
        Definition::from(&job)
    }

    fn plain(text: &str) -> Secret {
        Secret::Plain(text.to_owned())
    }

    #[test]
    fn sealed_secrets_open_for_their_job_and_for_its_repeats() {
        let keys = keys();
        let definition = stored(&keys, "deploy");
        let text = serde_json::to_string(&definition).unwrap();
        assert!(!text.contains("hunter2") && text.contains("TOKEN"), "{text}");
        let expected = Secrets::from([("TOKEN".to_owned(), plain(TEXT)), ("OTHER".to_owned(), plain("x"))]);
        assert_eq!(keys.open(&definition).unwrap(), expected);

        let mut again = Job::try_from(definition).unwrap();
        for (n, first) in [(2, 1), (3, 1)] {
            let now = again.submitted_at;
            let executions = again.executions.clone();
            again = Submission::again(again, now).into_job(sample::job_id(n), executions, "ada".into(), now);
            assert_eq!(again.sealed_for, Some(sample::job_id(first)), "the repeat of a repeat names the first");
            assert_eq!(keys.open(&Definition::from(&again)).unwrap(), expected);
        }
    }

    #[test]
    fn a_moved_or_altered_value_does_not_open() {
        let keys = keys();
        let definition = stored(&keys, "deploy");
        let value = |name: &str| definition.args["secrets"][name]["sealed"].as_str().unwrap().to_owned();
        let with = |name: &str, text: String| {
            let mut other = definition.clone();
            other.args["secrets"][name]["sealed"] = text.into();
            other
        };
        let refused = |definition: &Definition| matches!(keys.open(definition), Err(OpenError::Refused { .. }));
        assert!(refused(&Definition { id: sample::job_id(2), ..definition.clone() }), "to another job");
        assert!(refused(&Definition { sealed_for: Some(sample::job_id(2)), ..definition.clone() }));
        assert!(refused(&Definition { operation: "command.exec".into(), ..definition.clone() }), "to another operation");
        let mut other = definition.clone();
        other.args["command"] = "printenv".into();
        assert!(refused(&other), "to a job that would show it");
        let mut other = definition.clone();
        other.args["env"] = json!({"PATH": "/tmp"});
        assert!(refused(&other));
        assert!(refused(&with("OTHER", value("TOKEN"))), "to another name");
        let (id, data) = value("TOKEN").split_once('.').map(|(id, data)| (id.to_owned(), BASE64.decode(data).unwrap())).unwrap();
        for place in [0, 31, 32, data.len() - 1] {
            let mut data = data.clone();
            data[place] ^= 1;
            assert!(refused(&with("TOKEN", format!("{id}.{}", BASE64.encode(data)))), "byte {place}");
        }
        for (n_bytes, expected) in
            [(0, "is not a sealed value"), (31, "is not a sealed value"), (32, "does not open"), (47, "does not open")]
        {
            let error = keys.open(&with("TOKEN", format!("{id}.{}", BASE64.encode(&data[..n_bytes])))).unwrap_err();
            assert!(error.to_string().contains(expected), "{n_bytes}: {error}");
        }
        for text in ["", ".", "x", &format!("{id}."), &format!("{id}.\u{e9}"), &format!("{id}.===="), TEXT] {
            let error = keys.open(&with("TOKEN", text.to_owned())).unwrap_err();
            assert!(matches!(error, OpenError::Malformed { .. } | OpenError::NoKey { .. }), "{text:?}: {error}");
        }
        let mut clear = definition.clone();
        clear.args["secrets"]["TOKEN"] = TEXT.into();
        assert_eq!(keys.open(&clear), Err(OpenError::Malformed { name: "TOKEN".into() }), "a value in clear is not run with");
    }

    #[test]
    fn keys_can_be_changed_while_old_jobs_wait() {
        let (old, new) = (generate_opening_key(), generate_opening_key());
        let (only_old, only_new) = (OpeningKeys::parse(&old).unwrap(), OpeningKeys::parse(&new).unwrap());
        let both = OpeningKeys::parse(&format!("{new}\n{old}\n")).unwrap();
        assert_eq!(both.sealing_key(), only_new.sealing_key(), "the newest is first");
        let waiting = stored(&only_old, "deploy");
        assert!(both.open(&waiting).is_ok() && both.open(&stored(&both, "deploy")).is_ok());
        let error = only_new.open(&waiting).unwrap_err();
        let OpenError::NoKey { key, have, .. } = &error else { panic!("{error}") };
        assert_eq!((key, have), (&only_old.sealing_key().id, &vec![only_new.sealing_key().id]));
        assert!(!format!("{both:?} {:?}", both.sealing_key()).contains(&old[15..]));
        let sealing = only_old.sealing_key();
        assert_eq!(SealingKey::parse(&sealing.to_string()).unwrap(), sealing);
    }

    #[test]
    fn the_same_secret_is_never_sealed_alike() {
        let keys = keys();
        assert_ne!(stored(&keys, "deploy").args, stored(&keys, "deploy").args);
    }
}
