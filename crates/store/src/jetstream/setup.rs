//! Making every stream and bucket, and checking that what is there is what we rely on.

use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, Info, PersistenceMode};
use longshore_model::unit::ByteSize;
use tokio::time::Instant;

use super::link::Link;
use super::streams;
use crate::Error;

const DOING: &str = "setting up its streams";
/// The broker's code for "insufficient storage resources available".
const NO_ROOM: u64 = 10047;
/// The broker's codes for "replicas > 1 not supported in non-clustered mode" and "no suitable peers for placement".
const NO_COPIES: [u64; 2] = [10074, 10005];
/// How long a starting broker may take until its streams answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between looks at whether it does.
const PAUSE: Duration = Duration::from_millis(50);
/// Between looks at whether it copies: it begins to a tenth or two of a second after a stream was made.
const COPIES_PAUSE: Duration = Duration::from_millis(10);

/// Makes what is missing, adapts bounds to the configuration, and refuses what differs where it matters.
pub(super) async fn ensure(link: &Link) -> Result<(), Error> {
    let mut silent = Vec::new();
    for wanted in streams::all(link) {
        let info = ensure_stream(link, &wanted).await?;
        if !copies_all(&info) {
            silent.push(wanted.name);
        }
    }
    for name in silent {
        copying(link, &name).await?;
    }
    Ok(())
}

/// Whether the broker follows everything that a stream is copied from.
fn copies_all(info: &Info) -> bool {
    info.config.sources.iter().flatten().count() == info.sources.iter().filter(|source| source.active.is_some()).count()
}

/// Waits until the broker follows everything that a stream is copied from. Before that nothing may be stored there: a source that is
/// followed for the first time after others have brought something, and some of that was taken, begins at the time of the newest of it and
/// passes over what was stored before (nats-server, `trySetupSourceConsumer`). What restarts of the broker leave out in this way is
/// announced by a reconciler.
async fn copying(link: &Link, name: &str) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    let mut n_followed = 0;
    while Instant::now() < deadline {
        // A broker that does not answer is asked again.
        if let Ok(stream) = link.context.get_stream(name).await {
            let info = stream.cached_info();
            if copies_all(info) {
                return Ok(());
            }
            n_followed = info.sources.iter().filter(|source| source.active.is_some()).count();
        }
        tokio::time::sleep(COPIES_PAUSE).await;
    }
    Err(Error::Layout {
        store: name.to_owned(),
        problem: format!(
            "the broker copies from {n_followed} of its sources only, {PATIENCE:?} after it was asked to: its log says why; \
             start the broker again if it is alone, or look whether its cluster has a leader for every stream"
        ),
    })
}

async fn ensure_stream(link: &Link, wanted: &Config) -> Result<Info, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match try_ensure(link, wanted).await {
            Err(fault) if fault.is_retryable() && Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            settled => return settled,
        }
    }
}

async fn try_ensure(link: &Link, wanted: &Config) -> Result<Info, Error> {
    let found = match link.context.get_stream(&wanted.name).await {
        Ok(stream) => stream.cached_info().clone(),
        Err(fault) => match fault.kind() {
            GetStreamErrorKind::JetStream(reason) if reason.error_code() == async_nats::jetstream::ErrorCode::STREAM_NOT_FOUND => {
                create(link, wanted).await?
            }
            GetStreamErrorKind::JetStream(_)
            | GetStreamErrorKind::EmptyName
            | GetStreamErrorKind::InvalidStreamName
            | GetStreamErrorKind::Request => {
                return Err(Error::unavailable(DOING, fault));
            }
        },
    };
    check(wanted, &found.config)?;
    if adaptable(wanted) == adaptable(&found.config) {
        return Ok(found);
    }
    let adapted = Config {
        max_age: wanted.max_age,
        max_bytes: wanted.max_bytes,
        num_replicas: wanted.num_replicas,
        duplicate_window: wanted.duplicate_window,
        allow_atomic_publish: wanted.allow_atomic_publish,
        ..found.config
    };
    let info = link.context.update_stream(adapted).await.map_err(|fault| match fault.kind() {
        CreateStreamErrorKind::TimedOut
        | CreateStreamErrorKind::JetStreamUnavailable
        | CreateStreamErrorKind::ResponseParse
        | CreateStreamErrorKind::Response => Error::unavailable(DOING, fault),
        CreateStreamErrorKind::JetStream(_)
        | CreateStreamErrorKind::EmptyStreamName
        | CreateStreamErrorKind::InvalidStreamName
        | CreateStreamErrorKind::DomainAndExternalSet
        | CreateStreamErrorKind::NotFound => Error::Layout {
            store: wanted.name.clone(),
            problem: format!("its bounds could not be changed to the configuration's: {fault}"),
        },
    })?;
    tracing::info!(stream = %wanted.name, "changed a stream's bounds to the configuration's");
    check(wanted, &info.config)?;
    Ok(info)
}

async fn create(link: &Link, wanted: &Config) -> Result<Info, Error> {
    match link.context.create_stream(wanted.clone()).await {
        Ok(stream) => Ok(stream.cached_info().clone()),
        Err(fault) => match fault.kind() {
            CreateStreamErrorKind::TimedOut
            | CreateStreamErrorKind::JetStreamUnavailable
            | CreateStreamErrorKind::ResponseParse
            | CreateStreamErrorKind::Response => Err(Error::unavailable(DOING, fault)),
            // Most likely another process made it between our look and our try; looking again tells.
            CreateStreamErrorKind::JetStream(reason) if reason.error_code() == async_nats::jetstream::ErrorCode::STREAM_NAME_EXIST => {
                Err(Error::unavailable(DOING, fault))
            }
            CreateStreamErrorKind::JetStream(reason) if NO_COPIES.contains(&reason.error_code().0) => Err(Error::Layout {
                store: wanted.name.clone(),
                problem: format!(
                    "the broker cannot keep {} copies of it: set `nats.stream.replicas` to the number of its servers or less",
                    wanted.num_replicas
                ),
            }),
            CreateStreamErrorKind::JetStream(reason) if reason.error_code().0 == NO_ROOM => Err(Error::Layout {
                store: wanted.name.clone(),
                problem: format!(
                    "the broker has not as much room left as it must set aside for it ({}): lower the `max_bytes` of `nats.objects` and the \
                     others, or let the broker store more (`max_file_store` in its `jetstream` settings)",
                    ByteSize(u64::try_from(wanted.max_bytes).unwrap_or_default())
                ),
            }),
            CreateStreamErrorKind::JetStream(_)
            | CreateStreamErrorKind::EmptyStreamName
            | CreateStreamErrorKind::InvalidStreamName
            | CreateStreamErrorKind::DomainAndExternalSet
            | CreateStreamErrorKind::NotFound => {
                Err(Error::Layout { store: wanted.name.clone(), problem: format!("it could not be made: {fault}") })
            }
        },
    }
}

/// What may be changed on a living stream.
fn adaptable(config: &Config) -> (Duration, i64, usize, bool) {
    (config.max_age, config.max_bytes, config.num_replicas, config.allow_atomic_publish)
}

/// What promises rest on.
fn check(wanted: &Config, found: &Config) -> Result<(), Error> {
    let pairs = [
        ("its retention", format!("{:?}", wanted.retention), format!("{:?}", found.retention)),
        ("its storage", format!("{:?}", wanted.storage), format!("{:?}", found.storage)),
        ("its discard policy", format!("{:?}", wanted.discard), format!("{:?}", found.discard)),
        ("its history per subject", wanted.max_messages_per_subject.max(0).to_string(), found.max_messages_per_subject.max(0).to_string()),
        ("its subjects", format!("{:?}", wanted.subjects), format!("{:?}", found.subjects)),
        ("its source", transforms(wanted), transforms(found)),
        ("what it republishes", format!("{:?}", wanted.republish), format!("{:?}", found.republish)),
        ("its leave to have messages that expire", wanted.allow_message_ttl.to_string(), found.allow_message_ttl.to_string()),
        ("how long it marks what has expired", markers(wanted), markers(found)),
        ("its leave to replace what is under a subject", wanted.allow_rollup.to_string(), found.allow_rollup.to_string()),
        ("its refusal to be purged", wanted.deny_purge.to_string(), found.deny_purge.to_string()),
        ("its bound on messages", bound(wanted.max_messages), bound(found.max_messages)),
        ("its bound on a message's bytes", bound(wanted.max_message_size.into()), bound(found.max_message_size.into())),
        ("how it renames what it takes", format!("{:?}", wanted.subject_transform), format!("{:?}", found.subject_transform)),
        ("its silence on what it has stored", wanted.no_ack.to_string(), found.no_ack.to_string()),
    ];
    for (what, wanted_value, found_value) in pairs {
        if wanted_value != found_value {
            let problem = format!(
                "{what} is {found_value}, but must be {wanted_value}; another program may own this name: set `nats.server.namespace` or another name"
            );
            return Err(Error::Layout { store: wanted.name.clone(), problem });
        }
    }
    if found.persist_mode == Some(PersistenceMode::Async) {
        return Err(Error::Layout {
            store: wanted.name.clone(),
            problem: "its persist mode is async, which loses acknowledged writes".into(),
        });
    }
    Ok(())
}

/// How long the markers of messages that expired stay; without them nobody is told.
fn markers(config: &Config) -> String {
    format!("{:?}", config.subject_delete_marker_ttl.unwrap_or_default())
}

fn bound(max: i64) -> String {
    if max > 0 { max.to_string() } else { "none".to_owned() }
}

fn transforms(config: &Config) -> String {
    let sources = config.sources.iter().flatten();
    sources
        .flat_map(|source| source.subject_transforms.iter().map(move |t| format!("{} {}→{};", source.name, t.source, t.destination)))
        .collect()
}
