//! Whose word an archive needs. Signatures are made here as minisign makes them, with another library and `b2sum`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use data_encoding::{BASE64, HEXLOWER};
use longshore_exec::package::{InstallError, InstallRequest, Trust};
use tokio_util::sync::CancellationToken;

use super::{Site, request};

struct Signer {
    pair: Ed25519KeyPair,
    id: [u8; 8],
}

impl Signer {
    fn new(id: u8) -> Self {
        Self { pair: Ed25519KeyPair::from_seed_unchecked(&[id; 32]).unwrap(), id: [id; 8] }
    }

    /// As in the second line of `minisign.pub`.
    fn public(&self) -> String {
        BASE64.encode(&[b"Ed", self.id.as_slice(), self.pair.public_key().as_ref()].concat())
    }

    /// Signs a file into the file that goes beside it.
    fn sign(&self, archive: &Path, algorithm: &[u8; 2]) -> PathBuf {
        let signed = match algorithm {
            b"ED" => {
                let output = Command::new("b2sum").arg(archive).output().unwrap().stdout;
                HEXLOWER.decode(&output[..128]).unwrap()
            }
            _older => fs::read(archive).unwrap(),
        };
        let signature = self.pair.sign(&signed);
        let comment = "timestamp:1 file:p.zip";
        let of_comment = self.pair.sign(&[signature.as_ref(), comment.as_bytes()].concat());
        let text = format!(
            "untrusted comment: a signature\n{}\ntrusted comment: {comment}\n{}\n",
            BASE64.encode(&[algorithm.as_slice(), &self.id, signature.as_ref()].concat()),
            BASE64.encode(of_comment.as_ref()),
        );
        let path = PathBuf::from(format!("{}.minisig", archive.display()));
        fs::write(&path, text).unwrap();
        path
    }
}

#[tokio::test]
async fn with_a_key_only_what_it_signed_is_installed() {
    let (known, stranger) = (Signer::new(1), Signer::new(2));
    let file = format!("untrusted comment: minisign public key\n{}\n", known.public());
    let site = Site::with(|config| config.trust = Trust::new([file, Signer::new(3).public()]).unwrap());
    let archive = site.archive("p", "1.0.0", "trusted");
    known.sign(&archive, b"ED");
    let report = site.install(&archive).await.unwrap();
    assert_eq!(report.signed_by, Some(known.public()));
    assert_eq!(report.installed.receipt().unwrap().signed_by, Some(known.public()));

    let other = site.archive("p", "1.0.0", "not trusted");
    let refused = async |reason: &str| {
        let error = site.install(&other).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{reason}: {error}");
        assert_eq!(error.step(), "verify");
        assert_eq!(site.content("p", "1.0.0").as_deref(), Some("trusted"));
    };
    refused("no signature beside it").await;
    stranger.sign(&other, b"ED");
    refused("a key that is not trusted here").await;
    known.sign(&other, b"Ed");
    refused("of the older kind").await;
    let good = fs::read_to_string(known.sign(&archive, b"ED")).unwrap();
    let beside = PathBuf::from(format!("{}.minisig", other.display()));
    fs::write(&beside, &good).unwrap();
    refused("not for these bytes").await;
    for damaged in ["", "nonsense", &good.replace("trusted comment: t", "trusted comment: u"), &good[..good.len() / 2]] {
        fs::write(&beside, damaged).unwrap();
        refused("believe the archive").await;
    }
    // A stranger's key with the id of a known one.
    Signer { id: known.id, ..stranger }.sign(&other, b"ED");
    refused("not for these bytes").await;

    // The right digest is no signature, and a signed archive of another name is another name.
    let digest = Some(report.sha256.try_into().unwrap());
    known.sign(&other, b"ED");
    let wrong = InstallRequest { sha256: digest, ..request(&other) };
    let error = site.installer.install(wrong, &CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("SHA-256"), "{error}");
    let named = InstallRequest { name: Some("q".parse().unwrap()), ..request(&other) };
    assert!(matches!(site.installer.install(named, &CancellationToken::new()).await, Err(InstallError::Other { .. })));
}

#[tokio::test]
async fn what_was_installed_before_a_key_was_asked_for_is_not_there_already() {
    let signer = Signer::new(1);
    let site = Site::new();
    let archive = site.archive("p", "1.0.0", "unsigned");
    let report = site.install(&archive).await.unwrap();
    let strict = super::installer(site.packages().root(), |config| config.trust = Trust::new([signer.public()]).unwrap());
    let same = InstallRequest {
        name: Some("p".parse().unwrap()),
        version: Some("1.0.0".parse().unwrap()),
        sha256: Some(report.sha256.try_into().unwrap()),
        ..request(&archive)
    };
    let error = strict.install(same.clone(), &CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("no signature"), "{error}");
    signer.sign(&archive, b"ED");
    strict.install(same, &CancellationToken::new()).await.unwrap();
}

#[tokio::test]
async fn an_older_signed_version_is_refused_unless_it_is_wanted() {
    let signer = Signer::new(1);
    let trust = || Trust::new([signer.public()]).unwrap();
    let site = Site::with(|config| config.trust = trust());
    let signed = |version: &str| {
        let mut manifest = super::manifest("p", version);
        manifest["hooks"] = serde_json::json!({ "install": [format!("touch {}", site.dir.path().join(version).display())] });
        let archive = site.archive_of(manifest, version);
        signer.sign(&archive, b"ED");
        archive
    };
    let hooks = |config: &mut longshore_exec::package::InstallConfig| {
        config.trust = trust();
        config.hooks = longshore_exec::package::HookRule::Run { limit: std::time::Duration::from_secs(20) };
    };
    for version in ["1.0.0-rc.1", "1.0.0", "1.1.0"] {
        site.install(&signed(version)).await.unwrap();
    }
    let name = "p".parse().unwrap();
    let refused = async |version: &str| {
        // As another process would, with nothing in its memory; and before anything of it runs.
        let again = super::installer(site.packages().root(), hooks);
        let trees = site.trees();
        let error = again.install(request(&signed(version)), &CancellationToken::new()).await.unwrap_err();
        assert!(matches!(&error, InstallError::Older { newest, .. } if newest.as_str() == "1.1.0"), "{error}");
        assert_eq!((error.step(), error.is_retryable(), site.trees()), ("verify", false, trees));
        assert!(!site.dir.path().join(version).exists(), "its hook did not run");
    };
    refused("1.0.9").await;
    refused("1.1.0-rc.1").await;
    site.install(&signed("1.1.0")).await.unwrap();
    site.installer.uninstall(&name, None, &CancellationToken::new()).await.unwrap();
    refused("1.0.0").await;
    // Who says so gets it, and the note stays.
    let wanted = super::installer(site.packages().root(), |config| (config.trust, config.downgrade) = (trust(), true));
    wanted.install(request(&signed("1.0.0")), &CancellationToken::new()).await.unwrap();
    refused("1.0.1").await;
    // Unsigned packages are of nobody's word, and so is their version.
    let anybody = super::installer(site.packages().root(), |_| {});
    anybody.install(request(&site.archive("p", "0.1.0", "x")), &CancellationToken::new()).await.unwrap();
    // A note that cannot be read is no leave.
    let note = site.packages().root().join(".store/newest.json");
    fs::write(&note, "{").unwrap();
    let error = site.install(&signed("2.0.0")).await.unwrap_err();
    assert!(matches!(error, InstallError::Store(_)), "{error}");
    // Installed before there was a note: what is there says it.
    fs::remove_file(&note).unwrap();
    wanted.install(request(&signed("1.1.0")), &CancellationToken::new()).await.unwrap();
    fs::remove_file(&note).unwrap();
    refused("1.0.2").await;
}

#[test]
fn what_is_no_key_is_refused() {
    for bad in ["", "RWQ", "untrusted comment: x", "RUnonsense!"] {
        assert!(Trust::new([bad]).is_err(), "{bad}");
    }
}
