//! The keys of tokens. Each is for one algorithm, which is part of the key and never read from a token: what a token's header says only
//! chooses among the keys, and must then agree with the one it chose.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Validation};

use crate::SigningKey;

use super::{Claims, ISSUER, TokenError};

/// Bytes of a key's id: it is part of every token.
const KEY_ID_BYTES_MAX: usize = 128;
/// Bytes of a token. Ours have a few hundred.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Tokens that are remembered.
const REMEMBERED_MAX: usize = 1024;

/// A file that is no key of the kind that is needed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not an Ed25519 public key in PEM.
    #[error("it is not an Ed25519 public key in PEM: `openssl pkey -in PRIVATE -pubout` writes one")]
    Public,
    /// Not an Ed25519 private key in PEM.
    #[error("it is not an Ed25519 private key in PEM: `openssl genpkey -algorithm ed25519` makes one")]
    Private,
    /// An id that cannot be.
    #[error("a key's id has 1 to {KEY_ID_BYTES_MAX} printable ASCII characters")]
    Id,
    /// Two keys with one id.
    #[error("two keys have the id {0:?}")]
    Twice(String),
}

/// An Ed25519 public key that tokens may be checked with, under its id.
#[derive(Clone)]
pub struct VerifyKey {
    id: String,
    key: DecodingKey,
}

impl VerifyKey {
    /// Reads a public key in PEM. Without an `id` it goes by its thumbprint (RFC 7638), as [`PrivateKey`] does.
    ///
    /// # Errors
    /// It is no Ed25519 public key, or the id cannot be.
    pub fn from_pem(pem: &[u8], id: Option<&str>) -> Result<Self, KeyError> {
        let key = DecodingKey::from_ed_pem(pem).map_err(|_| KeyError::Public)?;
        // The library looks at the kind of key only, and a key that is too short would be found out at the first token.
        let jwk = Jwk::from_decoding_key(&key, Some(Algorithm::EdDSA)).map_err(|_| KeyError::Public)?;
        Ok(Self { id: id_of(&jwk, id).ok_or(KeyError::Public)??, key })
    }

    /// Its id: the `kid` of the tokens that it checks.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl std::fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VerifyKey({})", self.id)
    }
}

/// An Ed25519 private key that signs tokens. Hides itself from `Debug`.
pub struct PrivateKey {
    pub(super) id: String,
    pub(super) key: EncodingKey,
}

impl PrivateKey {
    /// Reads a private key in PEM (PKCS #8). Without an `id` it goes by its public half's thumbprint.
    ///
    /// # Errors
    /// It is no Ed25519 private key, or the id cannot be.
    pub fn from_pem(pem: &[u8], id: Option<&str>) -> Result<Self, KeyError> {
        let key = EncodingKey::from_ed_pem(pem).map_err(|_| KeyError::Private)?;
        let jwk = Jwk::from_encoding_key(&key, Algorithm::EdDSA).map_err(|_| KeyError::Private)?;
        Ok(Self { id: id_of(&jwk, id).ok_or(KeyError::Private)??, key })
    }

    /// Its id: the `kid` of the tokens that it signs.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PrivateKey({}, ***)", self.id)
    }
}

/// The id that was given, or the key's thumbprint; nothing for a key that has none.
fn id_of(jwk: &Jwk, given: Option<&str>) -> Option<Result<String, KeyError>> {
    let is_sound = |id: &str| (1..=KEY_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    match given {
        Some(id) if is_sound(id) => Some(Ok(id.to_owned())),
        Some(_) => Some(Err(KeyError::Id)),
        None => jwk.thumbprint(ThumbprintHash::SHA256).ok().map(Ok),
    }
}

/// Every key that a token may be signed with. Made once: its rules and keys are ready for each token.
pub struct Keyring {
    /// For tokens that name no key.
    own: Option<Checker>,
    /// For tokens that name theirs.
    public: BTreeMap<String, Checker>,
    /// Tokens whose signature was right: nothing about that changes, and those who call often are checked once.
    remembered: Mutex<HashMap<String, Arc<Signed>>>,
}

/// What a token says whose signature is right.
pub(super) struct Signed {
    pub(super) claims: Claims,
    /// Which key it was checked with; the controller's own has no id.
    pub(super) key_id: Option<String>,
}

impl Keyring {
    /// The controller's own key, and public keys of whoever else may sign.
    ///
    /// # Errors
    /// Two public keys have one id.
    pub fn new(own: Option<&SigningKey>, public: &[VerifyKey]) -> Result<Self, KeyError> {
        let mut keys = BTreeMap::new();
        for VerifyKey { id, key } in public {
            if keys.insert(id.clone(), Checker::new(key.clone(), Algorithm::EdDSA)).is_some() {
                return Err(KeyError::Twice(id.clone()));
            }
        }
        let own = own.map(|key| Checker::new(DecodingKey::from_secret(key.bytes()), Algorithm::HS256));
        Ok(Self { own, public: keys, remembered: Mutex::default() })
    }

    /// What a token says. Neither its times nor its roles are looked at.
    pub(super) fn signed(&self, token: &str) -> Result<Arc<Signed>, TokenError> {
        if let Some(signed) = self.remembered.lock().unwrap_or_else(PoisonError::into_inner).get(token) {
            return Ok(signed.clone());
        }
        let signed = Arc::new(self.check(token)?);
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(token.to_owned(), signed.clone());
        Ok(signed)
    }

    #[cfg(test)]
    pub(super) fn n_remembered(&self) -> usize {
        self.remembered.lock().unwrap().len()
    }

    fn check(&self, token: &str) -> Result<Signed, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Invalid);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
        let checker = match &header.kid {
            None => self.own.as_ref(),
            Some(id) => self.public.get(id),
        };
        Ok(Signed { claims: checker.ok_or(TokenError::Invalid)?.claims(token)?, key_id: header.kid })
    }
}

/// A key with the one algorithm it is for.
struct Checker {
    key: DecodingKey,
    rules: Validation,
}

impl Checker {
    fn new(key: DecodingKey, algorithm: Algorithm) -> Self {
        let mut rules = Validation::new(algorithm);
        rules.set_issuer(&[ISSUER]);
        rules.set_required_spec_claims(&["iss", "sub"]);
        // The library would read the clock; times are judged by the one we are handed. A token for another audience is refused by it.
        rules.validate_exp = false;
        Self { key, rules }
    }

    fn claims(&self, token: &str) -> Result<Claims, TokenError> {
        jsonwebtoken::decode::<Claims>(token, &self.key, &self.rules).map(|data| data.claims).map_err(|_| TokenError::Invalid)
    }
}
