//! Signing definitions, and checking who vouches for one: Ed25519 over what `model` says is signed.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use longshore_model::job::signed_text;
use longshore_model::wire::record::{Definition, Signature};
use longshore_model::{AgentId, ExecutionId, Label, Target};

use crate::key::{self, KEY_BYTES, KeyError, Kind};

/// Signs definitions. Hides itself from `Debug`.
#[derive(Clone)]
pub struct JobSigner {
    id: String,
    pair: Arc<Ed25519KeyPair>,
}

impl JobSigner {
    /// Reads its text.
    ///
    /// # Errors
    /// It is no signing key.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let seed = key::read(Kind::Signing, text)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| KeyError::None)?;
        Ok(Self { id: key::id_of(pair.public_key().as_ref()), pair: Arc::new(pair) })
    }

    /// Signs a definition with everything in it; what it said of a signature before is forgotten.
    pub fn sign(&self, definition: &mut Definition) {
        definition.signature = None;
        let text = signed_text(definition).expect("without a proof there is nothing to contradict");
        let value = BASE64.encode(self.pair.sign(&text));
        definition.signature = Some(Signature { key: self.id.clone(), value, proof: Vec::new() });
    }

    /// What agents know it by, in text.
    #[must_use]
    pub fn trusted_key(&self) -> String {
        key::write(Kind::Trusted, self.pair.public_key().as_ref())
    }
}

impl fmt::Debug for JobSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobSigner({})", self.id)
    }
}

/// Whose signatures are believed. Not a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustedKeys(Arc<Vec<(String, [u8; KEY_BYTES])>>);

/// Why a delivered definition is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// Nobody vouches for it.
    #[error("the job is not signed")]
    Unsigned,
    /// Somebody unknown does.
    #[error("the job is signed with the key {key}, and the agent trusts {}", .trusted.join(", "))]
    UnknownKey {
        /// Which.
        key: String,
        /// Those that are known.
        trusted: Vec<String>,
    },
    /// The signature does not fit.
    #[error("the job was altered after it was signed")]
    Altered,
    /// It is signed, and for others.
    #[error("the job is signed, but not for this agent")]
    NotForUs,
}

impl TrustedKeys {
    /// Reads a list of keys, one a line.
    ///
    /// # Errors
    /// A line that is no trusted key, or no line at all.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let keys = key::read_list(Kind::Trusted, text)?;
        Ok(Self(Arc::new(keys.into_iter().map(|bytes| (key::id_of(&bytes), bytes)).collect())))
    }

    /// Checks that a trusted controller vouches for every field of a delivered definition, and that it is for this agent.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&self, definition: &Definition, agent: AgentId, labels: &[Label]) -> Result<(), Untrusted> {
        let signature = definition.signature.as_ref().ok_or(Untrusted::Unsigned)?;
        let Some((_, key)) = self.0.iter().find(|(id, _)| *id == signature.key) else {
            let trusted = self.0.iter().map(|(id, _)| id.clone()).collect();
            return Err(Untrusted::UnknownKey { key: signature.key.chars().take(32).collect(), trusted });
        };
        let text = signed_text(definition).ok_or(Untrusted::Altered)?;
        let value = BASE64.decode(&signature.value).map_err(|_| Untrusted::Altered)?;
        UnparsedPublicKey::new(&ED25519, key).verify(&text, &value).map_err(|_| Untrusted::Altered)?;
        if is_for(definition, agent, labels) { Ok(()) } else { Err(Untrusted::NotForUs) }
    }
}

impl fmt::Debug for TrustedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(id, _)| id)).finish()
    }
}

/// Whether what was delivered is addressed to this agent: a whole definition of several is a share of nobody.
fn is_for(definition: &Definition, agent: AgentId, labels: &[Label]) -> bool {
    match (definition.executions.as_slice(), definition.target.parse()) {
        ([ExecutionId::Agent(id)], _) => *id == agent,
        ([ExecutionId::Any], Ok(Target::AnyOf(group))) => labels.iter().any(|label| group.covers(label)),
        ([ExecutionId::Any], Ok(Target::Any)) => true,
        ([ExecutionId::Any], Ok(Target::All | Target::Host(_) | Target::Group(_)) | Err(_)) | ([] | [_, _, ..], _) => false,
    }
}

/// A new signing key in text.
///
/// # Panics
/// If the system has no random numbers: then nothing here is safe.
#[must_use]
pub fn generate_signing_key() -> String {
    let mut seed = [0; KEY_BYTES];
    aws_lc_rs::rand::fill(&mut seed).expect("the system has random numbers");
    key::write(Kind::Signing, &seed)
}

#[cfg(test)]
mod tests {
    use longshore_model::job::{Job, Shares};
    use longshore_testkit::sample;

    use super::*;

    fn signer() -> (JobSigner, TrustedKeys) {
        let signer = JobSigner::parse(&generate_signing_key()).unwrap();
        let trusted = TrustedKeys::parse(&signer.trusted_key()).unwrap();
        (signer, trusted)
    }

    fn definition(signer: &JobSigner, target: &str, executions: Vec<ExecutionId>) -> Definition {
        let job = sample::shell_any(sample::job_id(1), "2026-01-02T03:04:05Z".parse().unwrap(), "true");
        let mut definition = Definition::from(&Job { target: target.parse().unwrap(), executions, ..job });
        signer.sign(&mut definition);
        definition
    }

    #[test]
    fn what_is_signed_is_believed_by_whom_it_is_for_and_by_nobody_else() {
        let (signer, trusted) = signer();
        let (me, other) = (sample::agent_id(1), sample::agent_id(2));
        let web: Vec<Label> = vec!["group:web.dev".parse().unwrap()];
        let check = |definition: &Definition, agent, labels: &[Label]| trusted.check(definition, agent, labels);

        assert_eq!(check(&definition(&signer, "_any", vec![ExecutionId::Any]), me, &[]), Ok(()));
        let one_of = definition(&signer, "_any@group:web", vec![ExecutionId::Any]);
        assert_eq!((check(&one_of, me, &web), check(&one_of, me, &[])), (Ok(()), Err(Untrusted::NotForUs)));
        let host = definition(&signer, "web-01", vec![me.into()]);
        assert_eq!((check(&host, me, &[]), check(&host, other, &[])), (Ok(()), Err(Untrusted::NotForUs)));
        let all = definition(&signer, "_all", vec![me.into(), other.into(), sample::agent_id(3).into()]);
        let shares = Shares::of(&all);
        assert_eq!(check(&shares.share(me.into()), me, &[]), Ok(()));
        assert_eq!(check(&shares.share(me.into()), other, &[]), Err(Untrusted::NotForUs));
        assert_eq!(check(&all, me, &[]), Err(Untrusted::NotForUs), "the whole is nobody's share");
        assert_eq!(check(&shares.share(sample::agent_id(9).into()), sample::agent_id(9), &[]), Err(Untrusted::Altered), "not in the set");
    }

    #[test]
    fn unsigned_altered_and_foreign_definitions_are_refused() {
        let (signer, trusted) = signer();
        let good = definition(&signer, "_any", vec![ExecutionId::Any]);
        let check = |definition: &Definition| trusted.check(definition, sample::agent_id(1), &[]).unwrap_err();
        assert_eq!(check(&Definition { signature: None, ..good.clone() }), Untrusted::Unsigned);
        assert_eq!(check(&Definition { args: serde_json::json!({"command": "id"}), ..good.clone() }), Untrusted::Altered);
        assert_eq!(check(&Definition { max_attempts: 9, ..good.clone() }), Untrusted::Altered);
        assert_eq!(check(&Definition { sealed_for: Some(sample::job_id(7)), ..good.clone() }), Untrusted::Altered);
        for value in ["", "AAAA", "\u{e9}", &"A".repeat(86)] {
            let signature = Signature { value: value.to_owned(), ..good.signature.clone().unwrap() };
            assert_eq!(check(&Definition { signature: Some(signature), ..good.clone() }), Untrusted::Altered, "{value}");
        }
        let (stranger, _) = self::signer();
        let mut foreign = good.clone();
        stranger.sign(&mut foreign);
        assert!(matches!(check(&foreign), Untrusted::UnknownKey { .. }));
        // A stranger who says the key of ours.
        foreign.signature.as_mut().unwrap().key.clone_from(&good.signature.as_ref().unwrap().key);
        assert_eq!(check(&foreign), Untrusted::Altered);
    }

    #[test]
    fn several_keys_are_trusted_at_once() {
        let ((old, _), (new, _)) = (signer(), signer());
        let both = TrustedKeys::parse(&format!("{}\n{}\n", new.trusted_key(), old.trusted_key())).unwrap();
        for signer in [&old, &new] {
            let definition = definition(signer, "_any", vec![ExecutionId::Any]);
            assert_eq!(both.check(&definition, sample::agent_id(1), &[]), Ok(()));
        }
        assert!(!format!("{old:?}").contains(&generate_signing_key()[..8]));
    }

    /// `cargo test --release -p longshore-seal -- --ignored --nocapture` shows what both cost.
    #[test]
    #[ignore = "a measurement"]
    fn costs() {
        let (signer, trusted) = signer();
        let mut one = definition(&signer, "_any", vec![ExecutionId::Any]);
        let executions: Vec<_> = (0..10_000).map(|n| sample::agent_id(n).into()).collect();
        let mut many = definition(&signer, "_all", executions.clone());
        let began = std::time::Instant::now();
        (0..1000).for_each(|_| signer.sign(&mut one));
        let signed = began.elapsed() / 1000;
        let began = std::time::Instant::now();
        (0..1000).for_each(|_| trusted.check(&one, sample::agent_id(1), &[]).unwrap());
        let checked = began.elapsed() / 1000;
        let began = std::time::Instant::now();
        signer.sign(&mut many);
        let shares = Shares::of(&many);
        let made: Vec<_> = executions.iter().map(|execution| shares.share(*execution)).collect();
        let shared = began.elapsed();
        let began = std::time::Instant::now();
        trusted.check(&made[7], sample::agent_id(7), &[]).unwrap();
        println!("sign {signed:?}, check {checked:?}, sign and share among 10,000 {shared:?}, check a share {:?}", began.elapsed());
    }
}
