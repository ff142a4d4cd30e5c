use serde_json::{Value, json};

use super::*;
use crate::rest::base64;

/// Keys of nobody, made for these tests.
const PRIVATE: &str =
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIIqPsk9HackfNRub0WB/G+3MrGiVPCllNPfBqbHX8S7j\n-----END PRIVATE KEY-----\n";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA6eMhXnpabAQpl2UvHCfWsDWADnM96vKaDQEHzCGPhH8=\n-----END PUBLIC KEY-----\n";
const OTHER_PRIVATE: &str =
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIFcY6p9RZ+UbZZmaHneZHCnE9i19GAYEboog8dmA7Ifq\n-----END PRIVATE KEY-----\n";
const OTHER_PUBLIC: &str =
    "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAF/7dRB6gurSPtXkv19fIfRAFFv2VL0pGbdRLZt2bmwo=\n-----END PUBLIC KEY-----\n";
/// Of a curve that is not ours.
const P256_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
    MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEpMRV695UngecN8VIzoL0oVz9YjSk\n\
    THQRg3vjWpPOKu9RRM4wBVHB9XDz2Bj40ys8uGBQtvMWdGJe6PD1ZXx+IQ==\n-----END PUBLIC KEY-----\n";

fn key() -> SigningKey {
    SigningKey::new(b"0123456789abcdef0123456789abcdef".to_vec())
}

fn own() -> Keyring {
    Keyring::new(Some(&key()), &[]).unwrap()
}

fn public(pem: &str, id: Option<&str>) -> VerifyKey {
    VerifyKey::from_pem(pem.as_bytes(), id).unwrap()
}

fn private(pem: &str) -> PrivateKey {
    PrivateKey::from_pem(pem.as_bytes(), None).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn verify(ring: &Keyring, token: &str) -> Result<Caller, TokenError> {
    ring.verify(&Roles::default(), token, at(100))
}

fn encoded(value: &Value) -> String {
    base64(value.to_string().as_bytes()).replace('+', "-").replace('/', "_").trim_end_matches('=').to_owned()
}

/// A token with this header and these claims, under whatever `sign` makes.
fn made(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> String) -> String {
    let message = format!("{}.{}", encoded(header), encoded(claims));
    format!("{message}.{}", sign(message.as_bytes()))
}

fn hmac(secret: &[u8]) -> impl FnOnce(&[u8]) -> String + use<'_> {
    |message| jsonwebtoken::crypto::sign(message, &EncodingKey::from_secret(secret), Algorithm::HS256).unwrap()
}

fn eddsa(pem: &str) -> impl FnOnce(&[u8]) -> String + use<'_> {
    |message| jsonwebtoken::crypto::sign(message, &EncodingKey::from_ed_pem(pem.as_bytes()).unwrap(), Algorithm::EdDSA).unwrap()
}

fn claims() -> Value {
    json!({"iss": "longshore", "sub": "ada", "roles": ["admin"], "iat": 100})
}

#[test]
fn a_token_says_who_and_what_until_its_time_is_over() {
    let token = issue(
        &key(),
        &Grant { permissions: Some(vec!["job:read".into()]), lifetime: Some(Duration::from_secs(60)), ..Grant::new("ada", &["write"]) },
        at(100),
    );
    let caller = own().verify(&Roles::default(), &token, at(159)).unwrap();
    assert_eq!(caller.name, "ada");
    assert!(caller.may("job:read") && !caller.may("job:write"));
    assert_eq!(own().verify(&Roles::default(), &token, at(160)), Err(TokenError::Expired(at(160))));
}

#[test]
fn a_token_that_is_remembered_still_ends_and_its_memory_is_bounded() {
    let ring = own();
    let token = issue(&key(), &Grant { lifetime: Some(Duration::from_secs(60)), ..Grant::new("ada", &["write"]) }, at(100));
    for _ in 0..2 {
        assert_eq!(ring.verify(&Roles::default(), &token, at(159)).unwrap().name, "ada");
    }
    assert_eq!(ring.verify(&Roles::default(), &token, at(160)), Err(TokenError::Expired(at(160))));
    let many = |n: usize| issue(&key(), &Grant::new(&format!("caller-{n}"), &["read"]), at(100));
    for n in 0..3000 {
        assert_eq!(verify(&ring, &many(n)).unwrap().name, format!("caller-{n}"));
    }
    assert!(ring.n_remembered() <= 1024);
    assert!(verify(&ring, &format!("{token}x")).is_err());
}

#[test]
fn foreign_and_altered_tokens_are_refused() {
    let token = issue(&key(), &Grant::new("ada", &["read"]), at(100));
    assert!(own().verify(&Roles::default(), &token, at(1_000_000_000)).is_ok());
    let other = Keyring::new(Some(&SigningKey::new(b"other".to_vec())), &[]).unwrap();
    assert_eq!(verify(&other, &token), Err(TokenError::Invalid));
    assert_eq!(verify(&Keyring::new(None, &[]).unwrap(), &token), Err(TokenError::Invalid));
    let (head, signature) = token.rsplit_once('.').unwrap();
    for forged in [format!("{head}."), format!("{head}x.{signature}"), head.to_owned(), String::new(), "a.b.c".to_owned()] {
        assert_eq!(verify(&own(), &forged), Err(TokenError::Invalid), "{forged}");
    }
}

#[test]
fn unknown_roles_are_refused_as_a_whole() {
    let token = issue(&key(), &Grant::new("ada", &["root"]), at(100));
    assert!(matches!(verify(&own(), &token), Err(TokenError::Role(_))));
}

#[test]
fn a_private_keys_tokens_are_taken_while_its_public_key_is_known() {
    let (first, second) = (private(PRIVATE), private(OTHER_PRIVATE));
    let both = Keyring::new(Some(&key()), &[public(PUBLIC, None), public(OTHER_PUBLIC, None)]).unwrap();
    let rotated = Keyring::new(None, &[public(OTHER_PUBLIC, None)]).unwrap();
    let grant = Grant { lifetime: Some(Duration::from_secs(60)), ..Grant::new("ada", &["write"]) };
    let (old, new) = (issue_with(&first, &grant, at(100)), issue_with(&second, &grant, at(100)));
    let said = both.read(&Roles::default(), &old, at(100)).unwrap();
    assert_eq!((said.subject.as_str(), said.key_id.as_deref(), said.expires_at), ("ada", Some(first.id()), Some(at(160))));
    assert!(verify(&both, &old).unwrap().may("job:write") && verify(&both, &new).is_ok() && verify(&rotated, &new).is_ok());
    assert_eq!(verify(&rotated, &old), Err(TokenError::Invalid));
    assert_eq!(both.verify(&Roles::default(), &new, at(160)), Err(TokenError::Expired(at(160))));
    // The controller's own key goes on beside them.
    assert_eq!(both.read(&Roles::default(), &issue(&key(), &grant, at(100)), at(100)).unwrap().key_id, None);
}

#[test]
fn keys_go_by_the_thumbprint_of_their_public_half_or_by_the_name_they_are_given() {
    // openssl pkey -pubout -outform DER, its last 32 bytes, as RFC 7638 says.
    assert_eq!(private(PRIVATE).id(), public(PUBLIC, None).id());
    assert_eq!(public(PUBLIC, None).id().len(), 43);
    let named = PrivateKey::from_pem(PRIVATE.as_bytes(), Some("ci-2026")).unwrap();
    let ring = Keyring::new(None, &[public(PUBLIC, Some("ci-2026"))]).unwrap();
    assert!(verify(&ring, &issue_with(&named, &Grant::new("ci", &["read"]), at(100))).is_ok());
    for id in ["", "a b", "\u{e4}", &"x".repeat(129)] {
        assert_eq!(VerifyKey::from_pem(PUBLIC.as_bytes(), Some(id)).unwrap_err(), KeyError::Id, "{id:?}");
    }
    let twice = Keyring::new(None, &[public(PUBLIC, Some("x")), public(OTHER_PUBLIC, Some("x"))]);
    assert_eq!(twice.err(), Some(KeyError::Twice("x".to_owned())));
}

#[test]
fn only_ed25519_keys_of_the_right_half_are_keys() {
    for pem in ["", "x", PRIVATE, P256_PUBLIC, "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2Vw\n-----END PUBLIC KEY-----\n"] {
        assert_eq!(VerifyKey::from_pem(pem.as_bytes(), None).unwrap_err(), KeyError::Public, "{pem}");
    }
    for pem in ["", "x", PUBLIC, P256_PUBLIC] {
        assert_eq!(PrivateKey::from_pem(pem.as_bytes(), None).unwrap_err(), KeyError::Private, "{pem}");
    }
    assert!(!format!("{:?}", private(PRIVATE)).contains("MC4C"));
}

#[test]
fn what_a_tokens_header_says_never_changes_the_algorithm_of_a_key() {
    let known = public(PUBLIC, None);
    let id = known.id().to_owned();
    let ring = Keyring::new(Some(&key()), &[known]).unwrap();
    let sound = made(&json!({"alg": "EdDSA", "kid": id}), &claims(), eddsa(PRIVATE));
    assert!(verify(&ring, &sound).is_ok(), "the forgeries below differ in one thing each");
    assert!(verify(&ring, &made(&json!({"alg": "HS256"}), &claims(), hmac(key().bytes()))).is_ok());
    // The public key is public: as text, without its last line end, as it stands in the text, and as bytes.
    let body = PUBLIC.lines().nth(1).unwrap();
    let raw = [
        0xe9, 0xe3, 0x21, 0x5e, 0x7a, 0x5a, 0x6c, 0x04, 0x29, 0x97, 0x65, 0x2f, 0x1c, 0x27, 0xd6, 0xb0, 0x35, 0x80, 0x0e, 0x73, 0x3d, 0xea,
        0xf2, 0x9a, 0x0d, 0x01, 0x07, 0xcc, 0x21, 0x8f, 0x84, 0x7f,
    ];
    let mut forged = Vec::new();
    for secret in [PUBLIC.as_bytes(), PUBLIC.trim_end().as_bytes(), body.as_bytes(), &raw[..], b""] {
        forged.push(made(&json!({"alg": "HS256", "kid": id}), &claims(), hmac(secret)));
        forged.push(made(&json!({"alg": "EdDSA", "kid": id}), &claims(), hmac(secret)));
        forged.push(made(&json!({"alg": "HS256"}), &claims(), hmac(secret)));
    }
    // Keys that exist, used as one another.
    forged.push(made(&json!({"alg": "HS256", "kid": id}), &claims(), hmac(key().bytes())));
    forged.push(made(&json!({"alg": "EdDSA"}), &claims(), eddsa(PRIVATE)));
    forged.push(made(&json!({"alg": "EdDSA", "kid": id}), &claims(), eddsa(OTHER_PRIVATE)));
    for algorithm in ["none", "None", "NONE", "nOnE", "", "HS384", "HS512", "RS256", "ES256", "EdDSA "] {
        for header in [json!({"alg": algorithm}), json!({"alg": algorithm, "kid": id})] {
            forged.push(made(&header, &claims(), |_| String::new()));
            forged.push(made(&header, &claims(), eddsa(PRIVATE)));
            forged.push(made(&header, &claims(), hmac(key().bytes())));
        }
    }
    for header in [json!({}), json!({"kid": id}), json!({"alg": null}), json!({"alg": ["EdDSA"]}), json!([]), json!("EdDSA")] {
        forged.push(made(&header, &claims(), eddsa(PRIVATE)));
    }
    // A key that the token brings along, or says where to find.
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": "F_7dRB6gurSPtXkv19fIfRAFFv2VL0pGbdRLZt2bmwo"});
    forged.push(made(&json!({"alg": "EdDSA", "jwk": jwk}), &claims(), eddsa(OTHER_PRIVATE)));
    forged.push(made(&json!({"alg": "EdDSA", "kid": id, "jwk": jwk, "jku": "http://192.0.2.1/"}), &claims(), eddsa(OTHER_PRIVATE)));
    for kid in ["../../etc/passwd", "' or 1=1", "http://192.0.2.1/", "", &"k".repeat(10_000), &id.to_uppercase()] {
        forged.push(made(&json!({"alg": "EdDSA", "kid": kid}), &claims(), eddsa(PRIVATE)));
    }
    for token in forged {
        assert_eq!(verify(&ring, &token), Err(TokenError::Invalid), "{token}");
    }
}

#[test]
fn claims_that_are_not_what_they_should_be_are_refused() {
    let ring = own();
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        made(&json!({"alg": "HS256"}), &claims, hmac(key().bytes()))
    };
    for (name, value) in [
        ("exp", json!("200")),
        ("exp", json!(200.5)),
        ("exp", json!(1e30)),
        ("exp", json!(i64::MAX)),
        ("exp", json!([200])),
        ("nbf", json!("1")),
        ("nbf", json!(1.5)),
        ("iss", json!("somebody")),
        ("iss", json!(null)),
        ("sub", json!(null)),
        ("sub", json!(7)),
        ("aud", json!("another")),
        ("aud", json!(["another", "longshore"])),
        ("roles", json!("admin")),
        ("iat", json!("x")),
    ] {
        assert_eq!(verify(&ring, &with(name, value.clone())), Err(TokenError::Invalid), "{name}: {value}");
    }
    assert_eq!(verify(&ring, &with("exp", json!(-1))), Err(TokenError::Expired(at(-1))));
    assert_eq!(verify(&ring, &with("exp", json!(100))), Err(TokenError::Expired(at(100))));
    assert!(verify(&ring, &with("exp", json!(101))).is_ok());
    // Clocks differ: who signs may be ahead of us a little.
    assert!(verify(&ring, &with("nbf", json!(130))).is_ok());
    assert_eq!(verify(&ring, &with("nbf", json!(131))), Err(TokenError::Early(at(131))));
    assert_eq!(verify(&ring, &with("sub", json!("x".repeat(9000)))), Err(TokenError::Invalid), "too long to be one of ours");
}
