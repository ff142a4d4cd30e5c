//! The keys that keep jobs safe from whoever reads or writes the broker, as files of a directory and as settings.
//!
//! `secrets.key` opens secrets and belongs on agents, `secrets.pub` seals them and belongs on controllers; `jobs.key` signs jobs and
//! belongs on controllers, `jobs.pub` names who is trusted and belongs on agents. Lists have the newest key first.

use std::io;
use std::path::Path;

use longshore_agent::worker::JobKeys;
use longshore_seal::{JobSigner, KeyError, OpeningKeys, SealingKey, TrustedKeys, generate_opening_key, generate_signing_key};

use super::data::unusable;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::private;
use crate::settings::{Secret, Settings};

const OPENING: &str = "secrets.key";
const SEALING: &str = "secrets.pub";
const SIGNING: &str = "jobs.key";
const TRUSTED: &str = "jobs.pub";
/// All four files.
pub(crate) const FILES: [&str; 4] = [OPENING, SEALING, SIGNING, TRUSTED];

/// Makes those keys of a host that does everything that its directory has not. Where the settings name one key of a pair, that pair is theirs.
pub(crate) fn make_for(settings: &Settings, dir: &Path) -> Result<(), Failure> {
    let (controller, agent) = (&settings.controller.jobs, &settings.agent.jobs);
    if controller.sealing_key.is_none() && agent.opening_keys.is_none() {
        make_sealing(dir)?;
    }
    if controller.signing_key.is_none() && agent.trusted_keys.is_none() {
        make_signing(dir)?;
    }
    Ok(())
}

/// Makes those keys that the directory has not, and writes their public halves beside them. Safe to repeat.
pub(crate) fn make(dir: &Path) -> Result<(), Failure> {
    make_sealing(dir)?;
    make_signing(dir)
}

fn make_sealing(dir: &Path) -> Result<(), Failure> {
    let opening = made(dir, OPENING, generate_opening_key)?;
    let sealing = OpeningKeys::parse(&opening).map_err(damaged(dir, OPENING))?.sealing_key();
    replace(dir, SEALING, &format!("{sealing}\n"))
}

fn make_signing(dir: &Path) -> Result<(), Failure> {
    let trusted = JobSigner::parse(&made(dir, SIGNING, generate_signing_key)?).map_err(damaged(dir, SIGNING))?.trusted_key();
    // Those before it signed what may still wait.
    let older = read(dir, TRUSTED)?.unwrap_or_default();
    let older: String = older.lines().filter(|line| *line != trusted).map(|line| format!("{line}\n")).collect();
    replace(dir, TRUSTED, &format!("{trusted}\n{older}"))
}

fn made(dir: &Path, name: &str, key: fn() -> String) -> Result<String, Failure> {
    let path = dir.join(name);
    let bytes = private::read_or_make(&path, || Ok(format!("{}\n", key()).into_bytes())).map_err(|error| unusable(&path, &error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Makes new keys in a directory that has some, and keeps the old ones where they are still needed: to open what waits, and to trust what
/// was signed.
pub(crate) fn rotate(dir: &Path) -> Result<(), Failure> {
    let Some(older) = read(dir, OPENING)? else {
        return Err(
            Failure::new(Exit::NotFound, format!("there are no keys in {}", dir.display())).hint("longshore key generate --out DIR")
        );
    };
    OpeningKeys::parse(&older).map_err(damaged(dir, OPENING))?;
    replace(dir, OPENING, &format!("{}\n{older}", generate_opening_key()))?;
    replace(dir, SIGNING, &format!("{}\n", generate_signing_key()))?;
    make(dir)
}

/// What a controller seals and signs with: the settings', or those of its data directory, where there are any.
pub(crate) fn of_controller(settings: &Settings, dir: &Path) -> Result<(Option<SealingKey>, Option<JobSigner>), Failure> {
    let keys = &settings.controller.jobs;
    let sealing = match &keys.sealing_key {
        Some(text) => Some(SealingKey::parse(text).map_err(unfit("controller.jobs.sealing_key"))?),
        None => read(dir, SEALING)?.map(|text| SealingKey::parse(&text).map_err(damaged(dir, SEALING))).transpose()?,
    };
    let signer = match secret("controller.jobs.signing_key", keys.signing_key.as_ref())? {
        Some(text) => Some(JobSigner::parse(&text).map_err(unfit("controller.jobs.signing_key"))?),
        None => read(dir, SIGNING)?.map(|text| JobSigner::parse(&text).map_err(damaged(dir, SIGNING))).transpose()?,
    };
    Ok((sealing, signer))
}

/// What an agent opens secrets with and whom it trusts: the settings', or those of its data directory, where there are any.
pub(crate) fn of_agent(settings: &Settings, dir: &Path) -> Result<(Option<OpeningKeys>, Option<TrustedKeys>), Failure> {
    let keys = &settings.agent.jobs;
    let opening = match secret("agent.jobs.opening_keys", keys.opening_keys.as_ref())? {
        Some(text) => Some(OpeningKeys::parse(&text).map_err(unfit("agent.jobs.opening_keys"))?),
        None => read(dir, OPENING)?.map(|text| OpeningKeys::parse(&text).map_err(damaged(dir, OPENING))).transpose()?,
    };
    let trusted = match &keys.trusted_keys {
        Some(text) => Some(TrustedKeys::parse(&text.replace(',', "\n")).map_err(unfit("agent.jobs.trusted_keys"))?),
        None => read(dir, TRUSTED)?.map(|text| TrustedKeys::parse(&text).map_err(damaged(dir, TRUSTED))).transpose()?,
    };
    Ok((opening, trusted))
}

/// What a worker opens secrets with and whom it trusts: the files that its settings name.
pub(crate) fn of_worker(opening: Option<&Path>, trusted: Option<&Path>) -> Result<JobKeys, Failure> {
    let text = |path: &Path| std::fs::read_to_string(path).map_err(|error| unusable(path, &error));
    let opening = opening.map(|path| OpeningKeys::parse(&text(path)?).map_err(unfit("job_opening_keys_file"))).transpose()?;
    let trusted = trusted.map(|path| TrustedKeys::parse(&text(path)?).map_err(unfit("job_trusted_keys_file"))).transpose()?;
    Ok(JobKeys { opening, trusted })
}

fn secret(key: &'static str, secret: Option<&Secret>) -> Result<Option<String>, Failure> {
    let read =
        |secret: &Secret| secret.read().map_err(|error| Failure::new(Exit::Invalid, format!("{key} cannot be read")).caused_by(&error));
    secret.map(read).transpose()
}

fn read(dir: &Path, name: &str) -> Result<Option<String>, Failure> {
    let path = dir.join(name);
    match std::fs::read_to_string(&path) {
        // An empty one is what a crash left between making and writing.
        Ok(text) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(&path, &error)),
    }
}

fn replace(dir: &Path, name: &str, text: &str) -> Result<(), Failure> {
    let path = dir.join(name);
    if std::fs::read_to_string(&path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    private::replace_file(&path, text.as_bytes()).map_err(|error| unusable(&path, &error))
}

fn damaged(dir: &Path, name: &'static str) -> impl FnOnce(KeyError) -> Failure {
    let path = dir.join(name);
    move |error| Failure::new(Exit::Invalid, format!("{} is damaged", path.display())).because(error.to_string())
}

fn unfit(key: &'static str) -> impl FnOnce(KeyError) -> Failure {
    move |error| Failure::new(Exit::Invalid, format!("{key} cannot be used")).because(error.to_string()).code("configuration")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use longshore_model::job::Job;
    use longshore_model::operation::Call;
    use longshore_model::wire::record::Definition;
    use longshore_testkit::sample;

    use super::*;

    /// A job with a secret, sealed and signed as the controller of this directory would.
    fn stored(dir: &Path) -> Definition {
        let (sealing, signer) = of_controller(&Settings::default(), dir).unwrap();
        let args = serde_json::json!({"command": "x", "secrets": {"A": "hunter2"}});
        let mut job =
            Job { call: Call::parse("command.shell", args).unwrap(), ..sample::shell_any(sample::job_id(1), jiff::Timestamp::now(), "x") };
        sealing.unwrap().seal(job.id, &mut job.call).unwrap();
        let mut definition = Definition::from(&job);
        signer.unwrap().sign(&mut definition);
        definition
    }

    fn is_taken(dir: &Path, definition: &Definition) -> (bool, bool) {
        let (opening, trusted) = of_agent(&Settings::default(), dir).unwrap();
        (opening.unwrap().open(definition).is_ok(), trusted.unwrap().check(definition, sample::agent_id(1), &[]).is_ok())
    }

    #[test]
    fn keys_are_made_once_are_private_and_can_be_changed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(of_controller(&Settings::default(), dir.path()), Ok((None, None))));
        assert!(matches!(of_agent(&Settings::default(), dir.path()), Ok((None, None))));
        assert_eq!(rotate(dir.path()).unwrap_err().exit, Exit::NotFound);
        make(dir.path()).unwrap();
        let read = || FILES.map(|name| std::fs::read_to_string(dir.path().join(name)).unwrap());
        let first = read();
        make(dir.path()).unwrap();
        assert_eq!(read(), first);
        for name in FILES {
            assert_eq!(std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        let before = stored(dir.path());
        assert_eq!(is_taken(dir.path(), &before), (true, true));
        rotate(dir.path()).unwrap();
        let after = stored(dir.path());
        assert_ne!(before.signature.as_ref().unwrap().key, after.signature.as_ref().unwrap().key);
        assert_eq!((is_taken(dir.path(), &before), is_taken(dir.path(), &after)), ((true, true), (true, true)));
    }

    #[test]
    fn settings_say_where_keys_are_and_a_key_of_the_wrong_kind_is_refused() {
        let (dir, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        make(dir.path()).unwrap();
        let text = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap().trim().to_owned();
        let file = |name: &str| Some(Secret::File(dir.path().join(name)));
        let mut settings = Settings::default();
        settings.controller.jobs.sealing_key = Some(text(SEALING));
        settings.controller.jobs.signing_key = file(SIGNING);
        settings.agent.jobs.opening_keys = file(OPENING);
        settings.agent.jobs.trusted_keys = Some(format!("{},{}", text(TRUSTED), text(TRUSTED)));
        let definition = stored(dir.path());
        assert!(matches!(of_controller(&settings, empty.path()), Ok((Some(_), Some(_)))));
        let (opening, trusted) = of_agent(&settings, empty.path()).unwrap();
        assert!(opening.unwrap().open(&definition).is_ok() && trusted.unwrap().check(&definition, sample::agent_id(1), &[]).is_ok());

        settings.controller.jobs.sealing_key = Some(text(OPENING));
        settings.agent.jobs.opening_keys = file(SEALING);
        let refused = of_controller(&settings, empty.path()).unwrap_err().text();
        assert!(refused.contains("longshore-seal-") && !refused.contains(&text(OPENING)), "{refused}");
        assert!(of_agent(&settings, empty.path()).is_err());
        // A pair that the settings name is not made a second time, which nobody would know.
        make_for(&settings, empty.path()).unwrap();
        assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
        make_for(&Settings::default(), empty.path()).unwrap();
        assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), FILES.len());
    }
}
