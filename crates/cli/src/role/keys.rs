//! What a data directory keeps secret, or for ever: the signing key, the first token, the agent's identity.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use longshore_controller::token::{Grant, KeyError, Keyring, PrivateKey, VerifyKey};
use longshore_controller::{SigningKey, token};
use longshore_model::AgentId;
use longshore_model::access::Roles;

use super::data::unusable;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::private;
use crate::settings::{Settings, VerifyKeyFile};

const KEY_BYTES_MIN: usize = 32;

/// The key that tokens are signed with: the configured one, or this directory's, made at the first start.
pub(crate) fn signing_key(settings: &Settings, dir: &Path) -> Result<SigningKey, Failure> {
    if let Some(key) = configured(settings)? {
        return Ok(key);
    }
    let path = dir.join("signing.key");
    let key = private::read_or_make(&path, || private::random_hex(32).map(String::into_bytes)).map_err(|error| unusable(&path, &error))?;
    checked(key, &path.display().to_string())
}

/// The same, but none is made: for who needs the key of a controller that exists.
pub(crate) fn existing_signing_key(settings: &Settings, dir: &Path) -> Result<SigningKey, Failure> {
    if let Some(key) = configured(settings)? {
        return Ok(key);
    }
    let path = dir.join("signing.key");
    let key = std::fs::read(&path).map_err(|error| {
        Failure::new(Exit::NotFound, format!("there is no signing key at {}", path.display()))
            .because(error.to_string())
            .hint("give the controller's data directory with --data DIR, or set controller.api.security.signing_key")
    })?;
    checked(key, &path.display().to_string())
}

fn configured(settings: &Settings) -> Result<Option<SigningKey>, Failure> {
    let Some(secret) = &settings.controller.api.security.signing_key else { return Ok(None) };
    let key = secret.read().map_err(|error| Failure::new(Exit::Invalid, "the signing key cannot be read").caused_by(&error))?;
    checked(key.into_bytes(), "controller.api.security.signing_key").map(Some)
}

fn checked(key: Vec<u8>, place: &str) -> Result<SigningKey, Failure> {
    let key = key.trim_ascii_end().to_vec();
    if key.len() < KEY_BYTES_MIN {
        return Err(Failure::new(Exit::Invalid, format!("the signing key in {place} is too short"))
            .because(format!("it has {} bytes; at least {KEY_BYTES_MIN} are needed", key.len()))
            .hint("openssl rand -hex 32"));
    }
    Ok(SigningKey::new(key))
}

/// The public keys that tokens of others are checked with.
pub(crate) fn verify_keys(settings: &Settings) -> Result<Vec<VerifyKey>, Failure> {
    let read = |VerifyKeyFile { file, kid }: &VerifyKeyFile| {
        let refused = |error: &(dyn std::error::Error + 'static)| {
            let what = format!("the key {} of controller.api.security.verify_keys cannot be used", file.display());
            Failure::new(Exit::Invalid, what).caused_by(error)
        };
        let pem = std::fs::read(file).map_err(|error| refused(&error))?;
        VerifyKey::from_pem(&pem, kid.as_deref()).map_err(|error| refused(&error))
    };
    settings.controller.api.security.verify_keys.iter().map(read).collect()
}

/// Every key that a token may be signed with.
pub(crate) fn keyring(own: Option<&SigningKey>, others: &[VerifyKey]) -> Result<Keyring, Failure> {
    Keyring::new(own, others).map_err(|error: KeyError| {
        Failure::new(Exit::Invalid, "controller.api.security.verify_keys cannot be used")
            .caused_by(&error)
            .hint("give each its own `kid`, or none")
    })
}

/// A private key that signs tokens.
pub(crate) fn private_key(path: &Path, kid: Option<&str>) -> Result<PrivateKey, Failure> {
    let refused = |error: &(dyn std::error::Error + 'static)| {
        Failure::new(Exit::Invalid, format!("the private key {} cannot be used", path.display())).caused_by(error)
    };
    let pem = std::fs::read(path).map_err(|error| refused(&error))?;
    PrivateKey::from_pem(&pem, kid).map_err(|error| refused(&error))
}

/// The file with the token of this host's administrator, made anew for this key: an old key's token would be worth nothing.
pub(crate) fn admin_token(key: &SigningKey, dir: &Path) -> Result<PathBuf, Failure> {
    let path = dir.join("token");
    let now = Timestamp::now();
    let ring = keyring(Some(key), &[])?;
    let known = std::fs::read_to_string(&path).is_ok_and(|text| ring.verify(&Roles::default(), text.trim_end(), now).is_ok());
    if !known {
        let text = token::issue(key, &Grant::new("admin", &["admin"]), now);
        private::replace_file(&path, format!("{text}\n").as_bytes()).map_err(|error| unusable(&path, &error))?;
    }
    Ok(path)
}

/// The agent's lasting identity.
pub(crate) fn agent_id(dir: &Path) -> Result<AgentId, Failure> {
    let path = dir.join("agent.id");
    let fresh = || Ok(format!("{}\n", AgentId::from_bits(uuid::Uuid::now_v7().as_u128())).into_bytes());
    let text = private::read_or_make(&path, fresh).map_err(|error| unusable(&path, &error))?;
    String::from_utf8_lossy(&text)
        .trim_end()
        .parse()
        .map_err(|error| Failure::new(Exit::Invalid, format!("{} is damaged", path.display())).caused_by(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_and_keys_are_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::default();
        assert_eq!(agent_id(dir.path()).unwrap(), agent_id(dir.path()).unwrap());
        assert_eq!(existing_signing_key(&settings, dir.path()).unwrap_err().exit, Exit::NotFound);
        let key = signing_key(&settings, dir.path()).unwrap();
        assert!(key == signing_key(&settings, dir.path()).unwrap() && key == existing_signing_key(&settings, dir.path()).unwrap());

        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
        let first = read(admin_token(&key, dir.path()).unwrap());
        assert_eq!(first, read(admin_token(&key, dir.path()).unwrap()));
        let other = SigningKey::new(vec![7; 32]);
        assert_ne!(first, read(admin_token(&other, dir.path()).unwrap()));
    }

    #[test]
    fn a_short_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("signing.key"), "short\n").unwrap();
        assert_eq!(signing_key(&Settings::default(), dir.path()).unwrap_err().exit, Exit::Invalid);
    }
}
