//! Tokens signed with a key of one's own.

use std::path::Path;

use serde_json::Value;

use crate::cli::{Ran, longshore, run};

/// Keys of nobody, made for these tests.
const PRIVATE: &str =
    "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIIqPsk9HackfNRub0WB/G+3MrGiVPCllNPfBqbHX8S7j\n-----END PRIVATE KEY-----\n";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA6eMhXnpabAQpl2UvHCfWsDWADnM96vKaDQEHzCGPhH8=\n-----END PUBLIC KEY-----\n";
const OTHER_PUBLIC: &str =
    "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAF/7dRB6gurSPtXkv19fIfRAFFv2VL0pGbdRLZt2bmwo=\n-----END PUBLIC KEY-----\n";

struct Host(tempfile::TempDir);

impl Host {
    /// With these public keys in its settings, and no signing key of its own.
    fn knowing(keys: &[(&str, &str)]) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        let files = keys.iter().enumerate().map(|(idx, (pem, kid))| {
            let path = host.write(&format!("{idx}.pub"), pem);
            if kid.is_empty() { format!("{{file: {path}}}") } else { format!("{{file: {path}, kid: {kid}}}") }
        });
        let yaml = format!("controller: {{api: {{security: {{verify_keys: [{}]}}}}}}\n", files.collect::<Vec<_>>().join(", "));
        host.write("longshore.yaml", &yaml);
        host
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn run(&self, words: &[&str]) -> Ran {
        let (settings, data) = (self.0.path().join("longshore.yaml"), self.0.path().join("data"));
        let flags = ["--config", settings.to_str().unwrap(), "--data", data.to_str().unwrap()];
        run(&mut longshore(self.0.path(), &[words, &flags].concat()))
    }

    fn signed(&self, more: &[&str]) -> String {
        let key = self.write("tokens.key", PRIVATE);
        let ran = self.run(&[&["token", "generate", "ci", "--role", "write", "--algorithm", "eddsa", "--key", &key], more].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        self.write("token", &ran.stdout)
    }

    fn validated(&self, token: &str) -> Ran {
        self.run(&["token", "validate", token, "-o", "json"])
    }
}

#[test]
fn a_token_of_a_private_key_is_signed_and_understood_without_the_controllers_own_key() {
    let host = Host::knowing(&[(OTHER_PUBLIC, ""), (PUBLIC, "")]);
    let ran = host.validated(&host.signed(&["--expires-in", "1h"]));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let said: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&said["subject"], &said["roles"][0]), (&"ci".into(), &"write".into()));
    assert_eq!(said["kid"].as_str().unwrap().len(), 43, "the thumbprint: {said}");
    // One that is not configured, or goes by another name.
    for keys in [&[(OTHER_PUBLIC, "")][..], &[(PUBLIC, "another")]] {
        let host = Host::knowing(keys);
        assert_eq!(host.validated(&host.signed(&[])).code, Some(1), "{keys:?}");
    }
    let named = Host::knowing(&[(PUBLIC, "ci-2026")]);
    let ran = named.validated("no-such-token");
    assert!(ran.code == Some(3) && ran.stderr.contains("no-such-token"), "{}", ran.stderr);
    let ran = named.validated(&named.signed(&["--kid", "ci-2026"]));
    assert!(ran.code == Some(0) && ran.stdout.contains("ci-2026"), "{}", ran.stderr);
}

#[test]
fn both_ways_of_signing_stand_side_by_side_on_a_controllers_host() {
    let host = Host::knowing(&[(PUBLIC, "")]);
    std::fs::create_dir(host.0.path().join("data")).unwrap();
    host.write("data/signing.key", &"k".repeat(32));
    let own = host.run(&["token", "generate", "ops", "--role", "read"]);
    let own = host.validated(&host.write("own", &own.stdout));
    assert!(own.code == Some(0) && own.stdout.contains("\"kid\": null"), "{}{}", own.stdout, own.stderr);
    assert_eq!(host.validated(&host.signed(&[])).code, Some(0));
}

#[test]
fn keys_that_cannot_be_used_are_named_with_what_to_do() {
    let host = Host::knowing(&[(PRIVATE, "")]);
    let ran = host.validated(&host.write("token", "x"));
    assert!(ran.code == Some(10) && ran.stderr.contains("0.pub") && ran.stderr.contains("-pubout"), "{}", ran.stderr);
    let twice = Host::knowing(&[(PUBLIC, ""), (PUBLIC, "")]);
    let ran = twice.validated(&twice.write("token", "x"));
    assert!(ran.code == Some(10) && ran.stderr.contains("two keys have the id"), "{}", ran.stderr);
    let host = Host::knowing(&[]);
    let public = host.write("public", PUBLIC);
    let generate = |more: &[&str]| host.run(&[&["token", "generate", "ci"], more].concat());
    let ran = generate(&["--algorithm", "EdDSA", "--key", &public]);
    assert!(ran.code == Some(10) && ran.stderr.contains("genpkey") && !ran.stderr.contains("MCow"), "{}", ran.stderr);
    assert_eq!(generate(&["--algorithm", "EdDSA"]).code, Some(2));
    assert_eq!(generate(&["--key", &public]).code, Some(2));
    assert!(!Path::new(&host.0.path().join("data")).exists(), "nothing is made");
}
