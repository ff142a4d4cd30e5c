//! Tokens that others sign: taken while their public key is configured, under the one algorithm that it is for.

use std::time::Duration;

use jiff::Timestamp;
use longshore_controller::token::{Grant, PrivateKey, VerifyKey, issue, issue_with};
use longshore_controller::{Config, SigningKey};
use longshore_model::wire::problem::ErrorCode;
use longshore_store::memory;
use reqwest::{Method, StatusCode};

use crate::support::{House, problem};

/// Keys of nobody, made for these tests.
const PRIVATE: &str =
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIIqPsk9HackfNRub0WB/G+3MrGiVPCllNPfBqbHX8S7j\n-----END PRIVATE KEY-----\n";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA6eMhXnpabAQpl2UvHCfWsDWADnM96vKaDQEHzCGPhH8=\n-----END PUBLIC KEY-----\n";
const OTHER_PRIVATE: &str =
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIFcY6p9RZ+UbZZmaHneZHCnE9i19GAYEboog8dmA7Ifq\n-----END PRIVATE KEY-----\n";
const OTHER_PUBLIC: &str =
    "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAF/7dRB6gurSPtXkv19fIfRAFFv2VL0pGbdRLZt2bmwo=\n-----END PUBLIC KEY-----\n";

fn private(pem: &str) -> PrivateKey {
    PrivateKey::from_pem(pem.as_bytes(), None).unwrap()
}

async fn knows(public: &[&str]) -> House {
    let keys = public.iter().map(|pem| VerifyKey::from_pem(pem.as_bytes(), None).unwrap()).collect();
    House::on(memory::open(memory::MemoryOptions::default()), |config: &mut Config| config.verify_keys = keys).await
}

async fn status(house: &House, token: &str) -> StatusCode {
    house.bare(Method::GET, "/api/v1/jobs").bearer_auth(token).send().await.unwrap().status()
}

#[tokio::test]
async fn tokens_of_private_keys_are_taken_for_each_public_key_that_is_configured() {
    let (old, new) = (private(PRIVATE), private(OTHER_PRIVATE));
    let grant = Grant { lifetime: Some(Duration::from_secs(600)), ..Grant::new("ci", &["read"]) };
    let [old, new] = [&old, &new].map(|key| issue_with(key, &grant, Timestamp::now()));
    for (known, expected) in
        [(&[][..], [401, 401]), (&[PUBLIC], [200, 401]), (&[PUBLIC, OTHER_PUBLIC], [200, 200]), (&[OTHER_PUBLIC], [401, 200])]
    {
        let house = knows(known).await;
        assert_eq!([status(&house, &old).await.as_u16(), status(&house, &new).await.as_u16()], expected, "{} keys", known.len());
        assert_eq!(status(&house, &house.token(&["read"])).await, StatusCode::OK, "the controller's own go on");
        // They may what they say, and no more.
        if expected[1] == 200 {
            let refused = house.bare(Method::GET, "/api/v1/audit").bearer_auth(&new).send().await.unwrap();
            assert_eq!(problem(refused).await.code, ErrorCode::Forbidden);
        }
    }
}

#[tokio::test]
async fn a_public_key_is_no_secret_to_sign_with() {
    let house = knows(&[PUBLIC]).await;
    let admin = Grant::new("eve", &["admin"]);
    for secret in [PUBLIC, PUBLIC.trim_end(), PUBLIC.lines().nth(1).unwrap()] {
        let forged = issue(&SigningKey::new(secret.as_bytes().to_vec()), &admin, Timestamp::now());
        assert_eq!(status(&house, &forged).await, StatusCode::UNAUTHORIZED);
    }
    // `{"alg":"none"}`, with and without an empty signature.
    let claims = house.token(&["admin"]).split('.').nth(1).unwrap().to_owned();
    for forged in [format!("eyJhbGciOiJub25lIn0.{claims}."), format!("eyJhbGciOiJub25lIn0.{claims}")] {
        assert_eq!(status(&house, &forged).await, StatusCode::UNAUTHORIZED);
    }
}
