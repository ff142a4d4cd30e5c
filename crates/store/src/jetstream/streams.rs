//! What every stream, bucket and shared consumer is like: its subjects, its bounds and what it is copied from. Making them is `setup.rs`.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, pull};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Republish, RetentionPolicy, Source, StorageType, SubjectTransform};
use longshore_model::Label;
use longshore_model::limits::DRAINS_KEPT;

use super::config::Storage;
use super::link::Link;
use crate::layout::Layout;

/// How long the broker remembers message ids: it absorbs repeats of one write, nothing more.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// How long the marker of an expired or removed heartbeat stays, for watchers that were away.
const MARKER_TTL: Duration = Duration::from_secs(60);
/// Pulls that may wait at once.
const PULLS_WAITING_MAX: i64 = 16_384;
/// How long a group's consumer stays when nobody asks for the group's work.
const GROUP_IDLE_MAX: Duration = Duration::from_secs(600);
/// Who waits for a turn: a quarter of a million jobs.
const TURN_BYTES_MAX: u64 = 64 << 20;

/// All of them, in the order in which they are made.
pub(super) fn all(link: &Link) -> [Config; 12] {
    // The ledger first: the work streams source from it.
    [
        queue(link),
        responses(link),
        work(link),
        inbox(link),
        turns(link),
        dead_letters(link),
        logs(link),
        audit(link),
        registry(link),
        states(link),
        facts(link),
        objects(link),
    ]
}

/// How agents share work: that of `_any`, or a group's. No back-off list: the broker would let its first step override `ack_wait`.
///
/// A group's goes when nobody has asked for a while: what waits is kept by the stream, and the next who asks makes it again.
pub(super) fn consumer(link: &Link, group: Option<&Label>) -> pull::Config {
    let settings = &link.config.consumer;
    pull::Config {
        durable_name: Some(consumer_name(link, group)),
        inactive_threshold: if group.is_some() { GROUP_IDLE_MAX.max(settings.ack_wait * 2) } else { Duration::ZERO },
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: settings.ack_wait,
        max_deliver: settings.max_deliver,
        max_ack_pending: settings.max_ack_pending,
        // A pull for every free slot of a large fleet; the server's own bound is 512.
        max_waiting: PULLS_WAITING_MAX,
        filter_subject: group.map_or_else(|| link.layout.any_work(), |group| link.layout.group_work(group)),
        replay_policy: if settings.replay_original { ReplayPolicy::Original } else { ReplayPolicy::Instant },
        ..pull::Config::default()
    }
}

/// Consumers' names take no dots.
pub(super) fn consumer_name(link: &Link, group: Option<&Label>) -> String {
    let settings = &link.config.consumer;
    group.map_or_else(
        || settings.queue_group.clone(),
        |group| format!("{}={}", settings.queue_group, group.to_string().replace([':', '.'], "=")),
    )
}

fn bucket(link: &Link, name: &str, max_age: Duration, max_bytes: u64) -> Config {
    Config {
        name: Layout::bucket_stream(name),
        subjects: vec![Layout::bucket_subjects(name)],
        max_messages_per_subject: 1,
        allow_rollup: true,
        deny_delete: true,
        // Reads that lead to a decision see what the leader has; see `Link::read_all`.
        allow_direct: true,
        ..base(link, max_age, max_bytes)
    }
}

fn base(link: &Link, max_age: Duration, max_bytes: u64) -> Config {
    Config {
        max_age,
        max_bytes: i64::try_from(max_bytes).unwrap_or(i64::MAX),
        // A full store refuses; it never drops what is unfinished.
        discard: DiscardPolicy::New,
        storage: match link.config.storage {
            Storage::File => StorageType::File,
            Storage::Memory => StorageType::Memory,
        },
        num_replicas: link.config.replicas,
        duplicate_window: DUPLICATE_WINDOW.min(if max_age.is_zero() { DUPLICATE_WINDOW } else { max_age }),
        ..Config::default()
    }
}

fn queue(link: &Link) -> Config {
    bucket(link, &link.layout.queue_bucket, link.config.kv.ttl, link.config.kv.max_bytes)
}

fn responses(link: &Link) -> Config {
    bucket(link, &link.layout.response_bucket, link.config.kv.ttl, link.config.kv.max_bytes)
}

/// A source for each transform: the broker writes all transforms of a source into the header of each message that comes from it.
fn sourced(link: &Link, transforms: Vec<(String, String)>) -> Option<Vec<Source>> {
    let of = |(source, destination)| Source {
        name: Layout::bucket_stream(&link.layout.queue_bucket),
        subject_transforms: vec![SubjectTransform { source, destination }],
        ..Source::default()
    };
    Some(transforms.into_iter().map(of).collect())
}

fn work(link: &Link) -> Config {
    let (source, destination) = link.layout.group_republish();
    Config {
        name: link.layout.work.clone(),
        subjects: link.layout.work_subjects(),
        retention: RetentionPolicy::WorkQueue,
        sources: sourced(link, link.layout.any_transforms()),
        republish: Some(Republish { source, destination, headers_only: true }),
        ..base(link, link.config.stream.max_age, link.config.stream.max_bytes)
    }
}

fn inbox(link: &Link) -> Config {
    let (source, destination) = link.layout.wake_republish();
    Config {
        sources: sourced(link, link.layout.inbox_transforms()),
        republish: Some(Republish { source, destination, headers_only: true }),
        ..bucket(link, &link.layout.inbox_bucket, link.config.stream.max_age, link.config.stream.max_bytes)
    }
}

/// Kept as long as the jobs that it tells of.
fn turns(link: &Link) -> Config {
    bucket(link, &link.layout.turn_bucket, link.config.kv.ttl, TURN_BYTES_MAX)
}

/// One letter a job. Kept as long as the ledger keeps the job, or longer: a letter that says that its job was redriven must not go first,
/// or the job would look as if nobody had seen to it.
fn dead_letters(link: &Link) -> Config {
    let (work, ledger) = (link.config.stream.max_age, link.config.kv.ttl);
    // Zero is for ever.
    let usual = if work.is_zero() || ledger.is_zero() { Duration::ZERO } else { work.max(ledger) };
    let settings = &link.config.dead_letters;
    Config {
        name: link.layout.dead_letters.clone(),
        subjects: vec![link.layout.dead_letter_subjects()],
        max_messages_per_subject: 1,
        ..base(link, settings.max_age.unwrap_or(usual), settings.max_bytes)
    }
}

fn logs(link: &Link) -> Config {
    Config {
        name: link.layout.logs.clone(),
        subjects: vec![link.layout.log_subjects()],
        // Old output makes room for new; a reader sees the hole as a gap.
        discard: DiscardPolicy::Old,
        allow_direct: true,
        // What is quick goes in batches that are stored in their order, or not at all.
        allow_atomic_publish: true,
        ..base(link, link.config.logs.max_age, link.config.logs.max_bytes)
    }
}

fn audit(link: &Link) -> Config {
    Config {
        name: link.layout.audit.clone(),
        subjects: vec![link.layout.audit_record()],
        // A trail that is full goes on: what is new says more than what is old.
        discard: DiscardPolicy::Old,
        allow_direct: true,
        ..base(link, link.config.audit.max_age, link.config.audit.max_bytes)
    }
}

fn registry(link: &Link) -> Config {
    Config {
        allow_message_ttl: true,
        subject_delete_marker_ttl: Some(MARKER_TTL),
        ..bucket(link, &link.layout.registry_bucket, Duration::ZERO, 64 << 20)
    }
}

fn states(link: &Link) -> Config {
    let (source, destination) = link.layout.state_republish();
    Config {
        max_messages_per_subject: i64::from(DRAINS_KEPT),
        republish: Some(Republish { source, destination, headers_only: true }),
        ..bucket(link, &link.layout.state_bucket, Duration::ZERO, 64 << 20)
    }
}

/// Written again before they are too old, for as long as their agent lives.
fn facts(link: &Link) -> Config {
    bucket(link, &link.layout.facts_bucket, link.config.facts.ttl, link.config.facts.max_bytes)
}

/// As the client's object store makes it.
fn objects(link: &Link) -> Config {
    Config {
        name: link.layout.object_stream(),
        subjects: link.layout.object_subjects(),
        allow_rollup: true,
        allow_direct: true,
        ..base(link, link.config.objects.max_age, link.config.objects.max_bytes)
    }
}
