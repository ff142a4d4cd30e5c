//! Ways to be let in by a nats-server, made for one test: keys, an operator's accounts, certificates.
//!
//! Each gives the lines of the server's configuration ([`NatsOptions::extra_config`](crate::NatsOptions)) and what a client shows. A server
//! that has them must be monitored, so that its readiness can be asked for.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair as CertifiedKey, SanType};
use serde_json::{Value, json};

/// A user's nkey: its public half for the server, its seed for the client.
#[derive(Debug)]
pub struct Nkey {
    /// What the server is told.
    pub public: String,
    /// What the client keeps secret.
    pub seed: String,
}

impl Nkey {
    /// A fresh one.
    #[must_use]
    pub fn generate() -> Self {
        let pair = KeyPair::new_user();
        Self { public: pair.public_key(), seed: seed(&pair) }
    }
}

/// An operator with one account that has JetStream, and one for the server's own affairs.
#[derive(Debug)]
pub struct Operator {
    account: KeyPair,
    operator: KeyPair,
    system: KeyPair,
}

impl Operator {
    /// A fresh one.
    #[must_use]
    pub fn generate() -> Self {
        Self { account: KeyPair::new_account(), operator: KeyPair::new_operator(), system: KeyPair::new_account() }
    }

    /// The lines of a server that trusts it.
    #[must_use]
    pub fn config(&self) -> String {
        let system = self.system.public_key();
        let operator = json!({ "type": "operator", "version": 2, "system_account": system });
        let unbounded = |storage: i64| {
            json!({
                "type": "account", "version": 2, "default_permissions": { "pub": {}, "sub": {} },
                "limits": {
                    "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
                    "mem_storage": storage, "disk_storage": storage, "streams": storage, "consumer": storage,
                },
            })
        };
        let account = jwt(&self.operator, &self.account.public_key(), "jobs", unbounded(-1));
        let affairs = jwt(&self.operator, &system, "system", unbounded(0));
        format!(
            "operator: {}\nsystem_account: {system}\nresolver: MEMORY\nresolver_preload {{\n{}: {account}\n{system}: {affairs}\n}}\n",
            jwt(&self.operator, &self.operator.public_key(), "operator", operator),
            self.account.public_key(),
        )
    }

    /// The credentials file of a user of its account.
    #[must_use]
    pub fn credentials(&self) -> String {
        let user = KeyPair::new_user();
        let claims = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {} });
        let token = jwt(&self.account, &user.public_key(), "agent", claims);
        format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            seed(&user)
        )
    }
}

fn seed(pair: &KeyPair) -> String {
    pair.seed().expect("a pair that was just made has its seed")
}

/// A token as NATS has them: a JWT signed with an nkey.
fn jwt(issuer: &KeyPair, subject: &str, name: &str, claims: Value) -> String {
    let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let body = part(json!({ "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name, "sub": subject, "nats": claims }));
    let signature = issuer.sign(format!("{head}.{body}").as_bytes()).expect("it has its seed");
    format!("{head}.{body}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// A certificate authority whose files lie in a directory of the test's.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    name: String,
    issuer: Issuer<'static, CertifiedKey>,
}

/// The files of a certificate.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

impl Authority {
    /// A fresh one, which is called `name`.
    ///
    /// # Panics
    /// The directory cannot be written.
    #[must_use]
    pub fn new_in(dir: &Path, name: &str) -> Self {
        let key = CertifiedKey::generate().expect("a key can be made");
        let mut params = CertificateParams::new([]).expect("no name is at fault");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).expect("it can sign itself");
        let authority = Self { dir: dir.to_owned(), name: name.to_owned(), issuer: Issuer::new(params, key) };
        std::fs::write(authority.ca(), certificate.pem()).expect("the directory can be written");
        authority
    }

    /// Its own certificate, PEM.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.join(format!("{}.ca.pem", self.name))
    }

    /// A certificate for a server of this name or address, or for a client.
    ///
    /// # Panics
    /// The directory cannot be written.
    #[must_use]
    pub fn certify(&self, subject: &str) -> Certificate {
        self.certify_as(subject, &[subject], &[])
    }

    /// The same for any number of names and addresses, with these URIs beside them; its files are called by `subject`.
    ///
    /// # Panics
    /// The directory cannot be written, or a name is none.
    #[must_use]
    pub fn certify_as(&self, subject: &str, names: &[&str], uris: &[&str]) -> Certificate {
        let key = CertifiedKey::generate().expect("a key can be made");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("they are names or addresses");
        let uri = |uri: &&str| SanType::URI((*uri).try_into().expect("it is ASCII"));
        params.subject_alt_names.extend(uris.iter().map(uri));
        params.distinguished_name.push(DnType::CommonName, subject);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority can sign");
        let path = |what: &str| self.dir.join(format!("{}.{subject}.{what}.pem", self.name));
        let files = Certificate { cert: path("cert"), key: path("key") };
        std::fs::write(&files.cert, certificate.pem()).expect("the directory can be written");
        std::fs::write(&files.key, key.serialize_pem()).expect("the directory can be written");
        files
    }

    /// The lines of a server that shows `certificate` and, if `is_mutual`, lets in only clients with one of this authority's.
    #[must_use]
    pub fn config(&self, certificate: &Certificate, is_mutual: bool) -> String {
        let quoted = |path: &Path| Value::from(path.to_string_lossy()).to_string();
        format!(
            "tls {{\ncert_file: {}\nkey_file: {}\nca_file: {}\nverify: {is_mutual}\n}}\n",
            quoted(&certificate.cert),
            quoted(&certificate.key),
            quoted(&self.ca()),
        )
    }
}
